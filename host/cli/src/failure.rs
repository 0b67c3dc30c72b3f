//! What ends a verb early, with its exit code.

use std::io;

use stagehost::ExitCode;

/// What ends a verb early.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) error: anyhow::Error,
    pub(crate) hint: Option<String>,
    /// Whether only the exit code tells of it.
    pub(crate) silent: bool,
}

impl Failure {
    pub(crate) fn new(code: ExitCode, error: impl Into<anyhow::Error>) -> Self {
        Self { code: code as u8, error: error.into(), hint: None, silent: false }
    }

    pub(crate) fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// Output that could not be written. A reader that left is success.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { code: 0, error: anyhow::anyhow!(""), hint: None, silent: true };
        }
        Self::new(ExitCode::Host, anyhow::Error::from(error).context("standard output"))
    }
}
