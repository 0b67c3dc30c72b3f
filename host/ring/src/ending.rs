//! How a ring's stream ends, as values: causes and errors of both halves.

use std::{error::Error, fmt, io, sync::Arc};

/// Why one half ended the stream early. Cheap to clone; shown as the error it was made from.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Wraps an error, or a text, as a cause.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }

    /// The error this cause was made from.
    pub fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }

    pub(crate) fn writer_dropped() -> Self {
        Self::new("the writer was dropped without finishing")
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cause({})", self.0)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Why a write was refused. Asked again, the same half gives the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    /// The reader was dropped: a broken pipe.
    #[error("broken pipe: the reader is gone")]
    BrokenPipe,
    /// The reader left and said why.
    #[error("broken pipe: {0}")]
    ReaderFailed(Cause),
}

/// Why a read was refused. Asked again, the same half gives the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The writer ended without finishing: what was read is not the whole stream.
    #[error("the stream was aborted: {0}")]
    Aborted(Cause),
    /// More bytes were asked for at once than the ring can ever hold.
    #[error("a frame of {min} bytes does not fit a ring of {capacity}")]
    FrameTooLarge {
        /// What was asked for, in bytes.
        min: usize,
        /// The ring's capacity, in bytes.
        capacity: usize,
    },
}

/// A commit or consume went past what was granted or peeked. Nothing was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} bytes asked for, {available} available")]
pub struct OutOfBounds {
    /// What was asked for, in bytes.
    pub asked: usize,
    /// What there was, in bytes.
    pub available: usize,
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        Self::new(io::ErrorKind::BrokenPipe, error)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match error {
            ReadError::Aborted(_) => io::ErrorKind::ConnectionAborted,
            ReadError::FrameTooLarge { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}
