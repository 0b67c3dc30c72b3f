//! What is said of a stage that traps: what, where, at which input; and what becomes of its output.

use std::fs;

use stagehost_tests::{
    Place,
    guests::{built, preview1, probe, text},
};

#[test]
fn a_core_dump_goes_where_its_directory_was_when_the_run_began() {
    let place = Place::new();
    for directory in ["dumps", "outside"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    // One with a directory puts a link in the place of another one before it traps.
    let guest = r#"(module
        (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "dumpswasoutside")
        (func (export "_start")
            (if (call $rename (i32.const 3) (i32.const 0) (i32.const 5) (i32.const 3) (i32.const 5) (i32.const 3)) (then (return)))
            (if (call $symlink (i32.const 8) (i32.const 7) (i32.const 3) (i32.const 0) (i32.const 5)) (then (return)))
            unreachable))"#;
    let guest = text(&place, "guest.wasm", guest).display().to_string();
    let dirs = r#"{"dirs": [{"host": ".", "guest": "/", "access": "write"}]}"#;
    place.write(
        "p.json",
        format!(r#"{{"version": 1, "stages": [{{"wasm": "{guest}", "grants": {dirs}}}], "stdin": "null"}}"#),
    );
    place.stagehost(["run", "p.json", "--coredump", "dumps"]).done().code(134).says(&["its core dump is dumps/guest."]);
    let names = |of: &str| fs::read_dir(place.path(of)).unwrap().count();
    assert_eq!((names("was"), names("outside")), (1, 0));
}

#[test]
fn a_panic_of_an_sdk_stage_says_all_there_is_to_say() {
    let place = Place::new();
    let lines: String = (0..50_000).map(|number| format!("record {number}\n")).collect();
    let run = place.shorthand(&format!("{} panic-after 40000", probe())).input(lines.clone());
    let output = run.args(["--report", "report.json", "--stdout", "null"]).done().code(134);
    // The last line that was handed out: its place in the input.
    let start = lines.match_indices("record 39999\n").next().expect("it is there").0;
    output.says(&[
        "bad record 40000",
        "tests/guests/probe/src/lib.rs:",
        "stage `probe` trapped: panicked at ",
        &format!("at byte {start} of its input, line 40000"),
    ]);
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).expect("JSON");
    let exit = &report["stages"][0]["exit"];
    assert_eq!(exit["at"]["byte"], start, "{exit}");
    assert_eq!((&exit["at"]["line"], &exit["at"]["exact"]), (&40_000.into(), &true.into()), "{exit}");
    assert!(exit["message"].as_str().expect("a text").contains("bad record 40000"), "{exit}");
    let frames = exit["frames"].as_array().expect("frames");
    let has_line = |frame: &serde_json::Value| frame.as_str().is_some_and(|frame| frame.contains("probe/src/lib.rs:"));
    assert!(frames.iter().any(has_line), "{exit}");
}

#[test]
fn a_panic_of_another_stage_is_at_most_so_far() {
    let place = Place::new();
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        place.shorthand(&format!("{guest} panic")).input("x").done().code(134).says(&[
            "the program gave up",
            "tests/guests/std-probe/src/main.rs:",
            "before any of its input",
        ]);
    }
    let guest = preview1(
        &place,
        "reader.wasm",
        "(i32.store (i32.const 4) (i32.const 100)) (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))) unreachable",
    );
    let run = place.shorthand(&guest.display().to_string()).input("0123456789");
    run.done().code(134).says(&["unreachable", "after at most 10 bytes of its input"]);
}

#[test]
fn under_finish_what_was_written_stands() {
    let place = Place::new();
    let wasm = probe();
    let pipeline = |on_trap: &str| {
        format!(
            r#"{{"version": 1, "stdin": {{"text": "one\ntwo\nthree\n"}}, "stdout": {{"file": "out"}},
                "stages": [{{"wasm": "{wasm}", "args": ["panic-after", "2"]{on_trap}}}, {{"wasm": "builtin:cat"}}]}}"#
        )
    };
    place.write("fail.json", pipeline(""));
    place.stagehost(["run", "fail.json"]).done().code(134);
    assert!(!place.path("out").exists());
    place.write("finish.json", pipeline(r#", "on_trap": "finish""#));
    place.stagehost(["run", "finish.json", "--report", "report.json"]).done().code(0);
    assert_eq!(place.read("out"), "one\ntwo\n");
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).expect("JSON");
    assert_eq!(report["stages"][0]["exit"]["kind"], "trap", "{report}");
    assert_eq!(report["success"], true, "{report}");
    // A limit is no trap.
    let limit = r#", "on_trap": "finish", "limits": {"output_bytes": 2}"#;
    place.write("limit.json", pipeline(limit));
    place.stagehost(["run", "limit.json"]).done().code(153);
}

#[test]
fn a_core_dump_is_written_where_it_is_asked_for() {
    let place = Place::new();
    fs::create_dir(place.path("dumps")).expect("a new directory");
    let run =
        place.shorthand(&format!("{} panic 7", probe())).input("x").args(["--coredump", "dumps", "--stdout", "null"]);
    run.done().code(134).says(&["its core dump is"]);
    let dumps: Vec<_> = fs::read_dir(place.path("dumps")).expect("it is there").flatten().collect();
    assert_eq!(dumps.len(), 1);
    let bytes = fs::read(dumps[0].path()).expect("it can be read");
    assert!(bytes.starts_with(b"\0asm"), "{} bytes", bytes.len());
    // No dump of what ends by itself, and no run without a place for it.
    let run = place.shorthand(&format!("{} exit 3", probe())).args(["--coredump", "dumps", "--stdin", "null"]);
    run.done().code(3);
    assert_eq!(fs::read_dir(place.path("dumps")).expect("it is there").count(), 1);
    place.shorthand(":cat").args(["--coredump", "missing"]).done().code(125).says(&["there is no such directory"]);
}

#[test]
fn names_in_frames_cannot_reach_the_terminal() {
    let place = Place::new();
    let text = fs::read_to_string(stagehost_tests::repository().join("tests/hostile/name-section-lies.wat"));
    let guest = stagehost_tests::guests::text(&place, "lies.wasm", &text.expect("it is there"));
    let run = place.shorthand(&guest.display().to_string()).args(["--stdin", "null", "--report", "report.json"]);
    let output = run.done().code(134);
    assert!(!output.stderr.contains(&0x1b), "{output}");
    // A program that reads the report has the name as it is.
    assert!(place.read("report.json").contains("\\u001b") && !place.read("report.json").contains('\u{1b}'));
}

#[test]
fn a_stage_that_runs_into_a_limit_says_where_it_was() {
    let place = Place::new();
    let run = place.shorthand(&format!("{} spin", probe())).args(["--stdin", "null", "--limit", "cpu_time=100ms"]);
    let output = run.args(["--report", "report.json"]).done().code(152);
    output.says(&["cpu_time limit of 100ms", "before any of its input", "tests/guests/probe/src/lib.rs:"]);
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).expect("JSON");
    let frames = report["stages"][0]["frames"].as_array().expect("frames");
    assert!(!frames.is_empty(), "{report}");
    let run = place.shorthand(&format!("{} alloc", probe())).args(["--stdin", "null", "--limit", "memory=64MiB"]);
    run.done().code(137).says(&["memory limit of 64 MiB", "stages[0].limits.memory", "tests/guests/probe/src/lib.rs:"]);
}

#[test]
fn a_panic_inside_a_panic_is_a_trap() {
    let place = Place::new();
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        place.shorthand(&format!("{guest} panic-in-panic")).input("x").done().code(134).says(&["trapped: "]);
    }
}
