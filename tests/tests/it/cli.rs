//! The verbs of the command line.

use stagehost_tests::{
    Place,
    guests::{built, probe},
    repository,
};

#[test]
fn the_pipeline_can_come_from_standard_input() {
    let place = Place::new();
    place.write("in", "b\na\n");
    let pipeline = r#"{"version": 1, "stages": [{"wasm": "builtin:head", "args": ["-n", "1"]}]}"#;
    place.stagehost(["run", "-", "--stdin", "in"]).input(pipeline).done().code(0).prints("b\n");
    let run = place.stagehost(["run", "-"]).input(pipeline);
    run.done().code(125).says(&["comes from standard input", "--stdin FILE"]);
}

#[test]
fn the_report_is_written_whatever_happens() {
    let place = Place::new();
    let report = |run: stagehost_tests::Run<'_>, code: i32| -> serde_json::Value {
        run.args(["--report", "report.json"]).done().code(code);
        serde_json::from_str(&place.read("report.json")).unwrap()
    };
    let good = report(place.shorthand(":words | :wc -l").input("a b c"), 0);
    assert_eq!(good["success"], true, "{good}");
    assert_eq!(good["origin"], "stage", "{good}");
    assert_eq!(good["stages"][0]["input_bytes"], 5, "{good}");
    assert_eq!(good["stages"][0]["exit"]["kind"], "ok", "{good}");
    assert_eq!(good["joints"][0]["bytes"], 6, "{good}");
    assert!(good["stages"][0]["peak_memory_bytes"].as_u64().unwrap() > 65_536, "{good}");
    let bad = report(place.shorthand(":nothing"), 127);
    assert_eq!(bad["origin"], "host", "{bad}");
    place.write("bad.json", "{");
    assert_eq!(report(place.stagehost(["run", "bad.json"]), 78)["exit_code"], 78);
    let refused = place.write("text.wasm", "text");
    assert_eq!(report(place.shorthand(&refused.display().to_string()), 126)["exit_code"], 126);
    let failed = report(place.shorthand(&format!("{} exit 9", probe())), 9);
    assert_eq!(failed["blamed"], "probe", "{failed}");
    assert_eq!(failed["stages"][0]["exit"], serde_json::json!({"kind": "exit", "code": 9}));
}

#[test]
fn the_report_can_go_to_a_descriptor() {
    let place = Place::new();
    place.shell("$STAGEHOST run -c ':cat' --stdin null --report-fd 7 7> report").done().code(0).is_quiet();
    assert!(place.read("report").contains("\"success\": true"));
    place.shorthand(":cat").args(["--report", "missing/report"]).done().code(125).says(&["the report missing/report"]);
}

#[test]
fn the_report_never_overwrites_the_pipeline_or_hides_the_end() {
    let place = Place::new();
    let pipeline = r#"{"version": 1, "stdin": "null", "stages": [{"wasm": "builtin:cat"}]}"#;
    place.write("p.json", pipeline);
    let run = place.stagehost(["run", "p.json", "--report", "p.json"]);
    run.done().code(125).says(&["is the pipeline file"]);
    assert_eq!(place.read("p.json"), pipeline);
    place.stagehost(["run", "p.json", "--report", "/dev/full"]).done().code(125).says(&["cannot be written"]);
    let run = place.shorthand(&format!("{} exit 9", probe())).args(["--report", "/dev/full"]);
    run.done().code(9).says(&["cannot be written", "exited with code 9"]);
    place.shorthand(":nothing").args(["--report", "/dev/full"]).done().code(127).says(&["no stock stage"]);
}

#[test]
fn quiet_and_verbose() {
    let place = Place::new();
    place.shorthand(":nothing").arg("-q").done().code(127).is_quiet();
    place.shorthand(&format!("{} exit 3", probe())).arg("-q").done().code(3).is_quiet();
    let run = place.shorthand(":cat | :cat").input("text").arg("-v");
    run.done().code(0).says(&["cat: ended well; 4 B in, 4 B out", "cat-2:", "ring of 256 KiB", "exit code 0"]);
}

#[test]
fn wrong_usage_is_125_for_run_and_2_for_the_rest() {
    let place = Place::new();
    place.stagehost(["run"]).done().code(125).says(&["PIPELINE"]);
    place.stagehost(["run", "--timeout", "30", "-c", ":cat"]).done().code(125).says(&["has no unit", "30s"]);
    place.stagehost(["run", "--limit", "memory=64M", "-c", ":cat"]).done().code(125).says(&["64MiB"]);
    place.stagehost(["run", "--limit", "speed=3", "-c", ":cat"]).done().code(125).says(&["there are: memory, stack"]);
    place.stagehost(["run", "--ok-exit", "x=1", "-c", ":cat"]).done().code(125).says(&["no stage is called"]);
    place.stagehost(["plan"]).done().code(2).says(&["PIPELINE"]);
    place.stagehost(["fly"]).done().code(2).says(&["fly"]);
}

#[test]
fn help_has_examples_and_exit_codes() {
    let place = Place::new();
    for verb in ["run", "check", "plan", "inspect"] {
        let output = place.stagehost([verb, "--help"]).done().code(0);
        assert!(String::from_utf8_lossy(&output.stdout).contains("Example"), "{output}");
    }
    let output = place.stagehost(["run", "--help"]).done().code(0);
    assert!(String::from_utf8_lossy(&output.stdout).contains("137"), "{output}");
}

#[test]
fn plan_shows_stages_rings_and_memory() {
    let place = Place::new();
    let output = place.stagehost(["plan", "-v", "-c", ":words | :count --top 3", "--timeout", "5s"]).done().code(0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in [
        "standard input",
        "words: builtin:words",
        "ring of 256 KiB",
        "--top",
        "memory: 256 MiB",
        "timeout: 5000 ms",
        "worst-case memory",
    ] {
        assert!(text.contains(expected), "{expected}\n{output}");
    }
    let output = place.stagehost(["plan", "-c", ":words | :grep x", "--json"]).done().code(0);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["stages"][0]["joint"], serde_json::json!({"kind": "ring", "bytes": 262_144}), "{plan}");
    assert_eq!(plan["stages"][1]["ok_exit"], serde_json::json!([1]), "{plan}");
    assert!(plan["worst_case_memory_bytes"].as_u64().unwrap() > 512 << 20, "{plan}");
}

#[test]
fn check_says_good_or_what_is_wrong() {
    let place = Place::new();
    place
        .stagehost(["check"])
        .arg(repository().join("examples/top-words.json"))
        .done()
        .code(0)
        .prints("good: 3 stages\n");
    place.write("bad.json", r#"{"version": 1, "stages": [{"wasm": "builtin:wrods"}]}"#);
    place.stagehost(["check", "bad.json"]).done().code(127).says(&["stages[0].wasm", "did you mean builtin:words?"]);
}

#[test]
fn inspect_tells_the_generations_apart() {
    let place = Place::new();
    for (name, expected) in
        [("probe.wasm", "WASI 0.3"), ("std-probe-p2.wasm", "WASI 0.2"), ("std-probe-p1.wasm", "preview1")]
    {
        let output = place.stagehost(["inspect"]).arg(built(name)).done().code(0);
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{output}");
    }
    let output = place.stagehost(["inspect", "builtin:grep", "--json"]).done().code(0);
    let inspection: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(inspection["section"]["ok_exit"], serde_json::json!([1]), "{inspection}");
    place.stagehost(["inspect", "builtin:x"]).done().code(127).says(&["there are: cat"]);
    place.stagehost(["inspect", "missing.wasm"]).done().code(127).says(&["missing.wasm"]);
}

#[test]
fn stages_schema_and_completions() {
    let place = Place::new();
    let output = place.stagehost(["stages"]).done().code(0);
    for stage in stagehost::stock::STOCK {
        assert!(String::from_utf8_lossy(&output.stdout).contains(stage.name), "{output}");
    }
    let output = place.stagehost(["schema"]).done().code(0);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["stages", "stdin", "stdout", "timeout", "limits"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = place.stagehost(["completions", shell]).done().code(0);
        assert!(output.stdout.len() > 1000, "{output}");
    }
}

#[test]
fn a_closed_reader_of_our_own_text_is_success() {
    let place = Place::new();
    for verb in ["stages", "schema", "completions bash", "plan -c :cat"] {
        let run = place.shell(&format!("$STAGEHOST {verb} | true; exit ${{PIPESTATUS[0]}}"));
        run.done().code(0).is_quiet();
    }
}

#[test]
fn a_digest_pins_a_component() {
    let place = Place::new();
    let digest = |digest: &str| {
        let pipeline = format!(r#"{{"version": 1, "stages": [{{"wasm": "builtin:cat", "sha256": "{digest}"}}]}}"#);
        place.write("p.json", pipeline);
        place.stagehost(["run", "p.json"]).input("x").done()
    };
    let output = place.stagehost(["plan", "-c", ":cat", "--json"]).done().code(0);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    digest(plan["stages"][0]["sha256"].as_str().unwrap()).code(0).prints("x");
    digest(&"0".repeat(64)).code(126).says(&["stages[0].sha256", "change the digest"]);
}

#[test]
fn quoting_in_the_shorthand_is_the_shells() {
    let place = Place::new();
    let words = r#"'a b' "c  d" e\ f '$x' "g'h" '|' "" "i\"j\\k" x'y'z"#;
    place
        .shorthand(&format!("{} args {words}", probe()))
        .done()
        .code(0)
        .prints("a b\nc  d\ne f\n$x\ng'h\n|\n\ni\"j\\k\nxyz\n");
}
