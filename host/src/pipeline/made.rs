//! What was made of a joint.

use std::sync::Arc;

use stagehost_ring::Monitor;

use crate::joint::KeptEnds;

/// A joint that was made, or not.
#[derive(Debug, Default)]
pub(super) struct MadeJoint {
    pub(super) capacity: Option<u64>,
    pub(super) ring: Option<Monitor>,
    pub(super) kept: Option<Arc<KeptEnds>>,
}
