//! How stages and runs end.

use std::time::Duration;

use stagehost_tests::{
    Place,
    guests::{preview1, probe},
};

#[test]
fn an_endless_producer_ends_when_head_has_enough() {
    Place::new().shorthand(&format!("{} yes | :cat | :head -n 1", probe())).done().code(0).prints("y\n").is_quiet();
}

#[test]
fn an_endless_producer_of_the_standard_library_is_excused_too() {
    let place = Place::new();
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"] {
        let guest = stagehost_tests::guests::built(guest);
        let run = place.shorthand(&format!("{} yes | :cat | :head -n 1", guest.display()));
        run.done().code(0).prints("y\n");
    }
}

#[test]
fn a_trap_in_the_middle_names_the_stage_and_leaves_no_file() {
    let place = Place::new();
    let run = place.shorthand(&format!(":cat | {} panic 7 | :cat", probe())).args(["--stdout", "out"]);
    run.input("text\n").done().code(134).says(&["stage `probe` trapped", "lib.rs", "bad record 7"]);
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[test]
fn a_trap_leaves_an_existing_file_as_it_was() {
    let place = Place::new();
    place.write("out", "old");
    place.shorthand(&format!("{} panic 1", probe())).args(["--stdout", "out"]).done().code(134).prints("");
    assert_eq!(place.read("out"), "old");
}

#[test]
fn an_exit_code_is_the_runs_own() {
    for code in [1, 3, 77, 255] {
        let place = Place::new();
        let run = place.shorthand(&format!(":cat | {} exit {code} | :cat", probe()));
        run.input("x").done().code(code).says(&["stage `probe` exited with code"]);
    }
}

#[test]
fn exit_at_once_hands_over_what_was_written() {
    let place = Place::new();
    place.shorthand(&format!("{} exit-now 0", probe())).done().code(0).prints("said before leaving\n");
    place.shorthand(&format!("{} exit-now 5", probe())).done().code(5);
}

#[test]
fn a_spinning_stage_ends_at_the_timeout() {
    let place = Place::new();
    // Once to warm the code cache; then the bound is about the stop, not the compiler.
    place.shorthand(&format!("{} exit 0 | :cat", probe())).done().code(0).prints("");
    let run = place.shorthand(&format!("{} spin | :cat", probe())).args(["--timeout", "1s"]);
    let output = run.done().code(124).says(&["longer than its timeout of 1s"]);
    assert!(output.took >= Duration::from_millis(900), "{output}");
}

#[test]
fn a_stage_that_splices_endless_ends_ends_at_the_timeout() {
    let place = Place::new();
    let run = place.shorthand(&format!("{} splice", probe()));
    run.args(["--timeout", "1s", "--stdin", "/dev/zero", "--stdout", "null"]).done().code(124).times_out_quietly();
}

#[test]
fn a_splice_passes_every_byte() {
    let text = "splice\n".repeat(100_000);
    Place::new()
        .shorthand(&format!(":cat | {} splice | :cat", probe()))
        .input(text.clone())
        .done()
        .code(0)
        .prints(text);
}

#[test]
fn a_stage_that_waits_for_ever_ends_at_the_timeout() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let run = place.shorthand(&format!("{} wait | :cat", probe())).stdin(reader).args(["--timeout", "300ms"]);
    run.done().code(124).prints("");
    drop(writer);
}

#[test]
fn an_endless_preview1_loop_ends_at_the_timeout() {
    let place = Place::new();
    let spin = preview1(&place, "spin.wasm", "(loop (br 0))");
    let run = place.shorthand(&format!("{} | :cat", spin.display())).args(["--timeout", "500ms"]);
    run.done().code(124).prints("");
}

#[test]
fn wasm_traps_have_kinds() {
    let cases = [
        ("unreachable", "wasm `unreachable` instruction executed", "unreachable"),
        ("(drop (i32.load (i32.const -4)))", "out of bounds memory access", "memory-out-of-bounds"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer divide by zero", "integer-division"),
        ("(call_indirect (i32.const 0))", "uninitialized element", "indirect-call"),
    ];
    for (body, message, kind) in cases {
        let place = Place::new();
        let guest = preview1(&place, "guest.wasm", body);
        let run = place.shorthand(&guest.display().to_string()).args(["--report", "report.json"]);
        run.done().code(134).says(&["stage `guest` trapped", message]);
        let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
        assert_eq!(report["stages"][0]["exit"]["kind"], "trap", "{report}");
        assert_eq!(report["stages"][0]["exit"]["trap"], kind, "{report}");
        assert_eq!(report["origin"], "trap", "{report}");
    }
}

#[test]
fn recursion_without_end_is_a_stack_overflow() {
    let place = Place::new();
    let guest = stagehost_tests::guests::text(
        &place,
        "deep.wasm",
        r#"(module (memory (export "memory") 1) (func $f (export "_start") (call $f)))"#,
    );
    place.shorthand(&guest.display().to_string()).done().code(134).says(&["call stack exhausted"]);
}

#[test]
fn the_earliest_failure_is_to_blame() {
    let place = Place::new();
    let run = place.shorthand(&format!("{} copy-exit 4 | {} copy-exit 5", probe(), probe())).input("x");
    let code = run.done().status.code();
    assert!(code == Some(4) || code == Some(5), "the first failure stops the other: {code:?}");
    let pipeline = format!(
        r#"{{"version": 1, "on_failure": "drain", "stdin": {{"text": "x"}}, "stages": [
            {{"wasm": "{0}", "args": ["copy-exit", "4"]}}, {{"wasm": "{0}", "args": ["copy-exit", "5"]}}]}}"#,
        probe()
    );
    place.write("drain.json", pipeline);
    place.stagehost(["run", "drain.json"]).done().code(4).says(&["exited with code 4"]);
}

#[test]
fn accepted_codes_are_no_failure_and_stay_the_runs_code() {
    let place = Place::new();
    // `grep` declares 1 itself; the output is committed.
    place.shorthand(":grep nothing").input("text\n").args(["--stdout", "out"]).done().code(1).is_quiet();
    assert_eq!(place.read("out"), "");
    // What a stranger's component declares counts if the file's author takes it.
    let run = place.shorthand(&format!("{} exit 42", probe())).args(["--stdout", "none"]).done();
    run.code(42).says(&["exited with code 42", "--ok-exit probe=42"]);
    assert!(!place.path("none").exists());
    let json =
        r#"{"version": 1, "stdin": "null", "stages": [{"wasm": "PROBE", "args": ["exit", "42"], "ok_exit": OK}]}"#;
    let json = json.replace("PROBE", &probe());
    place.write("declared.json", json.replace("OK", "\"declared\""));
    place.stagehost(["run", "declared.json", "--stdout", "some"]).done().code(42).is_quiet();
    assert!(place.path("some").exists());
    place.write("listed.json", json.replace("OK", "[41]"));
    place.stagehost(["run", "listed.json"]).done().code(42).says(&["exited with code 42"]);
    place.write("command.json", r#"{"version": 1, "stages": [{"command": ["cat"], "ok_exit": "declared"}]}"#);
    place.stagehost(["run", "command.json"]).done().code(78).says(&["stages[0].ok_exit", "only components declare"]);
    place.shorthand(&format!("{} exit 9", probe())).args(["--ok-exit", "probe=9"]).done().code(9).is_quiet();
    // In the middle an accepted code is simply good.
    place.shorthand(":grep nothing | :wc -l").input("text\n").done().code(0).prints("0\n");
}

#[test]
fn a_failure_upstream_never_looks_like_an_end() {
    let place = Place::new();
    for habit in ["copy-exit 3", "panic-after 2", "exit-now 3"] {
        let run = place.shorthand(&format!("{} {habit} | :count", probe())).input("a\nb\nc\n");
        let output = run.args(["--stdout", "out"]).done();
        assert!(matches!(output.status.code(), Some(3 | 134)), "{output}");
        assert!(place.names().is_empty(), "{:?}", place.names());
    }
}

#[test]
fn under_drain_the_reader_sees_an_error_not_an_end() {
    let place = Place::new();
    let pipeline = format!(
        r#"{{"version": 1, "on_failure": "drain", "stdin": {{"text": "x"}}, "stdout": {{"file": "out"}}, "stages": [
            {{"wasm": "{0}", "args": ["copy-exit", "4"]}}, {{"wasm": "{0}", "name": "reader"}}]}}"#,
        probe()
    );
    place.write("drain.json", pipeline);
    place.stagehost(["run", "drain.json", "--report", "report.json"]).done().code(4).says(&["stage `probe`"]);
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!(report["stages"][1]["exit"]["kind"], "cancelled", "{report}");
    assert_eq!(place.names(), ["drain.json", "report.json"]);
}

#[test]
fn a_stage_that_ignores_its_input_ends_well() {
    let run = Place::new();
    run.shorthand(&format!(":cat | {} early", probe())).input("x".repeat(1 << 20)).done().code(0).is_quiet();
}

#[test]
fn a_broken_pipe_is_shown_to_a_stage_that_asks() {
    let place = Place::new();
    let run =
        place.shorthand(&format!("{} report-broken-pipe | :head -n 0", probe())).args(["--report", "report.json"]);
    run.done().code(0).prints("");
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!(report["stages"][0]["exit"]["kind"], "broken-pipe", "{report}");
}

#[test]
fn a_write_under_way_when_run_returns_arrives() {
    let place = Place::new();
    // One operation's worth: what a host takes only in part, a guest has to offer again, and this one is gone by then.
    for bytes in [1, 100_000] {
        let run = place.shorthand(&format!("{} pending {bytes} | :cat | :wc -c", probe()));
        run.done().code(0).prints(format!("{bytes}\n"));
    }
}

#[test]
fn a_broken_pipe_counts_when_the_stage_says_so() {
    let place = Place::new();
    let pipeline = format!(
        r#"{{"version": 1, "stages": [
            {{"wasm": "{}", "args": ["report-broken-pipe"], "broken_pipe": "error"}},
            {{"wasm": "builtin:cat", "broken_pipe": "error"}},
            {{"wasm": "{}", "args": ["early"], "broken_pipe": "error"}}]}}"#,
        probe(),
        probe()
    );
    place.write("p.json", pipeline);
    // A reader that finished early still excuses: it said that it had what it wanted.
    place.stagehost(["run", "p.json"]).done().code(0).prints("");
}

#[test]
fn standard_error_is_passed_on_and_kept() {
    let place = Place::new();
    let run = place.shorthand(&format!("{} stderr", probe())).args(["--report", "report.json"]);
    run.done().code(0).says(&["on stderr"]);
    assert!(place.read("report.json").contains("on stderr\\n"));
    let pipeline = format!(
        r#"{{"version": 1, "stages": [{{"wasm": "{}", "args": ["stderr"], "stderr": {{"file": "log"}}}}]}}"#,
        probe()
    );
    place.write("p.json", pipeline);
    place.stagehost(["run", "p.json"]).done().code(0).is_quiet();
    assert_eq!(place.read("log"), "on stderr\n");
}

#[test]
fn an_errors_chain_is_printed_and_the_code_is_1() {
    let run = Place::new();
    run.shorthand(&format!("{} error", probe()))
        .done()
        .code(1)
        .says(&["probe: the outer error", "caused by: the inner cause"]);
}

#[test]
fn a_pipeline_without_stages_copies() {
    let place = Place::new();
    place.write("empty.json", r#"{"version": 1, "stages": []}"#);
    place.stagehost(["run", "empty.json"]).input("as it is\n").done().code(0).prints("as it is\n");
    let run = place.stagehost(["run", "empty.json", "--stdin", "/dev/zero", "--stdout", "null", "--timeout", "300ms"]);
    run.done().code(124).prints("");
}

trait TimedOut {
    fn times_out_quietly(self);
}

impl TimedOut for stagehost_tests::Output {
    #[track_caller]
    fn times_out_quietly(self) {
        let said = self.says(&["longer than its timeout"]);
        assert!(!said.error_text().contains("panicked"), "{said}");
    }
}
