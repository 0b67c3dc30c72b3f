//! What planning has learned of files, kept for later plans.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use crate::sandbox::{Inspection, Weight};

/// A `.wasm` file that was read and looked at: what it holds, its digest, what was seen in it.
pub(super) type Found = (Bytes, [u8; 32], Inspection, Weight);

/// Component files as earlier plans found them: what they hold, their digests, what was seen in them. A file is known again by what it is
/// (device, inode, size, and when it was changed last, which no program can set), so that a program that makes many plans reads and looks
/// at each of its plugins once. Clones share it. It keeps 256 MiB of files at most, and gives up the oldest.
///
/// A policy's [`recheck`](crate::Policy::recheck) has every file read and looked at for every plan all the same.
#[derive(Clone, Default)]
pub struct KnownFiles(Arc<Shared>);

#[derive(Default)]
struct Shared {
    kept: Mutex<Kept>,
    reused: AtomicU64,
}

#[derive(Default)]
struct Kept {
    files: HashMap<Identity, Found>,
    /// The oldest first.
    order: VecDeque<Identity>,
    bytes: u64,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Of an open file; `None`: it was changed so lately that the same may be said of it after another change.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(super) fn of(file: &File) -> io::Result<Option<Self>> {
        /// More than any file system's clock takes for a tick.
        const TICK: Duration = Duration::from_secs(2);
        let found = file.metadata()?;
        let (seconds, nanos) = (u64::try_from(found.ctime()), u32::try_from(found.ctime_nsec()));
        let changed = UNIX_EPOCH + Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0));
        let is_settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK);
        let identity = Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        };
        Ok(is_settled.then_some(identity))
    }
}

impl KnownFiles {
    /// How often a file was known.
    pub fn reused(&self) -> u64 {
        self.0.reused.load(Relaxed)
    }

    pub(super) fn get(&self, identity: &Identity) -> Option<Found> {
        let found = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).files.get(identity).cloned()?;
        self.0.reused.fetch_add(1, Relaxed);
        Some(found)
    }

    pub(super) fn keep(&self, identity: Identity, found: &Found) {
        const MOST: u64 = 256 << 20;
        const MOST_FILES: usize = 4096;
        let size = |found: &Found| found.0.len() as u64;
        if size(found) > MOST {
            return;
        }
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.files.insert(identity, found.clone()).is_some() {
            return;
        }
        kept.order.push_back(identity);
        kept.bytes += size(found);
        while kept.bytes > MOST || kept.order.len() > MOST_FILES {
            let Some(oldest) = kept.order.pop_front() else { return };
            let gone = kept.files.remove(&oldest);
            kept.bytes -= gone.as_ref().map_or(0, size);
        }
    }
}

impl std::fmt::Debug for KnownFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownFiles").field("reused", &self.reused()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sandbox::{inspect, weigh},
        stock,
    };

    #[test]
    fn what_was_known_longest_makes_room() {
        let wasm = stock::find("cat").unwrap().wasm;
        let (inspection, weight) = (inspect(wasm).unwrap(), weigh(wasm).unwrap());
        let identity = |inode| Identity { device: 1, inode, size: 1, modified: (0, 0), changed: (0, 0) };
        let keep = |known: &KnownFiles, inode: u64, bytes: &Bytes| {
            known.keep(identity(inode), &(bytes.clone(), [0; 32], inspection.clone(), weight));
        };
        let is_known = |known: &KnownFiles, inode: u64| known.get(&identity(inode)).is_some();
        // One allocation, however often it is kept here.
        let (large, huge) = (Bytes::from(vec![0; 100 << 20]), Bytes::from(vec![0; 257 << 20]));
        let known = KnownFiles::default();
        for inode in [1, 2, 2, 3] {
            keep(&known, inode, &large);
        }
        assert!(!is_known(&known, 1) && is_known(&known, 2) && is_known(&known, 3));
        keep(&known, 4, &huge);
        assert!(!is_known(&known, 4) && is_known(&known, 3), "what fits nowhere pushes nothing out");
        let (known, small) = (KnownFiles::default(), Bytes::from_static(b"x"));
        for inode in 0..5000 {
            keep(&known, inode, &small);
        }
        assert!(!is_known(&known, 0) && is_known(&known, 4999));
        assert_eq!(known.0.kept.lock().unwrap().files.len(), 4096);
    }
}
