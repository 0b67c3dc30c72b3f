//! Commands in front of a terminal.

use std::time::Duration;

use rustix::process::Signal;
use stagehost_tests::{Place, leaks, terminal::Terminal};

#[test]
fn a_command_reads_the_terminal() {
    let place = Place::new();
    let mut terminal = Terminal::open(&place);
    // What is typed before the command reads would still be the shell's line editor's.
    terminal
        .types("$STAGEHOST run -c 'sh -c \"{ printf be; echo gun; } >&2; exec cat\" | tr a-z A-Z'; echo code=$?=\n")
        .shows("code=$?=");
    terminal.shows("begun");
    terminal.types("hello there\n").shows("hello there");
    terminal.types("\x04").shows("HELLO THERE");
    terminal.shows("code=0=");
    terminal.shows("ready> ");
    let script = "sh -c \"{ printf be; echo gun; } >&2; read -r word < /dev/tty; echo got \\$word\"";
    terminal.types(&format!("$STAGEHOST run -c '{script}' --stdin null; echo code=$?=\n")).shows("code=$?=");
    terminal.shows("begun");
    terminal.types("something\n").shows("got something");
    terminal.shows("code=0=");
}

#[test]
fn a_pager_works() {
    let place = Place::new();
    let mut terminal = Terminal::open(&place);
    terminal.types("$STAGEHOST run -c 'seq 1000 | less'; echo code=$?=\n").shows("code=$?=");
    terminal.shows("20");
    terminal.types("G").shows("1000");
    terminal.types("q").shows("code=0=");
}

#[test]
fn ctrl_c_ends_the_run_and_the_loop_around_it() {
    let place = Place::new();
    let mut terminal = Terminal::open(&place);
    terminal.types(
        "for i in 1 2 3; do $STAGEHOST run -c 'sh -c \"printf be; echo gun; exec sleep 1000\"'; echo again; done\n",
    );
    terminal.shows("echo again; done");
    terminal.shows("begun");
    terminal.types("\x03").shows("ready> ");
    terminal.types("echo code=$?=\n").shows("code=$?=");
    let between = terminal.shows("code=130=");
    assert!(!between.contains("again"), "{between}");
    terminal.shows("ready> ");
    // A command that ignores the key is asked, and then killed.
    terminal
        .types("$STAGEHOST run -c 'sh -c \"trap : INT; printf be; echo gun; while :; do sleep 0.1; done\"'\n")
        .shows("done\"'");
    terminal.shows("begun");
    terminal.types("\x03").shows("ready> ");
    terminal.types("echo code=$?=\n").shows("code=$?=");
    terminal.shows("code=130=");
}

#[test]
fn ctrl_z_stops_and_fg_continues() {
    let place = Place::new();
    let mut terminal = Terminal::open(&place);
    // The time in which everything stands still does not count.
    let script = "sh -c \"printf be; echo gun; read -r word; echo got \\$word\"";
    terminal.types(&format!("$STAGEHOST run -c '{script}' --timeout 4s; echo code=$?=\n")).shows("code=$?=");
    terminal.shows("begun");
    terminal.types("\x1a").shows("Stopped");
    terminal.shows("ready> ");
    std::thread::sleep(Duration::from_secs(5));
    terminal.types("fg\n").shows("run -c");
    terminal.types("a line\n").shows("got a line");
    terminal.shows("ready> ");
    let left = leaks::marked(&place.path("")).into_iter().filter(|process| !process.contains("bash")).count();
    assert_eq!(left, 0);
}

#[test]
fn a_run_in_the_background_leaves_the_terminal_alone() {
    let place = Place::new();
    let mut terminal = Terminal::open(&place);
    terminal
        .types("$STAGEHOST run -c 'sh -c \"printf be; echo gun; exec sleep 1000\"' < /dev/null > out 2>&1 &\n")
        .shows("ready> ");
    let deadline = std::time::Instant::now() + stagehost_tests::PATIENCE;
    while !std::fs::read_to_string(place.path("out")).is_ok_and(|text| text.contains("begun")) {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    terminal.types("\x03").shows("ready> ");
    terminal.types("jobs\n").shows("Running");
    terminal.shows("ready> ");
    terminal.types("kill %1; wait %1; echo code=$?=\n").shows("code=$?=");
    terminal.shows("code=143=");
}

#[test]
fn leftovers_in_front_of_a_terminal_are_ended_too() {
    let place = Place::new();
    let mut terminal = Terminal::open(&place);
    terminal
        .types("$STAGEHOST run -c 'sh -c \"sleep 1000 >/dev/null 2>&1 & echo now\"'; echo code=$?=\n")
        .shows("code=$?=");
    terminal.shows("left behind by this or another stage, killed: sleep");
    terminal.shows("code=0=");
    terminal.shows("ready> ");
    let stubborn = "sh -c \"(trap : TERM; while :; do sleep 0.1; done) & wait\"";
    terminal.types(&format!("$STAGEHOST run -c '{stubborn}' --timeout 300ms; echo code=$?=\n")).shows("code=$?=");
    terminal.shows("code=124=");
    let left: Vec<_> = leaks::marked(&place.path(""))
        .into_iter()
        .filter(|process| !process.contains("(bash)") && !process.contains("(setsid)"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The state letter of a process.
fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}

#[test]
fn suspending_is_passed_on_where_the_terminal_does_not_reach() {
    let place = Place::new();
    // Stages are started one after the other: when the second runs, the host knows the first.
    // One process each: a shell that waits for the start of another program cannot be seen to be stopped.
    let chain = "sh -c 'echo $$ > pid; exec sleep 1000' | sh -c 'echo second > second; exec cat'";
    let mut running = place.shorthand(chain).start();
    let said = |name: &str| std::fs::read_to_string(place.path(name)).is_ok_and(|text| text.ends_with('\n'));
    running.until("the commands run", || said("pid") && said("second"));
    let command: u32 = place.read("pid").trim().parse().unwrap();
    let host = running.id();
    running.signal(Signal::TSTP);
    running.until("both are stopped", || state(host) == Some('T') && state(command) == Some('T'));
    running.signal(Signal::CONT);
    running.until("both go on", || state(host) != Some('T') && state(command) != Some('T'));
    running.signal(Signal::TERM);
    running.done().died_of(Signal::TERM);
}

#[test]
fn the_second_signal_kills() {
    let place = Place::new();
    place.write(
        "p.json",
        r#"{"version": 1, "stdin": "null", "kill_after": "1000s", "stages": [
            {"command": ["sh", "-c", "trap '' TERM; echo $$ > pid; while :; do sleep 0.01; done"]}]}"#,
    );
    let mut running = place.stagehost(["run", "p.json"]).start();
    let path = place.path("pid");
    running.until("the command runs", || std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    running.signal(Signal::TERM);
    // Signals that come at once are one: the second is sent when the first has been taken.
    let id = running.id();
    running.until("the first is taken", || pending(id) == 0);
    running.signal(Signal::TERM);
    let output = running.done().died_of(Signal::TERM);
    assert!(output.took < Duration::from_secs(60), "{output}");
}

/// The signals that wait to be taken by a process.
fn pending(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap_or("0").trim().to_owned();
    u64::from_str_radix(&mask, 16).unwrap_or(0)
}

#[test]
fn a_guest_cannot_command_the_terminal() {
    let place = Place::new();
    let body = r#"(i64.store (i32.const 0) (i64.const 0x0000000a00000010)) (i64.store (i32.const 16) (i64.const 0x6d31335b1b646572))
        (i32.store16 (i32.const 24) (i32.const 0x0a21)) (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))"#;
    let guest = stagehost_tests::guests::preview1(&place, "red.wasm", body);
    let mut terminal = Terminal::open(&place);
    terminal.types(&format!("$STAGEHOST run -c '{}' --stdin null; echo code=$?=\n", guest.display())).shows("code=$?=");
    terminal.shows("red\\u{1b}[31m!");
    terminal.shows("code=0=");
    drop(terminal);
    // To a file everything goes as it is.
    place.shorthand(&guest.display().to_string()).args(["--stdin", "null"]).done().code(0).says(&["red\u{1b}[31m!"]);
}

#[test]
fn a_stage_is_told_of_a_terminal_if_its_file_allows_it() {
    let place = Place::new();
    // Exits with a bit for each of its streams that is a terminal, which preview1 calls a character device.
    let module = r#"(module
        (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func $bit (param $fd i32) (result i32)
          (drop (call $stat (local.get $fd) (i32.const 0)))
          (i32.shl (i32.eq (i32.load8_u (i32.const 0)) (i32.const 2)) (local.get $fd)))
        (func (export "_start")
          (call $exit (i32.add (call $bit (i32.const 0)) (i32.add (call $bit (i32.const 1)) (call $bit (i32.const 2)))))))"#;
    stagehost_tests::guests::text(&place, "asks.wasm", module);
    for (name, more) in [("told.json", r#", "terminal": true"#), ("plain.json", "")] {
        place.write(name, format!(r#"{{"version": 1, "stages": [{{"wasm": "asks.wasm"{more}}}]}}"#));
    }
    let mut terminal = Terminal::open(&place);
    terminal.types("$STAGEHOST run -q told.json; echo code=$?=\n").shows("code=$?=");
    // Standard error is shown, not sent, and so no terminal to it.
    terminal.shows("code=3=");
    terminal.types("$STAGEHOST run -q told.json | cat; echo code=${PIPESTATUS[0]}=\n").shows("[0]}=");
    terminal.shows("code=1=");
    terminal.types("$STAGEHOST run -q plain.json; echo code=$?=\n").shows("code=$?=");
    terminal.shows("code=0=");
    drop(terminal);
    place.stagehost(["run", "told.json"]).done().code(0);
}
