//! No byte is lost and none made up: calls of any size, inputs that end too early, outputs that go nowhere, reports.

use std::{fs, io::Write};

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use stagehost_tests::{
    Place,
    guests::{preview1, probe, text},
};

/// A preview1 program that asks for `read` bytes at a time and writes what it got in one call.
fn in_big_calls(place: &Place, read: usize) -> String {
    let pages = read / 65_536 + 3;
    let module = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") {pages})
            (func (export "_start") (local $e i32) (local $n i32)
              (loop $more
                ;; Two buffers: a small one, which ends up full, and the rest.
                (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 7))
                (i32.store (i32.const 8) (i32.const 65543)) (i32.store (i32.const 12) (i32.const {read}))
                (local.set $e (call $read (i32.const 0) (i32.const 0) (i32.const 2) (i32.const 32)))
                (if (local.get $e) (then (call $exit (local.get $e))))
                (local.set $n (i32.load (i32.const 32)))
                (if (i32.eqz (local.get $n)) (then (return)))
                (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (local.get $n))
                (local.set $e (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
                (if (local.get $e) (then (call $exit (i32.add (local.get $e) (i32.const 100)))))
                ;; One call is all that it makes: what does not look further must lose nothing.
                (if (i32.ne (i32.load (i32.const 32)) (local.get $n)) (then (call $exit (i32.const 99))))
                (br $more))))"#
    );
    text(place, "big.wasm", &module).display().to_string()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[test]
fn preview1_moves_as_much_as_it_asks_for() {
    let place = Place::new();
    let bytes = noise(9_000_001);
    place.write("in", &bytes);
    for size in [3 << 20, 16 << 20] {
        let guest = in_big_calls(&place, size);
        place.shorthand(&guest).args(["--stdin", "in", "--stdout", "out"]).done().code(0).is_quiet();
        assert_eq!(fs::read(place.path("out")).unwrap(), bytes, "{size}");
        place.shorthand(&format!("{guest} | cat | {guest} | :cat")).input(bytes.clone()).done().code(0).prints(&bytes);
    }
}

#[test]
fn preview1_moves_whole_files_in_one_call() {
    // C programs read a file by its size and do not look whether they got it.
    let place = Place::new();
    let bytes = noise(5_000_010);
    fs::create_dir(place.path("d")).unwrap();
    place.write("d/in", &bytes);
    let module = r#"(module
        (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 100)
        (data (i32.const 64) "inout")
        (func $must (param i32 i32) (if (local.get 0) (then (call $exit (local.get 1)))))
        (func $all (param i32) (call $must (i32.ne (i32.load (i32.const 32)) (i32.const 5000010)) (local.get 0)))
        (func (export "_start")
          (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 5000010))
          (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 2) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16)) (i32.const 1))
          (call $must (call $open (i32.const 3) (i32.const 0) (i32.const 66) (i32.const 3) (i32.const 9) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 20)) (i32.const 2))
          (call $must (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 32)) (i32.const 3)) (call $all (i32.const 4))
          (call $must (call $write (i32.load (i32.const 20)) (i32.const 0) (i32.const 1) (i32.const 32)) (i32.const 5)) (call $all (i32.const 6))
          ;; At places of its own: the same once more, behind it.
          (call $must (call $pread (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 32)) (i32.const 7)) (call $all (i32.const 8))
          (call $must (call $pwrite (i32.load (i32.const 20)) (i32.const 0) (i32.const 1) (i64.const 5000010) (i32.const 32)) (i32.const 9)) (call $all (i32.const 10))
          (call $must (call $random (i32.const 65536) (i32.const 6000000)) (i32.const 11))))"#;
    let guest = text(&place, "files.wasm", module).display().to_string();
    place.write(
        "p.json",
        format!(
            r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{guest}",
                "grants": {{"dirs": [{{"host": "d", "guest": "d", "access": "write"}}]}}}}]}}"#
        ),
    );
    place.stagehost(["run", "p.json"]).done().code(0).is_quiet();
    assert_eq!(fs::read(place.path("d/out")).unwrap(), [&bytes[..], &bytes].concat());
}

#[test]
fn wasi_0_2_hands_over_and_takes_lists_of_any_size() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    let guest = text(&place, "whole.wasm", include_str!("../../grants/p2-whole.wat")).display().to_string();
    let file = |limits: &str| {
        format!(
            r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{guest}", "limits": {{{limits}}},
                "grants": {{"dirs": [{{"host": "d", "guest": "d", "access": "write"}}]}}}}]}}"#
        )
    };
    place.write("p.json", file(""));
    place.stagehost(["run", "p.json"]).done().code(0).is_quiet();
    let mut whole = vec![b'a'; 5_000_017];
    whole[..7].fill(0);
    whole[5_000_013..].fill(b'z');
    assert!(fs::read(place.path("d/out")).unwrap() == whole, "the file is what was written");
    // What the host makes for a guest counts to the guest's memory while it is handed over.
    place.write("p.json", file(r#""memory": "24MiB""#));
    place
        .stagehost(["run", "p.json"])
        .done()
        .code(137)
        .says(&["its memory limit of 24 MiB: 18.7 MiB in use, 5.7 MiB more asked for"]);
}

#[test]
fn a_reader_that_left_is_a_broken_pipe_to_preview1() {
    const PIPE: i32 = 64;
    let place = Place::new();
    let body = "(local $e i32)
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
        (loop $more
          (local.set $e (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
          (br_if $more (i32.eqz (local.get $e))))
        (call $exit (local.get $e))";
    let guest = preview1(&place, "writes.wasm", body).display().to_string();
    // Its own code says which errno it saw: as a plain failure it shows.
    for reader in
        ["{\"command\": [\"head\", \"-c\", \"1\"]}", "{\"wasm\": \"builtin:head\", \"args\": [\"-c\", \"1\"]}"]
    {
        let stages = format!("[{{\"wasm\": \"{guest}\", \"args\": []}}, {reader}]");
        place.write("p.json", format!("{{\"version\": 1, \"stdin\": \"null\", \"stages\": {stages}}}"));
        place.stagehost(["run", "p.json", "--stdout", "null", "--report", "r.json"]).done().code(0);
        let report: serde_json::Value = serde_json::from_str(&place.read("r.json")).unwrap();
        assert_eq!(report["stages"][0]["exit"]["kind"], "broken-pipe", "{reader}");
    }
    // One that ends with 0 only if it saw that errno.
    let told = body
        .replace("(call $exit (local.get $e))", &format!("(call $exit (i32.ne (local.get $e) (i32.const {PIPE})))"));
    let guest = preview1(&place, "told.wasm", &told).display().to_string();
    for reader in ["head -c 1", ":head -c 1"] {
        place.shorthand(&format!("{guest} | {reader}")).args(["--stdout", "null", "--report", "r.json"]).done().code(0);
        let report: serde_json::Value = serde_json::from_str(&place.read("r.json")).unwrap();
        assert_eq!(report["stages"][0]["exit"]["kind"], "finished-early", "{reader}");
    }
}

/// Whether the input of a run was refused, and nothing committed.
fn refuses(place: &Place, args: &[&str], input: &[u8], says: &str) {
    let run = place.stagehost([&["run"][..], args, &["--stdout", "out"]].concat()).input(input);
    run.done().code(125).says(&["standard input", says]);
    assert!(!place.path("out").exists());
}

#[test]
fn an_input_is_held_to_what_was_declared_of_it() {
    let place = Place::new();
    let digest: String = Sha256::digest(b"right").iter().map(|byte| format!("{byte:02x}")).collect();
    for stages in [":cat", "cat", "cat | :cat", ":cat | cat"] {
        let shorthand = ["-c", stages];
        let with = |more: &[&'static str]| [&shorthand[..], more].concat();
        refuses(&place, &with(&["--stdin-bytes", "6"]), b"right", "ended after 5 of the 6 bytes");
        refuses(&place, &with(&["--stdin-bytes", "4"]), b"right", "more than the 4 bytes");
        refuses(&place, &[&shorthand[..], &["--stdin-sha256", &digest]].concat(), b"wrong", "SHA-256 digest");
        let good = place.stagehost(["run", "-c", stages, "--stdin-bytes", "5", "--stdin-sha256", &digest]);
        good.input("right").done().code(0).prints("right");
    }
    // A stage that never asks for the end: the digest is of all of it.
    let enough = [
        ":head -c 5",
        ":head -c 2",
        "head -c 2",
        ":cat | head -c 2",
        "head -c 5 | :cat",
        "cat | :head -c 2",
        "true",
        "yes | true",
    ];
    for stages in enough.into_iter().cycle().take(5 * enough.len()) {
        refuses(&place, &["-c", stages, "--stdin-sha256", &digest], b"wrong", "SHA-256 digest");
        refuses(&place, &["-c", stages, "--stdin-sha256", &digest], &noise(2_000_000), "SHA-256 digest");
        let good = place.stagehost(["run", "-c", stages, "--stdin-bytes", "5", "--stdin-sha256", &digest]);
        good.input("right").done().code(0);
    }
    // In files, for every kind of input.
    place.write("in", "right");
    for (stdin, code) in [
        (r#"{"bytes": 5}"#.to_owned(), 0),
        (r#"{"bytes": 6}"#.to_owned(), 125),
        (r#"{"file": "in", "bytes": 6}"#.to_owned(), 125),
        (format!(r#"{{"file": "in", "sha256": "{digest}"}}"#), 0),
        (r#"{"text": "right", "bytes": 4}"#.to_owned(), 125),
        (format!(r#"{{"text": "wrong", "sha256": "{digest}"}}"#), 125),
    ] {
        for stage in [r#"{"wasm": "builtin:cat"}"#, r#"{"command": ["cat"]}"#] {
            place.write("p.json", format!(r#"{{"version": 1, "stdin": {stdin}, "stages": [{stage}]}}"#));
            place.stagehost(["run", "p.json", "--stdout", "out"]).input("right").done().code(code);
            assert_eq!(place.path("out").exists(), code == 0, "{stdin} {stage}");
            let _ = fs::remove_file(place.path("out"));
        }
    }
    place.write("p.json", r#"{"version": 1, "stdin": {"sha256": "abc"}, "stages": []}"#);
    place.stagehost(["run", "p.json"]).done().code(78).says(&["stdin", "64 hexadecimal digits"]);
}

#[test]
fn a_feeder_that_is_killed_half_way_leaves_no_output() {
    let place = Place::new();
    let script = "{ head -c 8000000 /dev/zero; kill -KILL $BASHPID; } | $STAGEHOST run -c ':cat' --stdin-bytes 24000000 --stdout out
        exit ${PIPESTATUS[1]}";
    place.shell(script).done().code(125).says(&["ended after 8000000 of the 24000000 bytes"]);
    assert!(!place.path("out").exists());
}

#[test]
fn a_file_that_is_cut_while_it_is_read_is_an_error() {
    let place = Place::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("go"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    // Whatever code a program that read it to its supposed end has.
    for first in [":cat", "cat", "sh -c 'cat; exit 3'"] {
        place.write("in", noise(30_000_000));
        // The first stage stops in the middle, because nobody takes what it gives.
        let stages = format!("{first} | sh -c ': > started; read x < go; exec cat'");
        let mut running =
            place.shorthand(&stages).args(["--stdin", "in", "--stdout", "out", "--ok-exit", "1=3"]).start();
        running.until("the second stage waits", || place.path("started").exists());
        fs::OpenOptions::new().write(true).open(place.path("in")).unwrap().set_len(20_000_000).unwrap();
        fs::write(place.path("go"), "go\n").unwrap();
        running
            .done()
            .code(125)
            .says(&["in: the file was cut while it was read: it had 30000000 bytes and has 20000000"]);
        assert!(!place.path("out").exists(), "{first}");
        fs::remove_file(place.path("started")).unwrap();
    }
}

#[test]
fn a_run_dies_with_its_parent_and_commits_nothing() {
    let place = Place::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("in"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("go"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let script = "bash -c '$STAGEHOST run -c :cat --stdin in --die-with-parent --stdout out & echo $! > pid; wait' &
        echo $! > parent; read x < go";
    let mut running = place.shell(script).start();
    // As long as this is open, no end is to be seen.
    let mut feeding = fs::OpenOptions::new().write(true).open(place.path("in")).unwrap();
    feeding.write_all(b"half").unwrap();
    let pid = |name: &str| fs::read_to_string(place.path(name)).unwrap_or_default().trim().parse::<i32>().ok();
    running.until("it runs", || pid("pid").is_some() && pid("parent").is_some());
    let status = format!("/proc/{}/stat", pid("pid").unwrap());
    let gone = || fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
    assert!(!gone());
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid("parent").unwrap()).unwrap(), Signal::KILL)
        .unwrap();
    running.until("it ends with its parent", gone);
    fs::write(place.path("go"), "go\n").unwrap();
    running.done().code(0);
    assert!(!place.path("out").exists());
}

#[test]
fn a_dash_is_the_stream_it_stands_for() {
    let place = Place::new();
    place.shorthand(":cat").args(["--stdin", "-", "--stdout", "-"]).input("text\n").done().code(0).prints("text\n");
    assert!(place.names().is_empty(), "{:?}", place.names());
    place.write("p.json", r#"{"version": 1, "stdin": {"text": "the file's"}, "stdout": "null", "stages": []}"#);
    place.stagehost(["run", "p.json", "--stdin", "-", "--stdout", "-"]).input("mine").done().code(0).prints("mine");
}

#[test]
fn a_report_is_there_whole_or_not_at_all() {
    let place = Place::new();
    place.write("report.json", "what was there");
    // Killed, the host has not touched it.
    let mut running =
        place.shorthand(&format!("{} spin", probe())).args(["--report", "report.json", "--stdin", "null"]).start();
    let id = running.id();
    running.until("it runs", || {
        fs::read_to_string(format!("/proc/{id}/status"))
            .is_ok_and(|status| status.contains("Threads:") && !status.contains("Threads:\t1\n"))
    });
    assert_eq!(place.read("report.json"), "what was there");
    running.signal(Signal::KILL);
    running.killed();
    assert_eq!(place.read("report.json"), "what was there");
    place.shorthand(":cat").args(["--report", "report.json"]).done().code(0);
    assert!(place.read("report.json").contains("\"success\": true"));
    // It replaces neither the input nor the output.
    place.write("in", "bytes");
    for ends in [
        ["--stdin", "in", "--stdout", "out", "--report", "in"],
        ["--stdin", "in", "--stdout", "out", "--report", "out"],
    ] {
        let output = place.shorthand(":cat").args(ends).done().code(125);
        assert!(output.error_text().contains("report"), "{output}");
        assert_eq!(place.read("in"), "bytes");
        assert!(!place.path("out").exists() || place.read("out") == "bytes", "{output}");
        let _ = fs::remove_file(place.path("out"));
    }
    // One that cannot be written is an error, of a good run too.
    fs::create_dir(place.path("dir")).unwrap();
    place.shorthand(":cat").args(["--report", "dir"]).done().code(125).says(&["the report dir"]);
    place.shorthand(":cat").args(["--report", "none/r.json"]).done().code(125).says(&["the report none/r.json"]);
    place
        .shorthand(":cat")
        .args(["--report", "/dev/full"])
        .done()
        .code(125)
        .says(&["error: the report /dev/full cannot be written"]);
}
