//! A stage's standard output: a buffer for small writes, none for large ones.

use std::{
    cell::RefCell,
    fmt,
    io::{self, Write},
};

use crate::{
    bindings::wasi::cli::types::ErrorCode,
    input::CHUNK,
    raw::{self, Moved},
};

/// A write of at least this many bytes goes out directly from the caller's slice.
const DIRECT: usize = 16 << 10;

/// A stage's standard output.
///
/// Small writes gather in a buffer of 64 KiB, which goes out when it is full, when the input has to wait, at
/// [`flush`](Write::flush) and at the end; large ones go out directly. There is no need for a `BufWriter`.
pub struct Output(Sink);

enum Sink {
    /// The process's stream, in `STDOUT`.
    Stdout,
    Vec(Vec<u8>),
}

/// The state of the process's output, where a waiting input and an early exit find it.
struct Stdout {
    stream: u32,
    /// What says how writing ended, until that is known.
    written: Option<u32>,
    buffer: Vec<u8>,
    closed: bool,
    report_broken_pipe: bool,
    /// A failure that came up where nobody could be told; the next write or the end tells it.
    failure: Option<io::Error>,
}

thread_local! {
    static STDOUT: RefCell<Option<Stdout>> = const { RefCell::new(None) };
}

impl Output {
    pub(crate) fn stdout() -> Self {
        // The handles are dropped by `finish`.
        let raw::Opened { stream, ended } = raw::open_stdout();
        STDOUT.set(Some(Stdout {
            stream,
            written: Some(ended),
            buffer: Vec::new(),
            closed: false,
            report_broken_pipe: false,
            failure: None,
        }));
        Self(Sink::Stdout)
    }

    /// An output that keeps what is written, for tests that run a stage's function natively.
    pub fn to_vec() -> Self {
        Self(Sink::Vec(Vec::new()))
    }

    /// What was written to an output made by [`to_vec`](Output::to_vec).
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Sink::Vec(bytes) => bytes,
            Sink::Stdout => Vec::new(),
        }
    }

    /// Makes a write to an output whose reader is gone an error of kind `BrokenPipe`, instead of a quiet stop.
    pub fn report_broken_pipe(&mut self) {
        with_stdout(|stdout| stdout.report_broken_pipe = true);
    }

    /// Writes out the buffer, closes the stream and waits until everything is handed over.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Some(mut stdout) = STDOUT.take() else { return Ok(()) };
        let flushed = stdout.flush();
        raw::drop_stdout(stdout.stream);
        let written = stdout.written.take().map(raw::stdout_ended);
        match (flushed, written) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(Err(ErrorCode::Pipe))) if !stdout.report_broken_pipe => Ok(()),
            (Ok(()), Some(Err(code))) => Err(raw::error_of(code)),
            (Ok(()), _) => Ok(()),
        }
    }
}

impl Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.failure.is_some() || self.buffer.len() + bytes.len() > CHUNK {
            self.flush()?;
        }
        if bytes.len() >= DIRECT && self.buffer.is_empty() {
            return self.put(bytes);
        }
        if self.buffer.len() + bytes.len() > self.buffer.capacity() {
            self.grow(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// Makes room: a little for who writes a little, all for everybody else. What is not touched costs nothing when the stage starts.
    #[cold]
    fn grow(&mut self, more: usize) {
        const LITTLE: usize = 4 << 10;
        let room = if self.buffer.len() + more <= LITTLE { LITTLE } else { CHUNK };
        self.buffer.reserve_exact(room - self.buffer.len());
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let put = self.put(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        put
    }

    /// Hands on all of `bytes`, from where they are.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            if self.closed {
                return self.broken_pipe();
            }
            match raw::write_stdout(self.stream, &bytes[sent..]) {
                Moved::Bytes(n) => sent += n,
                Moved::Dropped(n) => {
                    sent += n;
                    self.closed = true;
                }
            }
        }
        Ok(())
    }

    fn broken_pipe(&mut self) -> io::Result<()> {
        let code = self.written.take().map(raw::stdout_ended);
        if let Some(Err(code @ (ErrorCode::Io | ErrorCode::IllegalByteSequence))) = code {
            return Err(raw::error_of(code));
        }
        if !self.report_broken_pipe {
            // As SIGPIPE would: nobody wants more of this stage's output.
            crate::process::exit_with_code(0);
        }
        Err(io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

fn with_stdout<T>(act: impl FnOnce(&mut Stdout) -> T) -> Option<T> {
    STDOUT.with_borrow_mut(|stdout| stdout.as_mut().map(act))
}

/// Hands on what was written so far, because the input is about to wait.
pub(crate) fn flush_before_wait() {
    with_stdout(|stdout| stdout.failure = stdout.flush().err());
}

/// Hands on what was written, because the stage ends without returning.
pub(crate) fn flush_at_exit() {
    if let Some(mut stdout) = STDOUT.take() {
        let _ = stdout.flush();
        raw::drop_stdout(stdout.stream);
        let _ = stdout.written.take().map(raw::stdout_ended);
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Sink::Stdout => with_stdout(|stdout| stdout.write(bytes)).unwrap_or(Ok(())),
            Sink::Vec(vec) => {
                vec.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Sink::Stdout => with_stdout(Stdout::flush).unwrap_or(Ok(())),
            Sink::Vec(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}
