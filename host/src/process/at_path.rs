//! What the system says of a path.

/// What the system says of a path of the host's.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(crate) struct AtPath {
    /// What the path is.
    pub(crate) what: &'static str,
    pub(crate) path: std::path::PathBuf,
    pub(crate) error: std::io::Error,
}
