//! What people read: whose words they are, all that is wrong at once, and hints in the form that was typed.

use std::fs;

use stagehost_tests::{
    Place,
    guests::{built, preview1, probe, text},
};

#[test]
fn what_a_guest_prints_is_not_taken_for_the_hosts_words() {
    let place = Place::new();
    let body = "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 15))
        (i64.store (i32.const 64) (i64.const 0x6620_3a72_6f72_7265)) (i64.store (i32.const 72) (i64.const 0x726f_0a67_726f))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16))) (call $exit (i32.const 3))";
    let guest = preview1(&place, "forger.wasm", body).display().to_string();
    let said =
        |flags: &[&str]| place.shorthand(&guest).args(["--stdin", "null"]).args(flags).done().code(3).error_text();
    // As it is, where nobody looks: in files and pipes.
    assert!(said(&[]).starts_with("error: f"), "{}", said(&[]));
    // Every line has its stage's name, and a line that does not end is ended.
    for flags in [&["-v"][..], &["--stderr-prefix", "always"]] {
        let text = said(flags);
        assert!(text.starts_with("forger: error: f"), "{text}");
        assert!(text.lines().filter(|line| line.starts_with("forger: ")).count() >= 2, "{text}");
        assert!(text.contains("\nerror: stage `forger` exited with code 3\n"), "{text}");
    }
    assert!(said(&["-v", "--stderr-prefix", "never"]).starts_with("error: f"));
    // Commands only if all are asked for; and never in a file.
    let run = place.shorthand("sh -c 'echo mine >&2'").args(["--stdin", "null", "--stderr-prefix", "always"]);
    run.done().code(0).says(&["sh: mine"]);
    let json = format!(
        r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{guest}", "stderr": {{"file": "log"}}, "ok_exit": [3]}}]}}"#
    );
    place.write("p.json", json);
    place.stagehost(["run", "p.json", "-v"]).done().code(3);
    assert!(place.read("log").starts_with("error: f"));
}

#[test]
fn check_says_all_that_is_wrong() {
    let place = Place::new();
    let file = r#"{"version": 1, "nmae": "x", "timeout": 5, "stages": [
        {"wasm": "none.wasm"},
        {"wasm": "builtin:cat", "limits": {"memory": "64M"}},
        {"command": ["no-such-program-anywhere"]},
        {"command": ["cat"], "args": ["-u"]}], "stdin": {"file": "missing"}}"#;
    place.write("p.json", file);
    let places = [
        "nmae",
        "timeout",
        "stages[0].wasm",
        "stages[1].limits.memory",
        "stages[2].command",
        "stages[3].args",
        "stdin.file",
    ];
    place.stagehost(["check", "p.json"]).done().code(78).says(&places).says(&["7 errors"]);
    let json = place.stagehost(["check", "p.json", "--json"]).done().code(78).stdout_text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["good"], false);
    let found: Vec<_> =
        json["errors"].as_array().unwrap().iter().map(|error| error["place"].as_str().unwrap()).collect();
    assert!(places.iter().all(|place| found.contains(place)), "{found:?}");
    place.write("good.json", r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}]}"#);
    place.stagehost(["check", "good.json"]).done().code(0).prints("good: 1 stage\n");
    let json = place.stagehost(["check", "good.json", "--json"]).done().code(0).stdout_text();
    assert!(json.contains("\"good\": true"), "{json}");
}

#[test]
fn other_formats_are_known() {
    let place = Place::new();
    for (text, says) in [
        ("version: 1\nstages:\n  - wasm: builtin:cat\n", "looks like YAML"),
        ("---\nversion: 1\n", "looks like YAML"),
        ("version = 1\n[[stages]]\nwasm = \"builtin:cat\"\n", "looks like TOML"),
        ("[[stages]]\nwasm = \"builtin:cat\"\n", "looks like TOML"),
        ("// what it is for\n{\"version\": 1}\n", "JSON with comments"),
        ("{\"version\": 1, // the first\n \"stages\": []}\n", "JSON with comments"),
        ("{\"version\": 1, /* none */ \"stages\": []}\n", "JSON with comments"),
    ] {
        place.write("p.json", text);
        place.stagehost(["check", "p.json"]).done().code(78).says(&[says]);
        place.stagehost(["run", "p.json"]).done().code(78).says(&[says]);
    }
}

#[test]
fn hints_are_in_the_form_that_was_typed() {
    let place = Place::new();
    place.shorthand(":sort").done().code(127).says(&["`sort` is a program here: drop the colon"]);
    place.shorthand("lower").done().code(127).says(&["the stock stage is :lower"]);
    place.shorthand("").done().code(78).says(&["there is no stage", ":cat"]);
    place.write("p.json", r#"{"version": 1, "stages": [{"wasm": "builtin:sort"}]}"#);
    place.stagehost(["run", "p.json"]).done().code(127).says(&["\"command\": [\"sort\"]"]);
    place.write("p.json", r#"{"version": 1, "stages": [{"command": ["lower"]}]}"#);
    place.stagehost(["run", "p.json"]).done().code(127).says(&["the stock stage is builtin:lower"]);
    let said = place.shorthand("./none.wasm").done().code(127).error_text();
    assert!(said.contains("./none.wasm") && !said.contains("././"), "{said}");
    let long = (0..60).map(|n| format!("/nowhere/{n}")).collect::<Vec<_>>().join(":");
    let said = place.shorthand("none").env("PATH", long).done().code(127).error_text();
    assert!(said.contains("more directories of PATH") && said.lines().all(|line| line.len() < 200), "{said}");
}

#[test]
fn a_plan_shows_what_differs_from_the_defaults() {
    let place = Place::new();
    let plan = |flags: &[&str]| {
        place.stagehost([&["plan", "-c", ":cat", "--stdin", "null"][..], flags].concat()).done().code(0).stdout_text()
    };
    assert!(!plan(&[]).contains("handles") && !plan(&[]).contains("grants"), "{}", plan(&[]));
    assert!(plan(&["--limit", "handles=99"]).contains("handles: 99"));
    assert!(plan(&["-v"]).contains("handles: 10000") && plan(&["-v"]).contains("grants: none"));
}

fn with_section(place: &Place, name: &str, section: &str, body: &str) -> String {
    let section = section.replace('"', "\\\"");
    let module = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (@custom "stagehost" "{section}") (func (export "_start") {body}))"#
    );
    text(place, name, &module);
    format!("./{name}")
}

#[test]
fn what_a_component_suggests_holds_it_to_less_and_never_to_more() {
    let place = Place::new();
    let grow = "(if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable))";
    let less = with_section(&place, "less.wasm", r#"{"limits": {"memory": "16MiB", "cpu_time": "5s"}}"#, grow);
    place.stagehost(["plan", "-c", &less]).done().code(0).shows(&["memory: 16 MiB", "cpu_time: 5000 ms"]);
    place.shorthand(&less).args(["--stdin", "null"]).done().code(137).says(&["memory limit of 16 MiB"]);
    // The file's author has the last word.
    place.shorthand(&less).args(["--stdin", "null", "--limit", "memory=128MiB"]).done().code(0);
    let grow = "(if (i32.eq (memory.grow (i32.const 6000)) (i32.const -1)) (then unreachable))";
    let more = with_section(&place, "more.wasm", r#"{"limits": {"memory": "1GiB"}}"#, grow);
    place.stagehost(["plan", "-c", &more]).done().code(0).shows(&["suggests more than the defaults: memory: 1 GiB"]);
    place.shorthand(&more).args(["--stdin", "null"]).done().code(137).says(&["memory limit of 256 MiB"]);
}

#[test]
fn a_failure_names_what_would_probably_help() {
    let place = Place::new();
    place.shorthand("sh -c 'exit 3'").args(["--stdin", "null"]).done().code(3).says(&["--ok-exit sh=3"]);
    let asks = with_section(&place, "asks.wasm", r#"{"grants": {"env": ["HOME"]}}"#, "(call $exit (i32.const 4))");
    place
        .shorthand(&asks)
        .args(["--stdin", "null"])
        .done()
        .code(4)
        .says(&["asks for variable HOME and is not granted it"]);
    // Without a directory a program finds nothing to ask the host for.
    let guest = built("std-probe-p1.wasm").display().to_string();
    place.shorthand(&format!("{guest} list nowhere")).args(["--stdin", "null"]).done().says(&["stages[0].grants.dirs"]);
    place.write("text", "some text\n");
    place.shell("gzip -k text").done().code(0);
    place
        .shorthand(":words | :wc -l")
        .args(["--stdin", "text.gz"])
        .done()
        .code(0)
        .says(&["looks compressed", "gzip -dc"]);
    place.shorthand(":cat").args(["--stdin", "text.gz", "--stdout", "null"]).done().code(0).is_quiet();
    assert!(fs::metadata(place.path("text.gz")).is_ok());
    // A limit's hint names the flag and the field.
    let run = place.shorthand(&format!("{} spin", probe())).args(["--stdin", "null", "--limit", "cpu_time=50ms"]);
    run.done().code(152).says(&["stages[0].limits.cpu_time", "--limit cpu_time="]);
}

#[test]
fn a_timeout_covers_the_run_and_not_its_compiling() {
    let place = Place::new();
    // Thousands of functions: compiling takes far longer than the timeout.
    let functions =
        (0..6_000).map(|n| format!("(func (result i32) (i32.const {n}) (i32.const 1) (i32.add))")).collect::<String>();
    let module = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) {functions}
            (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 0))))"#
    );
    text(&place, "large.wasm", &module);
    let run =
        place.shorthand("./large.wasm").args(["--stdin", "null", "--timeout", "2s"]).env("STAGEHOST_CACHE_DIR", "");
    run.done().code(0).is_quiet();
    place
        .shorthand("sleep 100")
        .args(["--timeout", "200ms"])
        .done()
        .code(124)
        .says(&["timeout of 200ms for planning and running"]);
}

#[test]
fn every_example_of_the_readme_is_good() {
    let place = Place::new();
    let readme = fs::read_to_string(stagehost_tests::repository().join("README.md")).unwrap();
    for directory in ["plugins", "dictionaries", "spool", "examples"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    for name in ["plugins/stem.wasm", "redact.wasm"] {
        text(&place, name, r#"(module (memory (export "memory") 1) (func (export "_start")))"#);
    }
    place.write("README.md", &readme);
    place.write("app.log", "");
    let mut checked = 0;
    for block in readme.split("```").skip(1).step_by(2) {
        let (language, content) = block.split_once('\n').unwrap();
        match language {
            "json" => {
                let value: serde_json::Value =
                    serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {content}"));
                if value.get("version").is_some() {
                    place.write("p.json", content);
                    place.stagehost(["check", "p.json"]).done().code(0);
                } else if value.get("wasm").is_some() || value.get("command").is_some() {
                    place.write("p.json", format!(r#"{{"version": 1, "stages": [{content}]}}"#));
                    place.stagehost(["check", "p.json"]).done().code(0);
                } else {
                    place.write("policy.json", content);
                    place.stagehost(["check", "-c", ":cat", "--policy", "policy.json"]).done().code(0);
                }
                checked += 1;
            }
            "sh" => {
                for line in content.lines().filter(|line| line.starts_with("stagehost run ")) {
                    let check = line.replace("stagehost run", "$STAGEHOST check");
                    place.shell(&check).done().code(0);
                    checked += 1;
                }
            }
            _ => {}
        }
    }
    assert!(checked >= 6, "{checked}");
}

#[test]
fn check_reads_a_pipe_once_and_reports_what_flags_of_wrong_names_do_not_add() {
    let place = Place::new();
    place
        .shell("timeout 60 $STAGEHOST check <(echo '{\"version\": 1, \"stages\": []}')")
        .done()
        .code(0)
        .shows(&["good"]);
    let wrong = "timeout 60 $STAGEHOST check <(echo '{\"version\": 1, \"stages\": [{\"wasm\": 1}], \"nmae\": 1}')";
    place.shell(wrong).done().code(78).says(&["nmae", "stages[0].wasm"]);
    place.write("p.json", r#"{"version": 1, "stages": [{"wasm": "builtin:cat", "name": 7}]}"#);
    let output = place.stagehost(["check", "p.json", "--json", "--ok-exit", "x=1"]).done().code(78);
    let found: serde_json::Value = serde_json::from_str(&output.stdout_text()).unwrap();
    let errors = found["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["code"]), (1, &"invalid-pipeline".into()), "{output}");
}

#[test]
fn arguments_that_are_repeated_forge_no_lines() {
    let place = Place::new();
    for arguments in [
        &["run", "--limit", "a\nerror: forged=1", "-c", ":cat"][..],
        &["run", "--limit=a\nerror: forged=1", "-c", ":cat"],
        &["run", "--env", "A\nerror: forged", "-c", ":cat"],
        &["run", "p.json", "\u{1b}[2J\nerror: forged"],
        &["check\nerror: forged"],
    ] {
        let output = place.stagehost(arguments).done();
        let text = output.error_text();
        assert!(!output.status.success() && text.contains("forged"), "{output}");
        assert!(!text.lines().any(|line| line.starts_with("error: forged")) && !text.contains('\u{1b}'), "{output}");
    }
}
