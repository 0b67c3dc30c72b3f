//! What a process has used: as the kernel keeps it for whoever waits, and so far.

use std::{mem::MaybeUninit, time::Duration};

use rustix::process::Pid;

/// The processor time that an ended child and those it waited for used; `None`: it still runs, or is no child. It is not reaped.
pub(crate) fn cpu_of(child: Pid) -> Option<Duration> {
    const OPTIONS: libc::c_int = libc::WEXITED | libc::WNOWAIT | libc::WNOHANG;
    let mut status = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills in both, which are plain data and as large as it takes them to be. The system call has a fifth
    // argument that the C library's function of its name lacks.
    let (waited, status, usage) = unsafe {
        let child = child.as_raw_nonzero().get();
        let waited =
            libc::syscall(libc::SYS_waitid, libc::P_PID, child, status.as_mut_ptr(), OPTIONS, usage.as_mut_ptr());
        (waited, status.assume_init(), usage.assume_init())
    };
    // SAFETY: the field is there for whatever signal this is; zero stands for "nothing has ended".
    let ended = waited == 0 && unsafe { status.si_pid() } != 0;
    let of = |time: libc::timeval| {
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        Duration::from_secs(part(time.tv_sec)) + Duration::from_micros(part(time.tv_usec))
    };
    ended.then(|| of(usage.ru_utime) + of(usage.ru_stime))
}

/// The processor time that a running process has used so far, without those that it started; `None`: it has ended, or is not ours.
pub(crate) fn cpu_so_far(process: Pid) -> Option<Duration> {
    let (mut clock, mut time) = (MaybeUninit::<libc::clockid_t>::uninit(), MaybeUninit::<libc::timespec>::zeroed());
    // SAFETY: both are written before they are read: the clock's id if there is a clock, the time by that clock.
    let (read, time) = unsafe {
        let is_there = libc::clock_getcpuclockid(process.as_raw_nonzero().get(), clock.as_mut_ptr()) == 0;
        let read = is_there && libc::clock_gettime(clock.assume_init(), time.as_mut_ptr()) == 0;
        (read, time.assume_init())
    };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    read.then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    #[test]
    fn it_counts_a_child_and_its_children() {
        #[expect(clippy::disallowed_methods, reason = "a test starts what it looks at")]
        let mut child = Command::new("sh")
            .args(["-c", "read go; sh -c 'i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done'; :"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(cpu_of(pid), None, "it still runs");
        drop(child.stdin.take());
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let cpu = cpu_of(pid).unwrap();
        assert!(cpu > Duration::from_millis(1), "{cpu:?}");
        assert!(child.wait().unwrap().success());
        assert_eq!(cpu_of(pid), None, "it is reaped");
    }
}
