//! Processes: the one file that spawns them, their leaders, their trees, and the guard that outlives the host.
//!
//! A command is a leader and whatever it starts. The leader stays a zombie until its run is over: until then the kernel
//! gives its id to nobody else, and signalling its group can hit no stranger.

mod cgroup;
mod children;
mod guard;
mod leader;
mod sessions;
mod spawn;
mod tally;
mod tree;
mod usage;
mod wall;
mod watched;

pub(crate) use cgroup::{Cgroup, CgroupParent};
pub use guard::Guard;
pub(crate) use guard::{GuardLink, Hold};
pub(crate) use leader::{Leader, Status};
pub(crate) use spawn::{Grouping, Launch, Rlimits, Spawner};
pub use spawn::{is_ignored, with_signals_held};
pub(crate) use tally::Tally;
pub(crate) use tree::{Member, Usage, members, name_of, orphans, usage, writes_to};
pub(crate) use usage::cpu_of;
pub(crate) use wall::{Planned, Wall, WallSpec, WalledDir};
pub use watched::WatchedProcess;

/// Makes this process the parent of what its descendants leave behind.
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Whether this process is in the foreground group of its controlling terminal.
///
/// A shell starts a job and gives it the terminal a moment later: while the shell itself is in front, this waits for up to 100 ms.
pub fn in_foreground() -> bool {
    use rustix::{
        fs::{Mode, OFlags, open},
        process::{getpgrp, getsid},
    };
    const LOOKS: usize = 50;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);
    let Ok(terminal) = open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    for _ in 0..LOOKS {
        let in_front = rustix::termios::tcgetpgrp(&terminal);
        if in_front == Ok(getpgrp()) {
            return true;
        }
        if in_front.is_err() || in_front != getsid(None) {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// What the system says of a path of the host's.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(crate) struct AtPath {
    /// What the path is.
    pub(crate) what: &'static str,
    pub(crate) path: std::path::PathBuf,
    pub(crate) error: std::io::Error,
}
