//! What the SDK promises, seen from the host.

use stagehost_tests::{Place, guests::probe};

fn check(habit: &str, input: Vec<u8>) {
    let run = Place::new();
    run.shorthand(&format!(":cat | {} {habit} | :cat", probe())).input(input.clone()).done().code(0).prints(input);
}

#[test]
fn inputs_of_every_shape_pass() {
    for habit in ["pass", "lines", "bytes"] {
        check(habit, Vec::new());
        check(habit, b"x".to_vec());
        check(habit, b"\n".to_vec());
        check(habit, b"no newline at the end".to_vec());
        check(habit, (0..=255).cycle().take(100_000).collect());
    }
}

#[test]
fn a_line_of_a_hundred_megabytes_passes() {
    let mut line = vec![b'x'; 100_000_000];
    line.push(b'\n');
    let place = Place::new();
    place.write("long", &line);
    // With the limits that every stage has by default.
    for stages in [":cat | :lower | :head -n 1 | :wc", ":grep x | :wc", &format!("{} lines | :wc", probe())] {
        place.shorthand(stages).args(["--stdin", "long"]).done().code(0).prints("      1       1 100000001\n");
    }
    let run =
        place.shorthand(&format!("{} lines | :wc", probe())).args(["--stdin", "long", "--limit", "memory=512MiB"]);
    run.done().code(0).prints("      1       1 100000001\n");
    // And where it does not fit, the limit says so.
    let run = place.shorthand(&format!("{} lines | :wc", probe())).args(["--stdin", "long", "--limit", "memory=64MiB"]);
    run.done().code(137).says(&["memory limit of 64 MiB"]);
}

#[test]
fn lines_are_lent_without_allocating() {
    let lines = "a line of some length\n".repeat(200_000);
    let run = Place::new();
    run.shorthand(&format!("{} allocations", probe())).input(lines.clone()).done().code(0).prints(lines);
}

#[test]
fn input_can_be_opened_again_and_twice_at_once() {
    let run = Place::new();
    run.shorthand(&format!("{} reopen", probe())).input("abcdef").done().code(0).prints("abcdef");
}

#[test]
fn what_was_written_is_handed_on_while_the_input_waits() {
    let place = Place::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let run = place.shorthand(&format!("{} lines | :cat", probe())).stdin(reader).args(["--stdout", "/dev/fd/1"]);
    let (ours, theirs) = std::io::pipe().unwrap();
    let running = run.stdout(theirs).start();
    std::io::Write::write_all(&mut writer, b"one\n").unwrap();
    // Arrives although the input stays open; the test's own patience bounds the read.
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(ours), &mut line).unwrap();
    assert_eq!(line, "one\n");
    drop(writer);
    running.done().code(0);
}
