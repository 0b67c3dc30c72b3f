//! Pipes between stages, and the write ends that the host keeps.
//!
//! A pipe cannot say "aborted": when its last writer closes, its reader sees an end. So the host keeps a write end of every
//! pipe, whoever writes it, and lets go when the writer's exit is known to be good, or once nobody reads any more.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, fstat, open},
    io::{Errno, fcntl_dupfd_cloexec},
    pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with},
};
use stagehost_ring::Cause;

use crate::process::{GuardLink, Hold};

/// The capacity that a pipe gets where the system allows it, in bytes.
pub(crate) const PIPE_CAPACITY: u64 = 1 << 20;

/// What one host may use of its user's quota for pipe buffers.
#[derive(Clone, Debug)]
pub(crate) struct PipeQuota {
    pages_left: Arc<AtomicU64>,
    guard: Option<GuardLink>,
}

/// A pipe: the ends for the two stages, and what the host keeps.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
    pub(crate) kept: Arc<KeptEnds>,
    /// In bytes.
    pub(crate) capacity: u64,
}

/// The write end that the host keeps.
#[derive(Debug)]
pub(crate) struct KeptEnds {
    end: Mutex<End>,
    /// The pipe's inode number, by which `/proc` names it.
    pub(crate) inode: u64,
    /// How the stream ended, for a reader in this process.
    pub(crate) fate: Arc<Fate>,
    _share: Share,
}

#[derive(Debug)]
enum End {
    /// A write end, and the guard's copy of it.
    Open {
        file: OwnedFd,
        _hold: Option<Hold>,
    },
    /// Only the pipe's name: it holds nobody's end back.
    Named(OwnedFd),
    Closed,
}

/// How a piped stream ended. A reader in this process asks it when the pipe ends.
#[derive(Debug, Default)]
pub(crate) struct Fate(OnceLock<Option<Cause>>);

impl Fate {
    pub(crate) fn finish(&self) {
        // The first word stands.
        let _ = self.0.set(None);
    }

    pub(crate) fn abort(&self, cause: Cause) {
        let _ = self.0.set(Some(cause));
    }

    /// Why the stream that ended was not finished; `None`: it was.
    pub(super) fn aborted(&self) -> Option<Cause> {
        match self.0.get() {
            Some(fate) => fate.clone(),
            None => Some(Cause::new("the stage before it was lost")),
        }
    }
}

/// Pages of the quota, given back when dropped.
#[derive(Debug)]
struct Share {
    pages: u64,
    pages_left: Arc<AtomicU64>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pages_left.fetch_add(self.pages, Relaxed);
    }
}

impl PipeQuota {
    /// A quarter of what the system gives a user, so that other programs still get full pipes.
    pub(crate) fn new(guard: Option<GuardLink>) -> Self {
        let soft = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft");
        let pages = match soft.ok().and_then(|text| text.trim().parse().ok()) {
            // The kernel's word for "as many as you like".
            Some(0) => u64::MAX / 2,
            Some(pages) => pages,
            None => 0,
        };
        Self { pages_left: Arc::new(AtomicU64::new(pages / 4)), guard }
    }

    fn share(&self, pages: u64) -> Share {
        let taken = self.pages_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(pages));
        Share { pages: if taken.is_ok() { pages } else { 0 }, pages_left: self.pages_left.clone() }
    }

    /// Makes a pipe of about this capacity, or what there is.
    ///
    /// # Errors
    ///
    /// When there is no descriptor left.
    pub(crate) fn pipe(&self, capacity: u64) -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut share = self.share(capacity.div_ceil(rustix::param::page_size() as u64));
        if share.pages > 0 {
            let wanted = usize::try_from(capacity).unwrap_or(usize::MAX);
            if fcntl_setpipe_size(&write, wanted).is_err() {
                // Quietly less, where the quota is used up by others.
                share = self.share(0);
            }
        }
        let capacity = fcntl_getpipe_size(&write)? as u64;
        let file = fcntl_dupfd_cloexec(&write, super::system::ABOVE_STDIO)?;
        let hold = self.guard.as_ref().map(|guard| guard.hold(file.as_fd()));
        let inode = fstat(&write)?.st_ino;
        let end = Mutex::new(End::Open { file, _hold: hold });
        let kept = Arc::new(KeptEnds { end, inode, fate: Arc::default(), _share: share });
        Ok(Pipe { read, write, kept, capacity })
    }
}

impl KeptEnds {
    fn end(&self) -> std::sync::MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody is left who could read.
    pub(crate) fn reader_is_gone(&self) -> bool {
        match &*self.end() {
            End::Open { file, .. } => has_no_reader(file),
            End::Named(name) => {
                let path = format!("/proc/self/fd/{}", name.as_raw_fd());
                let opened = open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
                matches!(opened, Err(Errno::NXIO))
            }
            End::Closed => false,
        }
    }

    /// Lets go at once, as a shell does: the reader sees the end as soon as the writers have closed.
    pub(crate) fn let_go_early(&self) {
        let mut end = self.end();
        let name = match &*end {
            End::Open { file, .. } => {
                open(format!("/proc/self/fd/{}", file.as_raw_fd()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            }
            End::Named(_) | End::Closed => return,
        };
        self.fate.finish();
        *end = name.map_or(End::Closed, End::Named);
    }

    /// Lets go: the reader sees the end when the other writers have closed.
    pub(crate) fn let_go(&self) {
        *self.end() = End::Closed;
    }
}

/// Whether a pipe's write end has no reader any more.
pub(crate) fn has_no_reader(file: impl AsFd) -> bool {
    let mut asked = [PollFd::new(&file, PollFlags::empty())];
    let polled = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && asked[0].revents().contains(PollFlags::ERR)
}
