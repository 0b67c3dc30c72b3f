//! What this process is to those around it.

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
