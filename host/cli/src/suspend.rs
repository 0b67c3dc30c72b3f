//! Suspending and resuming, passed on to commands that no terminal reaches.
//!
//! SIGTSTP with SIGCONT right behind it must leave everything running. The kernel keeps the two apart as long as neither is taken: a
//! pending stop is dropped when SIGCONT comes, and the other way round. So both are blocked in all threads; one thread sees what is
//! pending, and lets the kernel itself stop the process by no longer blocking SIGTSTP for a moment. A SIGCONT that came meanwhile has
//! taken it away. (A handler that stops the process by itself may do so after the SIGCONT it was to be woken by.)

use std::io;

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{getpgid, getpgrp, getppid, getsid},
};
use signal_hook::{
    consts::{SIGCONT, SIGTSTP},
    low_level::emulate_default_handler,
};
use stagehost::RunControl;

/// Passes SIGTSTP and SIGCONT on to the commands of the runs, from now on and until the process ends. Call it before there are other
/// threads: they are to block both signals too.
pub(super) fn pass_on(control: RunControl) -> io::Result<()> {
    let (stops, continues) = (SigSet::from(Signal::SIGTSTP), SigSet::from(Signal::SIGCONT));
    stops.thread_block()?;
    continues.thread_block()?;
    let seen = |set: &SigSet| SignalFd::with_flags(set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
    let (stopping, continuing) = (seen(&stops)?, seen(&continues)?);
    std::thread::Builder::new().name("stagehost-suspend".into()).spawn(move || {
        loop {
            let mut pending = [PollFd::new(&continuing, PollFlags::IN), PollFd::new(&stopping, PollFlags::IN)];
            // Interrupted: look again.
            let _ = poll(&mut pending, None);
            let [continued, stopped] = pending.map(|pending| pending.revents().contains(PollFlags::IN));
            if continued {
                // Taken: nothing else waits for it.
                let _ = continuing.read_signal();
                control.signal_commands(SIGCONT);
            }
            if stopped {
                control.signal_commands(SIGTSTP);
                if is_orphaned() {
                    // The kernel stops no process of such a group by SIGTSTP, and would drop it.
                    let _ = stopping.read_signal();
                    let _ = emulate_default_handler(SIGTSTP);
                } else {
                    // Stops here until SIGCONT, unless that has come already.
                    let _ = stops.thread_unblock();
                    let _ = stops.thread_block();
                }
            }
        }
    })?;
    Ok(())
}

/// Whether nobody outside this process's group could resume it by job control.
fn is_orphaned() -> bool {
    let parent = getppid();
    let has_other_group = getpgid(parent).is_ok_and(|group| group != getpgrp());
    let same_session = getsid(parent).is_ok_and(|session| getsid(None) == Ok(session));
    !(parent.is_some() && has_other_group && same_session)
}
