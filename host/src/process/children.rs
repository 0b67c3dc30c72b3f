//! The children that this process started itself. Whatever other children it has were left to it, where it adopts orphans.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::{
    io::Errno,
    process::{Pid, WaitId, WaitIdOptions, waitid},
};

static STARTED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Those that are not reaped. Whoever starts one holds this from before it is there until it is in it, so that nobody takes it for an
/// orphan.
pub(super) fn started() -> MutexGuard<'static, Vec<Pid>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reaps one that has ended. Returns whether it is gone; it is not while it still runs.
pub(super) fn reap(pid: Pid) -> bool {
    // Held while the id becomes anybody's: the next child may have it.
    let mut started = started();
    // An error: somebody else has reaped it.
    let gone = !matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG), Ok(None));
    if gone {
        started.retain(|other| *other != pid);
    }
    gone
}

/// Waits until one has ended, and reaps it.
pub(super) fn wait(pid: Pid) {
    while matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT), Err(Errno::INTR)) {}
    reap(pid);
}
