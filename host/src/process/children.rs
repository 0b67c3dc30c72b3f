//! The children that this process started itself. Whatever other children it has were left to it, where it adopts orphans.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, waitid},
};

static STARTED: Mutex<Started> = Mutex::new(Started { starting: 0, living: Vec::new() });

#[derive(Debug)]
struct Started {
    /// How many are being started: they may be there already.
    starting: usize,
    /// Those that are not reaped.
    living: Vec<Pid>,
}

fn started() -> MutexGuard<'static, Started> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts one. Nothing else waits meanwhile: a program may lie on a disk that does not answer.
pub(super) fn start<T>(start: impl FnOnce() -> T, pid: impl FnOnce(&T) -> Option<Pid>) -> T {
    started().starting += 1;
    let born = start();
    let mut started = started();
    started.starting -= 1;
    started.living.extend(pid(&born));
    born
}

/// Reaps a child that was left to this process, unless that is not sure.
pub(super) fn reap_orphan(pid: Pid) {
    let started = started();
    if started.starting == 0 && !started.living.contains(&pid) {
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// Whether this process started it, or may have.
pub(super) fn is_ours(pid: Pid) -> bool {
    let started = started();
    started.starting > 0 || started.living.contains(&pid)
}

/// Reaps one that has ended. Returns whether it is gone; it is not while it still runs.
pub(super) fn reap(pid: Pid) -> bool {
    // Held while the id becomes anybody's: the next child may have it.
    let mut started = started();
    // An error: somebody else has reaped it.
    let gone = !matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG), Ok(None));
    if gone {
        started.living.retain(|other| *other != pid);
    }
    gone
}

/// Waits until one has ended, and reaps it.
pub(super) fn wait(pid: Pid) {
    while matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT), Err(Errno::INTR)) {}
    reap(pid);
}
