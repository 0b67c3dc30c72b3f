//! A process without which a run is not to go on.

use std::{fs, io, os::fd::OwnedFd, sync::Arc};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, getppid, pidfd_open},
};
use tokio::io::Interest;

use crate::joint::watch_descriptor;

/// A process that is watched: its death stops the runs that were started with this, as SIGTERM would, and they commit nothing.
///
/// The kernel's own signal for the death of a parent comes when the parent's *thread* ends; this looks at the process.
#[derive(Clone, Debug)]
pub struct WatchedProcess {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
}

impl WatchedProcess {
    /// The parent of this process.
    ///
    /// # Errors
    ///
    /// There is none, or it has ended already, or the kernel has no descriptors for processes (Linux before 5.3).
    pub fn parent() -> io::Result<Self> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the parent has ended");
        let pid = getppid().ok_or_else(gone)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // It may have ended in between, and its number been given to another.
        if getppid() != Some(pid) {
            return Err(gone());
        }
        Ok(Self { pid, pidfd: Arc::new(pidfd) })
    }

    /// Waits until it has ended. Cancel safe.
    pub(crate) async fn ended(&self) {
        let watched = self.pidfd.try_clone().and_then(|pidfd| watch_descriptor(pidfd, Interest::READABLE));
        match watched {
            // Readable from then on, and never before.
            Ok(watched) => _ = watched.readable().await,
            // Whoever commits looks again.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether it has ended, or is about to: a process closes its pipes a moment before it counts as ended.
    pub(crate) fn is_gone(&self) -> bool {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        /// The kernel's mark of a process that is exiting.
        const EXITING: u64 = 0x4;
        let ended = poll(&mut [PollFd::new(&*self.pidfd, PollFlags::IN)], Some(&NOW)) != Ok(0);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent, group, session, terminal, its group, flags.
        let flags =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)).and_then(|flags| flags.parse().ok());
        ended || flags.is_some_and(|flags: u64| flags & EXITING != 0)
    }
}
