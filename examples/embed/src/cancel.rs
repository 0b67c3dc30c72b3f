//! Stopping a run: from anywhere, by a control, and by dropping it.

use std::time::Duration;

use stagehost::{Ends, Host, HostOptions, Plan, PlanOptions, Policy, RunControl, RunOptions, Stdin, Stdout, spec};

use crate::Error;

/// Starts a run that nobody feeds, stops it, and says how it ended.
pub(crate) fn run() -> Result<String, Error> {
    let spec = spec::parse(br#"{"version": 1, "stages": [{"wasm": "builtin:cat"}]}"#)?;
    let plan = Plan::new(&spec, &PlanOptions::at(".", Policy::wasm_only()))?;
    let host = Host::new(&HostOptions::new())?;
    // What feeds it: dropped without `finish`, it would fail the run.
    let (sender, stdin) = Stdin::channel(1);
    let control = RunControl::default();
    let options = RunOptions::new().control(&control).timeout(Duration::from_secs(60));
    let running = host.start(&plan, Ends::new().stdin(stdin).stdout(Stdout::null()), &options);
    sender.send_blocking("the beginning of something")?;
    // From another thread, a signal handler's task, a request that was given up: all runs that were started with it.
    std::thread::spawn(move || control.cancel());
    let outcome = running.wait();
    // Nothing goes on when the outcome is there; an output file would be as it was before.
    Ok(outcome.code)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_run_that_is_stopped_says_so() {
        assert_eq!(super::run().expect("a run"), "cancelled");
    }
}
