//! Small calls of the system that every kind of end needs.

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FsWord, fstat, statfs},
    io::Errno,
};

/// The lowest descriptor that a copy of an inherited one gets: above the standard streams.
pub(super) const ABOVE_STDIO: i32 = 3;

/// Whether a file that was read is as long as it was said to be.
///
/// # Errors
///
/// It was cut meanwhile.
pub(crate) fn check_whole(file: impl AsFd, size: u64) -> io::Result<()> {
    let now = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
    if now < size {
        let message = format!("the file was cut while it was read: it had {size} bytes and has {now}");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok(())
}

/// Whether a directory shows processes: a link there leads to what one has open, whatever it says.
pub(crate) fn is_of_processes(directory: &Path) -> bool {
    // Linux: `uapi/linux/magic.h`.
    const PROC_SUPER_MAGIC: FsWord = 0x9fa0;
    statfs(directory).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC)
}

/// Waits on this thread until a descriptor is ready for `events`, or the wait is given up.
pub(super) fn wait(file: impl AsFd, events: PollFlags, given_up: &AtomicBool) -> io::Result<()> {
    // How soon a wait that was given up ends.
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    loop {
        if given_up.load(Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match poll(&mut [PollFd::new(&file, events)], Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Calls again when a signal interrupted the call.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}
