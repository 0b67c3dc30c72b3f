//! What a guest is compiled from.

use super::inspect::Shape;
use crate::digest::Digest;

/// What a guest is compiled from.
#[derive(Clone, Debug)]
pub(crate) struct ComponentFile {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) digest: Digest,
    pub(crate) shape: Shape,
    /// Whether it is one of the stock stages.
    pub(crate) is_ours: bool,
    /// What is kept of it besides its code, in bytes.
    pub(crate) kept: u64,
}
