//! What a guest was granted.

use crate::{
    process::Planned,
    spec::{Access, ClockSpec, NetGrant, RandomSpec},
};

/// The rights of a guest. The default has none, the real clock and real random numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) dirs: Vec<DirRight>,
    pub(crate) net: Vec<NetGrant>,
    pub(crate) clock: ClockSpec,
    pub(crate) random: RandomSpec,
}

impl Rights {
    /// Whether a guest that has them takes descriptors of the host.
    pub(crate) fn need_descriptors(&self) -> bool {
        !self.dirs.is_empty() || !self.net.is_empty()
    }
}

/// A directory that a guest may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirRight {
    /// The directory that was there when it was planned.
    pub(crate) host: Planned,
    pub(crate) guest: String,
    pub(crate) access: Access,
}
