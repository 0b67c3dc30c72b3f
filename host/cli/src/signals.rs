//! Signals that stop a run: the stages end, everything is cleaned up, then the process dies of the same signal, so that a
//! shell loop around it ends too.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use signal_hook::{
    consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGXFSZ},
    iterator::{SignalsInfo, exfiltrator::origin::WithOrigin},
    low_level::{
        emulate_default_handler,
        siginfo::{Cause, Origin},
    },
};
use stagehost::{RunControl, is_ignored, with_signals_held};

use crate::suspend;

/// Watches for signals, by a thread that ends with the process. Once this is dropped, the next one ends it.
pub(crate) struct Signals {
    over: Arc<AtomicBool>,
    /// The last signal that arrived and would stop the run, or zero: known at once, whenever the thread comes to hear of it.
    arrived: Arc<AtomicUsize>,
}

impl Signals {
    /// Stops the run at the first signal, kills what still runs at the second, and dies at the third. Signals that were
    /// inherited as ignored (`nohup`) stay ignored. With `passes_on`, suspending and resuming are passed on to the
    /// commands, which a terminal does not reach.
    pub(crate) fn watch(control: &RunControl, passes_on: bool) -> io::Result<Self> {
        // One that arrives while its handlers are made would be lost between them.
        let (mut signals, arrived) = with_signals_held(handle)?;
        if passes_on && !is_ignored(SIGTSTP) {
            suspend::pass_on(control.clone())?;
        }
        let control = control.clone();
        let over = Arc::new(AtomicBool::new(false));
        let run_is_over = over.clone();
        std::thread::Builder::new().name("stagehost-signal".into()).spawn(move || {
            let mut stopping = 0;
            for Origin { signal, cause, .. } in &mut signals {
                stopping += 1;
                if run_is_over.load(Relaxed) {
                    die_of(signal);
                }
                match stopping {
                    // A key of the terminal comes from the kernel, and goes to every process in front of it.
                    1 if cause == Cause::Kernel => control.stop_by_terminal(signal),
                    1 => control.stop_by_signal(signal),
                    2 => control.kill(),
                    _ => die_of(signal),
                }
            }
        })?;
        Ok(Self { over, arrived })
    }

    /// Says that the run has ended: from now on a signal ends the process at once. If one stopped the run, the process
    /// dies of it soon, even if nobody reads what is still to be printed. Returns what the process is to die of in the
    /// end: that, or a signal that came when the run was about to end. (A command that a key ends is often gone before our
    /// thread has run; a shell loop around us is to end all the same.)
    pub(crate) fn run_is_over(&self, stopped_by: Option<i32>) -> Option<i32> {
        const PATIENCE: Duration = Duration::from_millis(500);
        self.over.store(true, Relaxed);
        if let Some(signal) = stopped_by {
            // Ends with the process, which does not outlive it.
            let _ = std::thread::Builder::new().spawn(move || {
                std::thread::park_timeout(PATIENCE);
                die_of(signal);
            });
        }
        let arrived = i32::try_from(self.arrived.load(Relaxed)).ok().filter(|signal| *signal != 0);
        stopped_by.or(arrived)
    }
}

/// Makes the handlers. Gives whoever waits for signals, and the last signal that would stop the run, or zero.
fn handle() -> io::Result<(SignalsInfo<WithOrigin>, Arc<AtomicUsize>)> {
    // Without a handler, writing past `ulimit -f` would kill the host; with one, the write fails and is reported.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    if is_ignored(SIGCHLD) {
        // Ignored, it would take the exit statuses of all children with it. Children start with its default again.
        signal_hook::flag::register(SIGCHLD, Arc::default())?;
    }
    let stops = [SIGINT, SIGHUP, SIGTERM, SIGQUIT].into_iter().filter(|signal| !is_ignored(*signal));
    let stops: Vec<i32> = stops.collect();
    let arrived = Arc::default();
    // In the order in which a handler acts: noted first, then told to the thread.
    for signal in &stops {
        signal_hook::flag::register_usize(*signal, Arc::clone(&arrived), signal.unsigned_abs() as usize)?;
    }
    Ok((SignalsInfo::new(&stops)?, arrived))
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

/// Ends the process as the signal would have. The first process of a system or container is not killed by signals; it
/// exits with the code that a shell would show.
pub(crate) fn die_of(signal: i32) {
    if std::process::id() != 1 {
        // An error means that the signal's default is not to die.
        let _ = emulate_default_handler(signal);
    }
    std::process::exit(128 + signal);
}
