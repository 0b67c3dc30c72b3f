//! What a guest keeps of the directories that it lists.

use std::{collections::VecDeque, os::fd::OwnedFd, sync::Arc};

use tokio::sync::Semaphore;

/// How many listings a guest of WASI 0.3 may have at once.
pub(crate) const AT_ONCE: usize = 64;

/// A guest's turns to list directories by streams.
#[derive(Clone, Debug)]
pub(crate) struct Listings(pub(crate) Arc<Semaphore>);

impl Default for Listings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

/// An entry, as the guest has it, and the mark that leads to it.
pub(crate) type Entry = (u64, Vec<u8>);

/// The directory that a guest listed last. It stays open: opened anew, its place would be lost where marks are numbers and something was
/// removed meanwhile (overlays, older tmpfs).
#[derive(Debug)]
pub(crate) struct Place {
    /// What the directory is in the file system.
    pub(crate) inode: u64,
    pub(crate) opened: OwnedFd,
    /// What was read and did not fit.
    pub(crate) pending: VecDeque<Entry>,
    /// The mark of what follows that.
    pub(crate) next: u64,
    pub(crate) own: (u64, u64),
}
