//! Runs that can be repeated: clocks that stand, random numbers from a seed, the same output each time.

use std::fs;

use stagehost_tests::{
    Place,
    guests::{built, text},
};

use crate::grants::{guest, run};

#[test]
fn a_frozen_clock_stands_and_sleeping_on_it_takes_no_time() {
    let place = Place::new();
    let frozen = r#"{"clock": {"frozen": "2026-01-01T00:00:00Z"}}"#;
    let stepping = r#"{"clock": {"from": "2026-01-01T00:00:00Z", "step": "1ms"}}"#;
    for generation in ["p2", "p3"] {
        // Two looks at one clock.
        let clock = guest(&place, &format!("{generation}-clock"));
        run(&place, &clock, &[], frozen).code(0);
        run(&place, &clock, &[], stepping).code(1);
        // An hour, by the stage's clock.
        let sleep = guest(&place, &format!("{generation}-sleep"));
        run(&place, &sleep, &[], frozen).code(0);
        run(&place, &sleep, &[], stepping).code(0);
    }
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        run(&place, &guest, &["now"], frozen).code(0).prints("1767225600s 1767225600s\n");
        run(&place, &guest, &["now"], stepping).code(0).prints("1767225600s 1767225600.001s\n");
        run(&place, &guest, &["sleep"], frozen).code(0).prints("3600\n");
    }
}

#[test]
fn seeded_random_numbers_are_the_same_in_all_generations() {
    let place = Place::new();
    let of = |seed: u64, generation: &str| {
        let random = guest(&place, &format!("{generation}-random"));
        run(&place, &random, &[], &format!(r#"{{"random": {{"seed": {seed}}}}}"#)).status.code()
    };
    assert_eq!(of(7, "p2"), of(7, "p3"));
    assert_ne!(of(7, "p2"), of(8, "p2"));
    let hash = |guest: &str| {
        let output = run(&place, guest, &["hash"], r#"{"random": {"seed": 7}}"#).code(0);
        output.stdout_text()
    };
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        assert_eq!(hash(&guest), hash(&guest));
    }
}

#[test]
fn a_deterministic_run_gives_the_same_output_every_time() {
    let place = Place::new();
    let std = built("std-probe-p2.wasm").display().to_string();
    place.write("words.txt", "b a c\n".repeat(10_000));
    let json = format!(
        r#"{{"version": 1, "stdin": {{"file": "words.txt"}}, "stdout": {{"file": "out"}},
            "stages": [{{"wasm": "builtin:words"}}, {{"wasm": "builtin:count"}}, {{"wasm": "{std}", "args": ["pass"]}},
                       {{"wasm": "{std}", "name": "now", "args": ["now"], "ok_exit": [0]}}]}}"#
    );
    place.write("p.json", json);
    let mut seen = Vec::new();
    for _ in 0..5 {
        place.stagehost(["run", "p.json", "--deterministic", "--report", "report.json"]).done().code(0);
        let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).expect("JSON");
        assert_eq!(report["deterministic"], true);
        // Instructions are counted, and the same each time.
        let fuel: Vec<_> = (0..4).map(|stage| report["stages"][stage]["fuel"].as_u64().expect("counted")).collect();
        seen.push((place.read("out"), fuel[3]));
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].0, "0ns 0ns\n");
    // By how many bytes at a time input comes is the same too, whoever writes it and however fast.
    let chunks = r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 4)
        (func (export "_start")
            (loop $l
                (i64.store (i32.const 0) (i64.const 0x0002000000010000))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (i64.store (i32.const 0) (i64.const 0x0000000400000008))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
                (br_if $l (i32.load (i32.const 8))))))"#;
    let chunks = text(&place, "chunks.wasm", chunks).display().to_string();
    place.write("data.txt", "x".repeat(1_000_000));
    let mut sizes = std::collections::BTreeSet::new();
    for buffer in [4096, 65_536, 1_048_576] {
        let json = format!(
            r#"{{"version": 1, "stdin": {{"file": "data.txt"}}, "stdout": {{"file": "sizes"}}, "buffer": {buffer},
                "stages": [{{"wasm": "{std}", "args": ["pass"]}}, {{"wasm": "{chunks}"}}, {{"wasm": "builtin:cat"}}]}}"#
        );
        place.write("chunks.json", json);
        place.stagehost(["run", "chunks.json", "--deterministic"]).done().code(0);
        sizes.insert(fs::read(place.path("sizes")).expect("it was written"));
    }
    assert_eq!(sizes.len(), 1);
    // A loop without end is stopped all the same.
    let spin = format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{std}", "args": ["spin"]}}]}}"#);
    place.write("spin.json", spin);
    place.stagehost(["run", "spin.json", "--deterministic", "--timeout", "300ms"]).done().code(124);
    place.stagehost(["run", "spin.json", "--deterministic", "--limit", "fuel=1000000"]).done().code(152);
    // What is not the same every time is refused.
    place
        .shorthand(":cat | date")
        .args(["--deterministic", "--stdin", "null"])
        .done()
        .code(126)
        .says(&["not the same on every run"]);
    fs::create_dir(place.path("dir")).expect("a new directory");
    for grants in [
        r#"{"dirs": [{"host": "dir"}]}"#,
        r#"{"net": ["127.0.0.1:1"]}"#,
        r#"{"clock": "real"}"#,
        r#"{"env": ["HOME"]}"#,
    ] {
        let json =
            format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "builtin:cat", "grants": {grants}}}]}}"#);
        place.write("refused.json", json);
        place
            .stagehost(["run", "refused.json", "--deterministic"])
            .done()
            .code(126)
            .says(&["not the same on every run"]);
    }
}
