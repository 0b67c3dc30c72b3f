//! Pipelines as stages.

use stagehost_tests::Place;

use crate::commands::pipeline;

#[test]
fn nested_pipelines_are_stages() {
    let place = Place::new();
    std::fs::create_dir(place.path("inner")).unwrap();
    place.write("inner/normalise", "#!/bin/sh\ntr A-Z a-z\n");
    place.shell("chmod +x inner/normalise").done().code(0).is_quiet();
    place.write(
        "inner/words.json",
        r#"{"version": 1, "stages": [{"command": ["./normalise"]}, {"wasm": "builtin:words"}]}"#,
    );
    place.write("empty.json", r#"{"version": 1, "stages": []}"#);
    pipeline(
        &place,
        r#"{"version": 1, "stages": [
        {"command": ["cat"]}, {"pipeline": "inner/words.json", "name": "norm"}, {"pipeline": "empty.json"}, {"command": ["sort", "-u"]}]}"#,
    );
    let run = place.stagehost(["run", "p.json", "--report", "report.json"]).input("B a\nb\n");
    run.done().code(0).prints("a\nb\n").is_quiet();
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!(report["stages"][1]["kind"], "pipeline", "{report}");
    assert_eq!(report["stages"][1]["stages"][1]["name"], "norm/words", "{report}");
    assert_eq!(report["joints"][1]["from"], "norm/normalise", "{report}");
    let plan = place.stagehost(["plan", "p.json"]).done().code(0);
    assert!(String::from_utf8_lossy(&plan.stdout).contains("norm/words: builtin:words"), "{plan}");
    // A failure inside is named by both.
    place.write("inner/words.json", r#"{"version": 1, "stages": [{"command": ["sh", "-c", "exit 9"]}]}"#);
    place.stagehost(["run", "p.json"]).done().code(9).says(&["stage `norm/sh` exited with code 9"]);
}

#[test]
fn nested_pipelines_are_checked() {
    let place = Place::new();
    pipeline(&place, r#"{"version": 1, "stages": [{"pipeline": "q.json"}]}"#);
    place.write("q.json", r#"{"version": 1, "stages": [{"pipeline": "p.json"}]}"#);
    place
        .stagehost(["run", "p.json"])
        .done()
        .code(78)
        .says(&["stages[0].pipeline, in q.json: stages[0].pipeline", "contains itself"]);
    place.write("q.json", r#"{"version": 1, "stages": [{"pipeline": "q.json"}]}"#);
    place.stagehost(["run", "p.json"]).done().code(78).says(&["contains itself"]);
    place.write("q.json", r#"{"version": 1, "stages": [{"command": ["nosuchprogram"]}]}"#);
    place.stagehost(["run", "p.json"]).done().code(127).says(&["in q.json: stages[0].command"]);
    place.write("q.json", "{");
    place.stagehost(["run", "p.json"]).done().code(78).says(&["q.json is no good pipeline", "line 1"]);
    place.write("q.json", r#"{"version": 1, "stdin": {"text": "x"}, "stages": [{"command": ["cat"]}]}"#);
    place.stagehost(["run", "p.json"]).done().code(78).says(&["names its own stdin"]);
    place.stagehost(["run", "p.json", "--stdin", "null"]).done().code(0).prints("x");
    pipeline(&place, r#"{"version": 1, "stages": [{"pipeline": "missing.json"}]}"#);
    place.stagehost(["run", "p.json"]).done().code(127).says(&["stages[0].pipeline", "missing.json"]);
    place.write("q.json", r#"{"version": 1, "timeout": "200ms", "stages": [{"command": ["sleep", "1000"]}]}"#);
    pipeline(&place, r#"{"version": 1, "stages": [{"pipeline": "q.json", "name": "slow"}]}"#);
    place.stagehost(["run", "p.json"]).done().code(124).says(&["stage `slow` took longer than its timeout of 200ms"]);
}

#[test]
fn whose_word_counts_inside_a_nested_pipeline() {
    let place = Place::new();
    let prints = r#"{"command": ["sh", "-c", "echo $A $B $C $D"], "name": "s", "env": {"C": "inner stage"}}"#;
    place.write("q.json", format!(
        r#"{{"version": 1, "env": {{"A": "inner file", "B": "inner file", "C": "inner file"}}, "stages": [{prints}]}}"#
    ));
    pipeline(
        &place,
        r#"{"version": 1, "stdin": "null", "env": {"A": "outer file", "D": "outer file"}, "stages": [
        {"pipeline": "q.json", "name": "n", "env": {"B": "outer stage", "C": "outer stage"}}]}"#,
    );
    place.stagehost(["run", "p.json"]).done().code(0).prints("inner file outer stage inner stage outer file\n");
    let run = place.stagehost(["run", "p.json", "--env", "A=flag", "--env", "C=flag"]);
    run.done().code(0).prints("flag outer stage flag outer file\n");
    // Flags name stages as the plan does.
    place.write(
        "q.json",
        r#"{"version": 1, "limits": {"wall_time": "100s"}, "stages": [{"command": ["sleep", "1000"], "name": "s"}]}"#,
    );
    pipeline(
        &place,
        r#"{"version": 1, "stdin": "null", "stages": [{"pipeline": "q.json", "name": "n", "limits": {"wall_time": "100ms"}}]}"#,
    );
    place.stagehost(["run", "p.json"]).done().code(124).says(&["stage `n/s` reached its wall_time limit of 100ms"]);
    let run = place.stagehost(["run", "p.json", "--limit", "n/s.wall_time=200ms", "--limit", "wall_time=1h"]);
    run.done().code(124).says(&["limit of 200ms"]);
    place
        .stagehost(["run", "p.json", "--limit", "x.wall_time=1s"])
        .done()
        .code(125)
        .says(&["no stage is called \"x\""]);
    place.shorthand(":cat").args(["--limit", "cat.processes=3"]).done().code(125).says(&["a wasm stage"]);
}
