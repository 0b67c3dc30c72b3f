//! What is seen of runs while they go on, how many there may be, and the end of a host.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use stagehost::{
    ChannelSender, Ends, Host, HostOptions, Outcome, Pipeline, Plan, Policy, RunOptions, RunPhase, Running, Stage,
    StagePhase, StageSnapshot, Stdin, Stdout, WaitsFor,
};
use stagehost_tests::{cache, leaks::checked};

use super::{CAT, MOST, host, plan};

/// Waits until something is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        thread::yield_now();
    }
}

/// A run that waits for what is sent to it.
fn waits(host: &Host, plan: &Plan, label: &str) -> (Running, ChannelSender) {
    let (sender, stdin) = Stdin::channel(1);
    let ends = Ends::new().stdin(stdin).stdout(Stdout::null());
    (host.start(plan, ends, &RunOptions::new().label(label).group("tests")), sender)
}

/// Lets it go on to its end.
fn goes_on((running, sender): (Running, ChannelSender)) -> Outcome {
    sender.finish();
    running.wait()
}

fn gate() -> (SyncSender<()>, Receiver<()>) {
    sync_channel(0)
}

#[test]
fn a_run_is_seen_while_it_goes_on() {
    checked(|| {
        let host = host();
        let (open, opened) = gate();
        let holds = Stage::blocking_once("holds", move |input, _| {
            let _ = opened.recv();
            std::io::copy(input, &mut std::io::sink())?;
            Ok(())
        });
        let pipeline = Pipeline::builder(Policy::allow_all()).stage(Stage::wasm("builtin:cat").name("copies"));
        let plan = pipeline.stage(holds).build().unwrap().into_plan();
        let (running, sender) = waits(&host, &plan, "seen");
        let stage = |index: usize| running.snapshot().stages.remove(index);
        until("it waits for input", || stage(0).waits_for == Some(WaitsFor::Input));
        let first: StageSnapshot = stage(0);
        assert_eq!((first.name.as_str(), first.kind, first.state), ("copies", "wasm", StagePhase::Running));
        assert_eq!((first.input_bytes, first.output_bytes), (Some(0), Some(0)));
        assert!(first.peak_memory_bytes > Some(0) && first.cpu.is_some(), "{first:?}");
        until("its waiting adds up", || stage(0).waited_for_input > first.waited_for_input);
        // More than there is room for behind it.
        let piece = vec![b'x'; 1 << 20];
        let sending = thread::spawn(move || {
            for _ in 0..4 {
                sender.send_blocking(piece.clone()).unwrap();
            }
            sender
        });
        until("it waits for room", || stage(0).waits_for == Some(WaitsFor::Output));
        assert!(stage(0).input_bytes > Some(0) && stage(1).input_bytes.is_some());
        let seen = running.snapshot();
        assert_eq!(
            (seen.label.as_deref(), seen.group.as_deref(), seen.state),
            (Some("seen"), Some("tests"), RunPhase::Running)
        );
        assert!(serde_json::to_string(&seen).unwrap().contains(r#""waits_for":"output""#));
        drop(open);
        let sender = sending.join().unwrap();
        sender.finish();
        until("it has ended", || stage(0).state == StagePhase::Ended && stage(1).state == StagePhase::Ended);
        let last = stage(0);
        assert_eq!((last.input_bytes, last.output_bytes, last.waits_for), (Some(4 << 20), Some(4 << 20), None));
        assert!(last.waited_for_output > Some(Duration::ZERO) && last.cpu > Some(Duration::ZERO), "{last:?}");
        assert!(running.wait().success);
    });
}

#[test]
fn a_command_is_seen_as_far_as_the_kernel_tells() {
    checked(|| {
        let host = host();
        let plan = plan(r#"{"command": ["sh", "-c", "while read -r line; do :; done"], "limits": {"memory": "1GiB"}}"#);
        let (running, sender) = waits(&host, &plan, "command");
        let stage = || running.snapshot().stages.remove(0);
        until("it runs", || stage().state == StagePhase::Running);
        until("its clock is seen", || stage().cpu.is_some());
        until("its memory is seen", || stage().peak_memory_bytes > Some(0));
        assert_eq!((stage().kind, stage().waits_for, stage().waited_for_input), ("command", None, None));
        sender.send_blocking("line\n".repeat(1000)).unwrap();
        sender.finish();
        until("it has ended", || stage().state == StagePhase::Ended);
        assert_eq!(stage().input_bytes, Some(5000));
        assert!(running.wait().success);
    });
}

#[test]
fn runs_wait_for_memory_that_others_hold() {
    checked(|| {
        let plan = plan(CAT);
        let worst = plan.summary().worst_case_memory_bytes.unwrap();
        let options = || HostOptions::new().threads(2).cache(cache()).total_memory(worst + worst / 2);
        let host = Host::new(&options()).unwrap();
        let first = waits(&host, &plan, "first");
        until("the first has begun", || host.snapshot().runs[0].state == RunPhase::Running);
        let held = host.snapshot().memory_bytes.unwrap();
        assert!(held >= worst && held < worst + worst / 2, "{held} of {worst}");
        let second = waits(&host, &plan, "second");
        until("the second is seen", || host.snapshot().runs.len() == 2);
        let seen = host.snapshot();
        assert_eq!(
            (seen.runs[1].label.as_deref(), seen.runs[1].state, seen.queued),
            (Some("second"), RunPhase::Queued, 1)
        );
        assert!(goes_on(first).success);
        until("the second has begun", || second.0.snapshot().state == RunPhase::Running);
        assert!(goes_on(second).success);
        until("nothing is held", || host.snapshot().memory_bytes == Some(0));
        // What could never have so much does not wait for it.
        let small = Host::new(&options().total_memory(worst / 2)).unwrap();
        let outcome = small.run(&plan, Ends::new().stdin("x"), &RunOptions::new());
        assert_eq!((outcome.code.as_str(), outcome.exit_code), ("over-memory", 125), "{outcome:?}");
        let unbounded = super::plan(r#"{"wasm": "builtin:cat", "limits": {"memory": "none"}}"#);
        let outcome = host.run(&unbounded, Ends::new().stdin("x"), &RunOptions::new());
        assert!(outcome.code == "over-memory" && outcome.message.contains("no memory limit"), "{outcome:?}");
    });
}

#[test]
fn no_more_runs_wait_than_may() {
    checked(|| {
        let plan = plan(CAT);
        let host = Host::new(&HostOptions::new().threads(2).cache(cache()).max_runs(1).max_queued(1)).unwrap();
        let first = waits(&host, &plan, "first");
        until("the first has begun", || first.0.snapshot().state == RunPhase::Running);
        // Whichever comes first has the place.
        let others = ["second", "third"].map(|label| waits(&host, &plan, label));
        until("one is refused", || host.snapshot().runs.len() == 2);
        assert!(goes_on(first).success);
        let mut outcomes = others.map(goes_on);
        outcomes.sort_by(|one, other| one.code.cmp(&other.code));
        assert_eq!(outcomes.each_ref().map(|outcome| outcome.code.as_str()), ["busy", "ok"], "{outcomes:?}");
        assert!(outcomes[0].message.contains("try again later") && outcomes[0].label.is_some(), "{outcomes:?}");
        // Who gives up waiting gives up the place.
        let first = waits(&host, &plan, "first");
        until("the first has begun", || first.0.snapshot().state == RunPhase::Running);
        drop(waits(&host, &plan, "gives up"));
        until("it has gone", || host.snapshot().runs.len() == 1);
        let second = waits(&host, &plan, "second");
        let outcomes = [goes_on(first), goes_on(second)];
        assert!(outcomes.iter().all(|outcome| outcome.success), "{outcomes:?}");
    });
}

#[test]
fn a_host_that_is_drained_ends_what_goes_on_and_takes_no_more() {
    checked(|| {
        let plan = plan(CAT);
        for threads in [0, 2] {
            let made = || Host::new(&HostOptions::new().threads(threads).cache(cache()).max_runs(1)).unwrap();
            let host = made();
            let (first, second) = (waits(&host, &plan, "first"), waits(&host, &plan, "second"));
            let draining = host.drain(Duration::from_secs(60));
            assert!(host.snapshot().is_draining);
            let (outcome, output) = host.output(&plan, Ends::new().stdin("x"), &RunOptions::new(), MOST).wait();
            assert_eq!((outcome.code.as_str(), output.len()), ("shutting-down", 0), "{outcome:?}");
            // One of them waits for room; it was started before.
            let ((first, first_sender), (second, second_sender)) = (first, second);
            first_sender.finish();
            second_sender.finish();
            let ended = thread::spawn(move || (first.wait().success, second.wait().success));
            assert_eq!(draining.wait(), 0);
            assert_eq!(ended.join().unwrap(), (true, true));
            assert_eq!(host.drain(Duration::from_secs(60)).wait(), 0, "again");
            // And one that takes too long is stopped.
            let host = made();
            let (running, _sender) = waits(&host, &plan, "long");
            assert_eq!(host.drain(Duration::from_millis(1)).wait(), 1);
            assert_eq!(running.wait().code, "cancelled");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert_eq!(runtime.block_on(made().drain(Duration::ZERO)), 0);
        }
    });
}
