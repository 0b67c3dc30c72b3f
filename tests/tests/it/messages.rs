//! What is said about bad input: every message names the place and the remedy, and none is a panic.

use std::fmt::Write;

use stagehost_tests::{Place, guests::built, guests::text};

/// Runs a pipeline file and returns its exit code and message.
fn message(place: &Place, file: &[u8]) -> String {
    place.write("p.json", file);
    shown(place, place.stagehost(["run", "p.json"]).done())
}

fn shown(place: &Place, output: stagehost_tests::Output) -> String {
    assert!(!output.error_text().contains("panicked"), "{output}");
    assert!(output.stdout.is_empty(), "{output}");
    let text = output.error_text().replace(&place.path("").display().to_string(), "DIR/");
    format!("exit code {}\n{text}", output.status.code().unwrap_or(-1))
}

#[test]
fn pipeline_files() {
    let place = Place::new();
    let deep = "[".repeat(1 << 20);
    let nested = format!(r#"{{"version": 1, "stages": {}{}}}"#, "[".repeat(200), "]".repeat(200));
    let stage = |stage: &str| format!(r#"{{"version": 1, "stages": [{stage}]}}"#);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", b"".into()),
        ("not JSON", b"stages: [cat]".into()),
        ("cut short", br#"{"version": 1, "stages": [{"wasm": "buil"#.into()),
        ("trailing comma", b"{\"version\": 1,\n \"stages\": [],}".into()),
        ("a comment", b"{ // one\n}".into()),
        ("not UTF-8", b"{\"version\": 1, \"name\": \xff\xfe}".into()),
        ("a megabyte of brackets", deep.into()),
        ("nested too deeply", nested.into()),
        ("a list", b"[]".into()),
        ("no version", br#"{"stages": []}"#.into()),
        ("another version", br#"{"version": 2, "stages": []}"#.into()),
        ("no stages", br#"{"version": 1}"#.into()),
        ("unknown key", br#"{"version": 1, "stages": [], "timout": "1s"}"#.into()),
        ("unknown key of a stage", stage(r#"{"wasm": "builtin:cat", "arg": []}"#).into()),
        ("unknown limit", stage(r#"{"wasm": "builtin:cat", "limits": {"memroy": 1}}"#).into()),
        ("duplicate key", br#"{"version": 1, "version": 1, "stages": []}"#.into()),
        ("duplicate key deep down", stage(r#"{"wasm": "builtin:cat", "env": {"A": "1", "A": "2"}}"#).into()),
        ("wrong type", stage(r#"{"wasm": ["builtin:cat"]}"#).into()),
        ("wrong type of an argument", stage(r#"{"wasm": "builtin:cat", "args": ["-n", 3]}"#).into()),
        ("nothing to run", stage("{}").into()),
        ("negative size", stage(r#"{"wasm": "builtin:cat", "limits": {"memory": -1}}"#).into()),
        ("a size's unit", stage(r#"{"wasm": "builtin:cat", "limits": {"memory": "64M"}}"#).into()),
        ("a size's fraction", stage(r#"{"wasm": "builtin:cat", "limits": {"memory": "1.5GiB"}}"#).into()),
        ("a huge size", stage(r#"{"wasm": "builtin:cat", "limits": {"memory": "99999999999TiB"}}"#).into()),
        ("a huge ring", stage(r#"{"wasm": "builtin:cat", "buffer": "1GiB"}"#).into()),
        ("a timeout without unit", br#"{"version": 1, "stages": [], "timeout": 30}"#.into()),
        ("a timeout of words", br#"{"version": 1, "stages": [], "timeout": "soon"}"#.into()),
        ("a wrong word", br#"{"version": 1, "stages": [], "on_failure": "retry"}"#.into()),
        ("stdin as a path", br#"{"version": 1, "stages": [], "stdin": "in.txt"}"#.into()),
        ("stdin of two kinds", br#"{"version": 1, "stages": [], "stdin": {"file": "a", "text": "b"}}"#.into()),
        ("append and atomic", br#"{"version": 1, "stages": [], "stdout": {"file": "a", "append": true, "atomic": true}}"#.into()),
        ("two stages of one name", br#"{"version": 1, "stages": [{"wasm": "builtin:cat", "name": "a"}, {"wasm": "builtin:cat", "name": "a"}]}"#.into()),
        ("a variable", stage(r#"{"wasm": "builtin:cat", "args": ["${HOME}"]}"#).into()),
        ("NUL", stage(r#"{"wasm": "builtin:cat", "args": ["\u0000"]}"#).into()),
        ("a bad environment", stage(r#"{"wasm": "builtin:cat", "env": {"A=B": "1"}}"#).into()),
        ("a short digest", stage(r#"{"wasm": "builtin:cat", "sha256": "abc"}"#).into()),
        ("a wrong ignore", stage(r#"{"wasm": "builtin:cat", "ignore": ["exit:x"]}"#).into()),
        ("a forbidden joint", br#"{"version": 1, "stages": [{"wasm": "builtin:cat"}, {"wasm": "builtin:cat", "requires": {"stdin": "forbid"}}]}"#.into()),
        ("a command as a text", stage(r#"{"command": "cat -n"}"#).into()),
        ("an empty command", stage(r#"{"command": []}"#).into()),
        ("two kinds", stage(r#"{"command": ["cat"], "wasm": "builtin:cat"}"#).into()),
        ("args of a command", stage(r#"{"command": ["cat"], "args": ["-n"]}"#).into()),
        ("a directory for wasm", stage(r#"{"wasm": "builtin:cat", "dir": "."}"#).into()),
        ("a limit that cannot be held", stage(r#"{"wasm": "builtin:cat", "limits": {"processes": 3}}"#).into()),
        ("an exit code out of range", stage(r#"{"command": ["cat"], "ok_exit": [300]}"#).into()),
        ("a name with a slash", stage(r#"{"command": ["cat"], "name": "a/b"}"#).into()),
        ("a coprocess", stage(r#"{"coprocess": ["cat"]}"#).into()),
        ("a buffer of nothing", stage(r#"{"command": ["cat"], "buffer": 0}"#).into()),
        ("no such program", stage(r#"{"command": ["./nosuchprogram"]}"#).into()),
        ("no such nested pipeline", stage(r#"{"pipeline": "missing.json"}"#).into()),
        ("no such stock stage", stage(r#"{"wasm": "builtin:gerp"}"#).into()),
        ("no such file", stage(r#"{"wasm": "missing.wasm"}"#).into()),
        ("a stock stage without its prefix", stage(r#"{"wasm": "cat"}"#).into()),
    ];
    let mut all = String::new();
    for (name, file) in cases {
        let _ = writeln!(all, "## {name}\n{}", message(&place, &file));
    }
    place.write("d", "");
    let _ =
        writeln!(all, "## a missing pipeline file\n{}", shown(&place, place.stagehost(["run", "missing.json"]).done()));
    let _ = writeln!(all, "## a directory\n{}", shown(&place, place.stagehost(["run", "."]).done()));
    insta::assert_snapshot!("pipeline_files", all);
}

#[test]
fn a_byte_order_mark_and_an_escaped_variable_are_fine() {
    let place = Place::new();
    place.write(
        "p.json",
        "\u{feff}{\"version\": 1, \"stages\": [{\"wasm\": \"builtin:cat\"}], \"stdin\": {\"text\": \"$${x}\"}}",
    );
    place.stagehost(["run", "p.json"]).done().code(0).prints("${x}");
}

#[test]
fn components() {
    let place = Place::new();
    let probe = std::fs::read(built("probe.wasm")).unwrap();
    text(&place, "library.wasm", r#"(component (core module $m) (export "tools" (core module $m)))"#);
    text(&place, "nothing.wasm", "(component)");
    text(&place, "no-start.wasm", r#"(module (func (export "add")))"#);
    text(&place, "bad-import.wasm", r#"(module (import "env" "magic" (func)) (func (export "_start")))"#);
    text(
        &place,
        "unknown-import.wasm",
        r#"(component
            (import "acme:db/query@1.0.0" (instance $db (export "run" (func))))
            (core module $m (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $export (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $export)))"#,
    );
    text(&place, "start-with-parameters.wasm", r#"(module (func (export "_start") (param i32)))"#);
    place.write("invalid.wasm", b"\0asm\x01\0\0\0\x01\x05\x01\x60\xff\xff\x01");
    place.write("truncated.wasm", &probe[..probe.len() / 2]);
    place.write("header.wasm", &probe[..8]);
    place.write("half-header.wasm", &probe[..4]);
    place.write("empty.wasm", b"");
    place.write("text.wasm", "hello");
    place.write("module.wasm", "(module)");
    place.write("script.wasm", "#!/bin/sh\n");
    place.write("zip.wasm", b"PK\x03\x04rest");
    place.write("gzip.wasm", b"\x1f\x8b\x08rest");
    place.write("elf.wasm", b"\x7fELF\x02\x01\x01\0");
    place.write("binary.wasm", [200; 100]);
    std::fs::create_dir(place.path("directory.wasm")).unwrap();
    let mut damaged = probe.clone();
    // In the code; behind it is what nobody validates.
    let middle = damaged.len() / 8;
    damaged[middle..middle + 64].fill(0xff);
    place.write("damaged.wasm", damaged);
    let mut all = String::new();
    for name in [
        "library",
        "nothing",
        "no-start",
        "bad-import",
        "unknown-import",
        "start-with-parameters",
        "invalid",
        "truncated",
        "header",
        "half-header",
        "empty",
        "text",
        "module",
        "script",
        "zip",
        "gzip",
        "elf",
        "binary",
        "directory",
    ] {
        let output = place.shorthand(&format!("./{name}.wasm")).done();
        let _ = writeln!(all, "## {name}\n{}", shown(&place, output));
    }
    // Where a component of half the size ends depends on who built it.
    insta::with_settings!({filters => vec![("at offset 0x[0-9a-f]{3,}", "at offset 0x…")]}, {
        insta::assert_snapshot!("components", all);
    });
    // What exactly the validator says of damage depends on where it strikes; that it is refused does not.
    place.shorthand("./damaged.wasm").done().code(126).prints("");
}

#[test]
fn shorthand() {
    let place = Place::new();
    let mut all = String::new();
    for words in [
        ":cat > out",
        ":cat < in",
        ":cat && :cat",
        ":cat; :cat",
        ":cat &",
        ":cat | | :cat",
        "| :cat",
        ":cat |",
        ":grep $HOME",
        ":grep \"$(id)\"",
        ":grep `id`",
        ":grep *.txt",
        ":grep (a)",
        ":grep 'open",
        ":grep \"open",
        "nosuchprogram | :wc",
        "A=b env",
        "! true",
        "while true",
        ":gerp x",
        ":grep ~",
        ":cat\n:cat",
    ] {
        let output = place.shorthand(words).done();
        let _ = writeln!(all, "## {words}\n{}", shown(&place, output));
    }
    insta::assert_snapshot!("shorthand", all);
}
