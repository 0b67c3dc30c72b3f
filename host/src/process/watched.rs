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
        if poll(&mut [PollFd::new(&*self.pidfd, PollFlags::IN)], Some(&NOW)) != Ok(0) {
            return true;
        }
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid.as_raw_nonzero()));
        let stats =
            tasks.into_iter().flatten().filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
        are_exiting(stats)
    }
}

/// Whether all threads of a process are exiting, by their lines of `/proc` (`proc_pid_stat(5)`): the first may end before the others.
fn are_exiting(stats: impl Iterator<Item = String>) -> bool {
    /// The kernel's mark of a thread that is exiting: `PF_EXITING`.
    const EXITING: u64 = 0x4;
    // Behind the name, which may hold anything: state, parent, group, session, terminal, its group, flags.
    let flags = |stat: &str| stat.rsplit_once(") ")?.1.split(' ').nth(6)?.parse::<u64>().ok();
    let mut any = false;
    for stat in stats {
        any = true;
        if flags(&stat).is_none_or(|flags| flags & EXITING == 0) {
            return false;
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_when_its_last_thread_exits() {
        let thread = |name: &str, flags: u64| format!("7 ({name}) S 1 7 7 0 -1 {flags} 100 0");
        let gone = |threads: &[String]| are_exiting(threads.iter().cloned());
        let (lives, exits) = (thread("a", 0x40_0040), thread("a) R 1 2 3 4 5 0", 0x40_0044));
        assert!(!gone(&[]));
        assert!(!gone(std::slice::from_ref(&lives)));
        assert!(gone(std::slice::from_ref(&exits)));
        assert!(!gone(&[exits.clone(), lives]), "its first thread alone has ended");
        assert!(gone(&[exits.clone(), exits]));
    }

    #[test]
    fn this_process_is_not_gone() {
        assert!(!WatchedProcess::parent().unwrap().is_gone());
    }
}
