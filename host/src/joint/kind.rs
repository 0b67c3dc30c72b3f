//! What joins two stages.

use serde::Serialize;

/// What connects two stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JointKind {
    /// A ring buffer in the host's memory.
    Ring,
    /// A pipe of the system.
    Pipe,
}
