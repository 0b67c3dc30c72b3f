//! The streams of an asynchronous stage.
//!
//! ```no_run
//! use stagehost_guest::{asynchronous::{Input, Output}, stage};
//!
//! async fn run(input: &mut Input, output: &mut Output) -> std::io::Result<()> {
//!     while let Some(chunk) = input.next_chunk().await? {
//!         output.write_all(chunk).await?;
//!     }
//!     Ok(())
//! }
//!
//! stage!(async run);
//! ```

use std::{fmt, io};

use wit_bindgen::{FutureReader, StreamReader, StreamResult, StreamWriter, block_on};

use crate::{
    Outcome,
    bindings::{
        wasi::cli::{stdin, stdout, types::ErrorCode},
        wit_stream,
    },
    input::CHUNK,
    outcome,
    position::Position,
    raw,
};

/// An asynchronous stage's standard input.
pub struct Input {
    stream: StreamReader<u8>,
    ended_with: Option<FutureReader<Result<(), ErrorCode>>>,
    buffer: Vec<u8>,
    ended: bool,
    position: Position,
}

/// An asynchronous stage's standard output. It has no buffer: each write is handed on.
pub struct Output {
    stream: StreamWriter<u8>,
    written: Option<FutureReader<Result<(), ErrorCode>>>,
    spare: Vec<u8>,
    report_broken_pipe: bool,
}

impl Input {
    /// The next bytes, as many as one read gave: never empty, `None` at the end.
    ///
    /// # Errors
    ///
    /// Whatever ended the input other than its end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may lose the bytes of the read under way.
    pub async fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        if self.ended {
            return Ok(None);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        self.position.forget(&buffer, buffer.len());
        buffer.clear();
        buffer.reserve(CHUNK);
        let (result, buffer) = self.stream.read(buffer).await;
        self.buffer = buffer;
        self.position.hand(&self.buffer, 0);
        if result == StreamResult::Dropped || result == StreamResult::Cancelled {
            self.ended = true;
            if let Some(ended_with) = self.ended_with.take() {
                ended_with.await.map_err(raw::error_of)?;
            }
        }
        Ok((!self.buffer.is_empty()).then_some(&self.buffer))
    }
}

impl Output {
    /// Hands on all of `bytes`.
    ///
    /// # Errors
    ///
    /// Whatever closed the output; a reader that is gone stops the stage quietly instead, unless it asked to see that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may hand on a part of `bytes`.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.spare);
        buffer.clear();
        buffer.extend_from_slice(bytes);
        let left = self.stream.write_all(buffer).await;
        if !left.is_empty() {
            if let Some(written) = self.written.take()
                && let Err(code @ (ErrorCode::Io | ErrorCode::IllegalByteSequence)) = written.await
            {
                return Err(raw::error_of(code));
            }
            if !self.report_broken_pipe {
                crate::process::exit_with_code(0);
            }
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        self.spare = left;
        Ok(())
    }

    /// Makes a write to an output whose reader is gone an error of kind `BrokenPipe`, instead of a quiet stop.
    pub fn report_broken_pipe(&mut self) {
        self.report_broken_pipe = true;
    }
}

/// Runs an asynchronous stage's function over the process's streams; what [`stage!`](crate::stage) calls.
#[doc(hidden)]
#[expect(clippy::result_unit_err, reason = "the type of `wasi:cli/run`")]
pub fn run_stage<R: Outcome + 'static>(run: impl AsyncFnOnce(&mut Input, &mut Output) -> R) -> Result<(), ()> {
    crate::begin_heap();
    raw::install_panic_hook();
    let (stream, ended_with) = stdin::read_via_stream();
    let position = Position::new();
    let mut input = Input { stream, ended_with: Some(ended_with), buffer: Vec::new(), ended: false, position };
    let (stream, reader) = wit_stream::new::<u8>();
    let written = stdout::write_via_stream(reader);
    let mut output = Output { stream, written: Some(written), spare: Vec::new(), report_broken_pipe: false };
    let outcome = block_on(async { run(&mut input, &mut output).await });
    let Output { stream, written, report_broken_pipe, .. } = output;
    drop(stream);
    let closed = match written.map(|written| block_on(async move { written.await })) {
        Some(Err(ErrorCode::Pipe)) if !report_broken_pipe => Ok(()),
        Some(Err(code)) => Err(raw::error_of(code)),
        _ => Ok(()),
    };
    outcome::end(outcome, closed)
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}
