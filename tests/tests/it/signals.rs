//! Signals stop a run, clean up, and then are what the process dies of.

use std::{fs, time::Duration};

use rustix::process::Signal;
use stagehost_tests::{Place, Running, guests::probe};

/// Waits until the run handles a signal: before that it would be killed plainly.
fn wait_for_handler(running: &mut Running, signal: Signal) {
    let id = running.id();
    running.until("the signal is watched", move || handles(id, signal));
}

fn handles(id: u32, signal: Signal) -> bool {
    caught(id) & (1 << (signal.as_raw() - 1)) != 0
}

fn caught(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim().to_owned();
    u64::from_str_radix(&mask, 16).unwrap_or(0)
}

/// Tests may themselves run where signals are ignored: the keyboard's in the background of a script, SIGHUP below `nohup`.
const LISTENING: [&str; 1] = ["--default-signal=HUP,INT,QUIT,TERM"];

#[test]
fn each_signal_stops_the_run_and_leaves_no_file() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let place = Place::new();
        let run = place.program("env").args(LISTENING).arg(stagehost_tests::binary());
        let run = run.args(["run", "-c", &format!(":cat | {} wait", probe())]);
        let (reader, writer) = std::io::pipe().unwrap();
        let run = run.stdin(reader).args(["--stdout", "out", "--report", "report.json"]);
        let mut running = run.start();
        wait_for_handler(&mut running, signal);
        running.signal(signal);
        let output = running.done().died_of(signal);
        assert!(output.took < Duration::from_secs(20), "{output}");
        assert_eq!(place.names(), ["report.json"]);
        let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
        assert_eq!(report["signal"], signal.as_raw(), "{report}");
        assert_eq!(report["exit_code"], 128 + signal.as_raw(), "{report}");
        assert_eq!(report["origin"], "signal", "{report}");
        drop(writer);
    }
}

#[test]
fn a_signal_counts_from_the_first_moment_on() {
    let place = Place::new();
    for _ in 0..100 {
        let run = place.program("env").args(LISTENING).arg(stagehost_tests::binary());
        let (reader, writer) = std::io::pipe().unwrap();
        let mut running = run.args(["run", "-c", ":cat", "--stdout", "out"]).stdin(reader).start();
        wait_for_handler(&mut running, Signal::INT);
        running.signal(Signal::INT);
        running.done().died_of(Signal::INT);
        drop(writer);
        assert!(place.names().is_empty());
    }
}

#[test]
fn a_signal_ends_even_a_spinning_stage() {
    let place = Place::new();
    let mut running = place.shorthand(&format!("{} spin", probe())).start();
    wait_for_handler(&mut running, Signal::TERM);
    running.signal(Signal::TERM);
    running.done().died_of(Signal::TERM);
}

#[test]
fn a_shell_loop_around_the_run_ends_too() {
    let place = Place::new();
    // The loop's shell dies of the signal that its child died of.
    let script = format!("for i in 1 2 3; do $STAGEHOST run -c '{} spin' ; echo again; done", probe());
    let mut running = place.program("env").args(LISTENING).args(["/bin/bash", "-c", &script]).start();
    let shell = running.id();
    let child = || fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
    running.until("the run watches signals", || child().trim().parse().is_ok_and(|id| handles(id, Signal::INT)));
    // As a terminal does: to the whole foreground group.
    let group = rustix::process::Pid::from_raw(i32::try_from(shell).unwrap()).unwrap();
    rustix::process::kill_process_group(group, Signal::INT).unwrap();
    running.done().died_of(Signal::INT).prints("");
}

#[test]
fn a_run_whose_messages_nobody_reads_still_dies_of_the_signal() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let (unread, full) = std::io::pipe().unwrap();
    let file = std::os::fd::OwnedFd::from(full.try_clone().unwrap());
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&file, &[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty()).unwrap();
    let run = place.shorthand(&format!("{} wait", probe())).stdin(reader).stderr(full);
    let mut running = run.start();
    wait_for_handler(&mut running, Signal::TERM);
    running.signal(Signal::TERM);
    running.done().died_of(Signal::TERM);
    drop((writer, unread));
}

#[test]
fn ignored_signals_stay_ignored() {
    let place = Place::new();
    let script = format!("trap '' HUP; exec $STAGEHOST run -c '{} wait' --timeout 2s", probe());
    let (reader, writer) = std::io::pipe().unwrap();
    let mut running = place.shell(&script).stdin(reader).start();
    wait_for_handler(&mut running, Signal::TERM);
    running.signal(Signal::HUP);
    running.done().code(124).says(&["timeout"]);
    drop(writer);
}

#[test]
fn a_signal_that_ends_the_command_first_ends_the_host_too() {
    // The command is gone before the host's thread that hears of signals has run, now and then; a loop in a shell would go on.
    let place = Place::new();
    for _ in 0..100 {
        let run = place.program("env").args(LISTENING).arg(stagehost_tests::binary());
        run.args(["run", "-c", "sh -c 'kill -INT $PPID; kill -INT $$'", "--stdin", "null"]).done().died_of(Signal::INT);
    }
}
