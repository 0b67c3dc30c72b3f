//! A stage's standard input: chunks and lines that lend one buffer.

use std::{
    fmt,
    io::{self, BufRead, Read},
};

use crate::{
    Output, output,
    position::Position,
    raw::{self, Moved},
};

/// How much one read asks for, in bytes.
pub(crate) const CHUNK: usize = 64 << 10;

/// A line of more bytes is gathered in pieces of this size.
const LONG: usize = 8 << 20;

/// A stage's standard input.
///
/// Reads like a [`BufRead`], and lends its buffer by [`next_chunk`](Input::next_chunk),
/// [`next_line`](Input::next_line) and [`next_lines`](Input::next_lines), which allocate nothing per call. The buffer
/// is 64 KiB and grows for lines that are longer; a line of more than 8 MiB needs twice its size for a moment. While a
/// read has to wait, what the stage has written so far is handed on.
pub struct Input {
    source: Source,
    buffer: Vec<u8>,
    /// Where the bytes begin that were not consumed yet.
    start: usize,
    ended: bool,
    /// The most that one read asks for.
    read_at_most: usize,
    /// The last line, if it was too long for the buffer.
    long: Vec<u8>,
    position: Position,
}

enum Source {
    /// The handles of the stream and of what says how it ended, until that has.
    Stdin(u32, Option<u32>),
    Reader(Box<dyn Read>),
}

impl Input {
    pub(crate) fn stdin() -> Self {
        let raw::Opened { stream, ended } = raw::open_stdin();
        Self::new(Source::Stdin(stream, Some(ended)))
    }

    /// An input that reads from `reader`, for tests that run a stage's function natively.
    pub fn from_reader(reader: impl Read + 'static) -> Self {
        Self::new(Source::Reader(Box::new(reader)))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            buffer: Vec::with_capacity(CHUNK),
            start: 0,
            ended: false,
            read_at_most: usize::MAX,
            long: Vec::new(),
            position: Position::new(),
        }
    }

    /// Bounds how many bytes one read asks for from now on. A stage that stops early asks for no more than it needs, so
    /// that the rest is left for whoever reads next. At least 1; default: the buffer's size.
    pub fn read_at_most(&mut self, bytes: usize) {
        self.read_at_most = bytes.max(1);
    }

    /// The next bytes, as many as one read gave: never empty, `None` at the end.
    ///
    /// # Errors
    ///
    /// Whatever ended the input other than its end.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        if self.start == self.buffer.len() && !self.fill()? {
            return Ok(None);
        }
        let start = std::mem::replace(&mut self.start, self.buffer.len());
        self.position.hand(&self.buffer, start);
        Ok(Some(&self.buffer[start..]))
    }

    /// The next line with its `\n` at the end, which only the last one may lack; `None` at the end of the input. For lines without
    /// their ends see [`next_line_trimmed`](Self::next_line_trimmed).
    ///
    /// # Errors
    ///
    /// Whatever ended the input other than its end.
    #[inline]
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        let start = self.start;
        if self.long.is_empty()
            && let Some(newline) = memchr::memchr(b'\n', &self.buffer[start..])
        {
            self.position.hand(&self.buffer, start);
            self.start += newline + 1;
            self.position.line(self.start, true);
            return Ok(Some(&self.buffer[start..self.start]));
        }
        self.gather_line()
    }

    /// The next line without its `\n` or `\r\n`; `None` at the end. Of a last line that has no end it is all.
    ///
    /// # Errors
    ///
    /// Whatever ended the input other than its end.
    #[inline]
    pub fn next_line_trimmed(&mut self) -> io::Result<Option<&[u8]>> {
        let trimmed = |line: &'_ [u8]| line.len() - line.ends_with(b"\n") as usize - line.ends_with(b"\r\n") as usize;
        Ok(self.next_line()?.map(|line| &line[..trimmed(line)]))
    }

    /// The next lines with their `\n`, as many as are there without waiting for more, and at least one; only the last
    /// line of all may lack its `\n`. `None` at the end. For a stage that looks at many lines at once; a panic's report
    /// then says where the first of them begins.
    ///
    /// # Errors
    ///
    /// Whatever ended the input other than its end.
    pub fn next_lines(&mut self) -> io::Result<Option<&[u8]>> {
        let start = self.start;
        if self.long.is_empty()
            && let Some(newline) = memchr::memrchr(b'\n', &self.buffer[start..])
        {
            self.position.hand(&self.buffer, start);
            self.start += newline + 1;
            return Ok(Some(&self.buffer[start..self.start]));
        }
        self.gather_line()
    }

    /// The next line, of which the buffer holds no end yet or whose predecessor was too long for it.
    #[inline(never)]
    fn gather_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.long = Vec::new();
        self.position.hand(&self.buffer, self.start);
        let mut pieces = Vec::new();
        let mut searched = 0;
        loop {
            let rest = &self.buffer[self.start..];
            let end = match memchr::memchr(b'\n', &rest[searched..]) {
                Some(newline) => searched + newline + 1,
                None => {
                    searched = rest.len();
                    if self.start == 0 && searched == self.buffer.capacity() && searched >= LONG {
                        // Growing further would need three times the line for a moment; in pieces it is twice.
                        self.position.line(searched, false);
                        self.position.forget(&self.buffer, searched);
                        pieces.push(std::mem::replace(&mut self.buffer, Vec::with_capacity(LONG)));
                        searched = 0;
                    }
                    if self.fill()? {
                        continue;
                    }
                    searched
                }
            };
            let start = self.start;
            self.start += end;
            self.position.line(self.start, self.buffer[start..self.start].last() == Some(&b'\n'));
            if !pieces.is_empty() {
                self.long.reserve_exact(pieces.iter().map(Vec::len).sum::<usize>() + end);
                pieces.drain(..).for_each(|piece| self.long.extend_from_slice(&piece));
                self.long.extend_from_slice(&self.buffer[start..start + end]);
                return Ok(Some(&self.long));
            }
            return Ok((end > 0).then_some(&self.buffer[start..start + end]));
        }
    }

    /// Copies all that is left to `output`, and returns how many bytes that was.
    ///
    /// # Errors
    ///
    /// Whatever ended the input other than its end, or the output.
    pub fn copy_to(&mut self, output: &mut Output) -> io::Result<u64> {
        let mut copied = 0;
        self.position.stop_counting();
        while let Some(chunk) = self.next_chunk()? {
            io::Write::write_all(output, chunk)?;
            copied += chunk.len() as u64;
        }
        Ok(copied)
    }

    /// Reads more behind what is not consumed yet. `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.start == self.buffer.len() {
            self.position.forget(&self.buffer, self.start);
            self.buffer.clear();
            self.start = 0;
        } else if self.buffer.len() == self.buffer.capacity() {
            // What is left of a line moves to the front; a line that fills the whole buffer makes it grow.
            self.position.forget(&self.buffer, self.start);
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.buffer.len() > self.buffer.capacity() / 2 {
                self.buffer.reserve_exact(self.buffer.capacity());
            }
        }
        match &mut self.source {
            Source::Stdin(stream, how) => {
                match raw::read_stdin(*stream, &mut self.buffer, self.read_at_most, output::flush_before_wait) {
                    Moved::Bytes(_) => Ok(true),
                    Moved::Dropped(n) => {
                        self.ended = true;
                        if let Some(Err(code)) = how.take().map(raw::stdin_ended) {
                            return Err(raw::error_of(code));
                        }
                        Ok(n > 0)
                    }
                }
            }
            Source::Reader(reader) => {
                let read = reader
                    .take((self.buffer.capacity() - self.buffer.len()).min(self.read_at_most) as u64)
                    .read_to_end(&mut self.buffer)?;
                self.ended = read == 0;
                Ok(read > 0)
            }
        }
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(into.len());
        into[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.buffer.len() {
            self.fill()?;
        }
        self.position.hand(&self.buffer, self.start);
        Ok(&self.buffer[self.start..])
    }

    fn consume(&mut self, n: usize) {
        self.start = self.buffer.len().min(self.start + n);
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        if let Source::Stdin(stream, how) = self.source {
            raw::drop_stdin(stream);
            if let Some(how) = how {
                raw::forget_stdin_end(how);
            }
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("ended", &self.ended).finish_non_exhaustive()
    }
}
