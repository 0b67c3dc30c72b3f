//! What happens to commands when the host itself is killed.

use std::time::Duration;

use rustix::process::Signal;
use stagehost_tests::{Place, guests::probe, leaks};

/// Waits until no process of the place is alive.
fn wait_for_silence(place: &Place) {
    let deadline = std::time::Instant::now() + stagehost_tests::PATIENCE;
    loop {
        let left = leaks::marked(&place.path(""));
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "processes were left: {left:?}");
        std::thread::yield_now();
    }
}

/// A wasm stage that never ends writes to a command that would leave a marker at the end of its input, and has children.
/// Whenever the host is killed, the marker never appears and nothing is left.
#[test]
fn a_killed_host_leaves_no_process_and_shows_no_end() {
    let place = Place::new();
    // Warm the code cache: then the moments below hit all of a run.
    place.shorthand(&format!("{} yes | :head -n 1", probe())).done().code(0);
    let chain = format!("{} yes | sh -c 'sleep 1000 & echo > begun; cat; touch saw-eof'", probe());
    let begun = place.path("begun");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut inside = 0;
    for round in 0..200_u64 {
        let run = place.shorthand(&chain).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut running = run.start();
        // Every other kill is counted from when the command runs, the others from the start.
        if round % 2 == 0 {
            running.until("the command runs", || begun.exists());
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The moment is what the test varies.
        std::thread::sleep(Duration::from_micros((seed >> 33) % 20_000));
        inside += u32::from(begun.exists());
        running.signal(Signal::KILL);
        running.killed();
        wait_for_silence(&place);
        assert!(!place.path("saw-eof").exists(), "round {round}");
        // It may have been killed before it came so far.
        let _ = std::fs::remove_file(&begun);
    }
    assert!(inside >= 100, "only {inside} kills fell inside a run");
}

#[test]
fn a_killed_host_takes_what_lingers_with_it() {
    let place = Place::new();
    // The leader has ended well; what it left behind lingers.
    let run = place.shorthand("sh -c 'sleep 1000 >/dev/null 2>&1 & touch begun'").stdout(std::process::Stdio::null());
    let mut running = run.start();
    let begun = place.path("begun");
    running.until("the command has ended", || begun.exists());
    std::thread::sleep(Duration::from_millis(500));
    running.signal(Signal::KILL);
    running.killed();
    wait_for_silence(&place);
}

#[test]
fn a_killed_host_takes_chains_of_commands_with_it() {
    let place = Place::new();
    let chain = "yes | sh -c 'sh -c \"sleep 1000\" & cat; touch saw-eof' | sh -c 'cat; touch saw-eof-too'";
    for round in 0..40_u64 {
        let run = place.shorthand(chain).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let running = run.start();
        std::thread::sleep(Duration::from_micros(round * 733 % 20_000));
        running.signal(Signal::KILL);
        running.killed();
        wait_for_silence(&place);
        assert!(place.names().is_empty(), "round {round}: {:?}", place.names());
    }
}

#[test]
fn the_guard_holds_nothing_of_the_caller_and_ends_with_the_run() {
    let place = Place::new();
    // If it held the pipe to `cat`, that would wait for it.
    let run = place.shell("$STAGEHOST run -c 'echo text' | cat; ls /proc/*/comm >/dev/null 2>&1; echo done");
    run.done().code(0).prints("text\ndone\n");
    // A group-wide kill, as a test runner or a container's end does it, reaches the host; the guard does its work, as soon as
    // there is any.
    let path = place.path("begun");
    for _ in 0..20 {
        let mut running = place.shorthand("sh -c 'setsid sleep 0; sleep 1000 & > begun; wait'").start();
        running.until("the command runs", || path.exists());
        let group = rustix::process::Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
        rustix::process::kill_process_group(group, Signal::KILL).unwrap();
        running.killed();
        wait_for_silence(&place);
        std::fs::remove_file(&path).unwrap();
    }
}
