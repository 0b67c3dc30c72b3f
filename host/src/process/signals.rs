//! Signals of a thread and of a child.

/// Gives every signal but the ignored ones its default, SIGPIPE too, and blocks none.
///
/// # Safety
///
/// To be called in a child that is about to run its program.
pub(super) unsafe fn reset_signals() {
    const HIGHEST: libc::c_int = 64;
    // SAFETY: `action` and `none` are plain data that the calls fill in; a number that is no signal is an error that
    // changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        for signal in 1..=HIGHEST {
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0 {
                continue;
            }
            // The language's runtime ignores SIGPIPE, for itself.
            if action.sa_sigaction != libc::SIG_DFL && (action.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE)
            {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Whether a signal is ignored, as it is below `nohup`. Asking changes nothing.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: `action` is plain data that the call fills in; a number that is no signal is an error.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// While it lives, its thread takes no signals; what arrives meanwhile is delivered behind it.
pub(super) struct HeldSignals(libc::sigset_t);

impl HeldSignals {
    pub(super) fn new() -> Self {
        // SAFETY: both sets are plain data, of which the calls fill in one and read the other.
        unsafe {
            let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // SAFETY: the set is what the thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Calls a function while this thread takes no signals. They are delivered behind it, unless another thread takes them.
pub fn with_signals_held<T>(act: impl FnOnce() -> T) -> T {
    let _held = HeldSignals::new();
    act()
}
