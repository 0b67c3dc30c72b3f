//! The ends that a program gives a run: what its first stage reads, and what takes the output of its last one.

mod blocking;
mod channel;
mod lend;

use std::{fmt, path::PathBuf, pin::Pin};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

pub use channel::{ChannelSender, Chunks, NotTaken};
pub use lend::{Lent, Returned, lend};

use crate::joint::{OutsideSink, OutsideSource};

/// The ends of one run. What is not given here is as the plan says.
///
/// They are the program's own word: a policy is asked about what pipelines name, not about what the program that runs them gives.
///
/// ```
/// use stagehost::{Ends, Stdin, Stdout};
///
/// let ends = Ends::new().stdin("a text").stdout(Stdout::file("out.txt"));
/// let (reader, writer) = (tokio::io::empty(), tokio::io::sink());
/// let others = Ends::new().stdin(Stdin::reader(reader)).stdout(Stdout::writer(writer));
/// # drop((ends, others));
/// ```
#[derive(Debug, Default)]
pub struct Ends {
    pub(crate) stdin: Option<Stdin>,
    pub(crate) stdout: Option<Stdout>,
}

/// What the first stage of a run reads.
pub struct Stdin(pub(crate) StdinKind);

/// What takes the output of the last stage of a run.
pub struct Stdout(pub(crate) StdoutKind);

#[derive(Debug)]
pub(crate) enum StdinKind {
    Inherit,
    Null,
    File(PathBuf),
    Bytes(Bytes),
    Outside(OutsideSource),
}

#[derive(Debug)]
pub(crate) enum StdoutKind {
    Inherit,
    Null,
    File { path: PathBuf, append: bool, atomic: Option<bool> },
    Outside(OutsideSink),
}

impl Ends {
    /// Whether an input is given that has something to read, and whether an output is given that somebody sees.
    pub(crate) fn connected(&self) -> (bool, bool) {
        let stdin = self.stdin.as_ref().is_some_and(|stdin| !matches!(stdin.0, StdinKind::Null));
        (stdin, self.stdout.as_ref().is_some_and(|stdout| !matches!(stdout.0, StdoutKind::Null)))
    }

    /// The plan's own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the run its input.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdin>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Gives the run its output.
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdout>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }
}

impl Stdin {
    /// The process's own standard input.
    pub fn inherit() -> Self {
        Self(StdinKind::Inherit)
    }

    /// Nothing: the first read is the end.
    pub fn null() -> Self {
        Self(StdinKind::Null)
    }

    /// A file, opened when the run begins.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(StdinKind::File(path.into()))
    }

    /// These bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(StdinKind::Bytes(bytes.into()))
    }

    /// What this reader gives. It is polled on the host's runtime and dropped when the run needs it no longer; to have it back,
    /// [`lend()`] it. Its error fails the run.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::outside(Box::pin(reader))
    }

    /// What this reader gives, which blocks. It is read on a thread that may wait, at most 64 KiB at a time. A run does not wait for a read
    /// that is under way when the run is over: its thread ends, and the reader is dropped, when that read returns.
    pub fn blocking(reader: impl std::io::Read + Send + 'static) -> Self {
        Self::outside(Box::pin(blocking::Reading::new(Box::new(reader))))
    }

    /// What is sent through a channel that holds so many pieces, 1 at least. Dropping the sender without
    /// [`finish`](ChannelSender::finish) fails the run: input that nobody finished must not look complete.
    pub fn channel(pieces: usize) -> (ChannelSender, Self) {
        let (sender, reader) = channel::input(pieces);
        (sender, Self::outside(Box::pin(reader)))
    }

    fn outside(reader: Pin<Box<dyn AsyncRead + Send>>) -> Self {
        Self(StdinKind::Outside(OutsideSource::new(reader)))
    }
}

impl Stdout {
    /// The process's own standard output.
    pub fn inherit() -> Self {
        Self(StdoutKind::Inherit)
    }

    /// Nowhere: everything is taken and dropped.
    pub fn null() -> Self {
        Self(StdoutKind::Null)
    }

    /// A file, which appears whole when the run succeeded, and not at all when it did not. A device or FIFO is written in place.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(StdoutKind::File { path: path.into(), append: false, atomic: None })
    }

    /// A file that is written over as the run goes on: a run that fails leaves what it wrote until then.
    pub fn file_in_place(path: impl Into<PathBuf>) -> Self {
        Self(StdoutKind::File { path: path.into(), append: false, atomic: Some(false) })
    }

    /// A file that is appended to as the run goes on.
    pub fn append(path: impl Into<PathBuf>) -> Self {
        Self(StdoutKind::File { path: path.into(), append: true, atomic: None })
    }

    /// What goes to this writer. It is polled on the host's runtime, and shut down and dropped when the last stage has ended, whether
    /// or not the run succeeds; to have it back, [`lend()`] it. Its error fails the run; `BrokenPipe` says that it wants no more.
    pub fn writer(writer: impl AsyncWrite + Send + 'static) -> Self {
        Self::outside(Box::pin(writer))
    }

    /// What goes to this writer, which blocks. It is written on a thread that may wait, 64 KiB at a time, and flushed and dropped when
    /// the last stage has ended. A run does not wait for a write that is under way when the run is stopped.
    pub fn blocking(writer: impl std::io::Write + Send + 'static) -> Self {
        Self::outside(Box::pin(blocking::Writing::new(Box::new(writer))))
    }

    /// What comes out of a channel that holds so many pieces, 1 at least: the run waits for whoever takes them. Dropping the receiver is
    /// a broken pipe.
    pub fn channel(pieces: usize) -> (Self, Chunks) {
        let (writer, chunks) = channel::output(pieces);
        (Self::outside(Box::pin(writer)), chunks)
    }

    fn outside(writer: Pin<Box<dyn AsyncWrite + Send>>) -> Self {
        Self(StdoutKind::Outside(OutsideSink::new(writer)))
    }
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Stdout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&'static str> for Stdin {
    fn from(text: &'static str) -> Self {
        Self::bytes(text)
    }
}

impl From<String> for Stdin {
    fn from(text: String) -> Self {
        Self::bytes(text)
    }
}

impl From<Vec<u8>> for Stdin {
    fn from(bytes: Vec<u8>) -> Self {
        Self::bytes(bytes)
    }
}

impl From<Bytes> for Stdin {
    fn from(bytes: Bytes) -> Self {
        Self::bytes(bytes)
    }
}
