//! Why a file cannot be a stage.

/// Why a file cannot be a stage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NotAStage {
    /// What the file is instead.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}
