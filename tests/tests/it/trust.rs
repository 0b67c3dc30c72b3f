//! Policies, locks, digests, and what was looked at in the plan.

use std::fs;

use stagehost::{Ends, Host, HostOptions, Plan, PlanOptions, Policy, RunOptions};
use stagehost_tests::{Place, guests::text};

fn pipeline(place: &Place, stage: &str) {
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stage}]}}"#));
}

#[test]
fn a_policy_refuses_what_goes_beyond_it() {
    let place = Place::new();
    for directory in ["allowed", "other"] {
        fs::create_dir(place.path(directory)).expect("a new directory");
    }
    let module = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
    for name in ["allowed/a.wasm", "other/b.wasm"] {
        text(&place, name, module);
    }
    std::os::unix::fs::symlink("../other/b.wasm", place.path("allowed/link.wasm")).expect("a new link");
    place.write("other/in.txt", "x");
    place.write("tool", "#!/bin/sh\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.path("tool"), executable).expect("it is ours");
    let cases: &[(&str, &str, &str, &str)] = &[
        (r#"{"stages": ["wasm"]}"#, r#"{"command": ["true"]}"#, "stages[0]", "stages"),
        (r#"{"plugins": ["allowed"]}"#, r#"{"wasm": "other/b.wasm"}"#, "stages[0].wasm", "plugins"),
        // Wherever a link leads.
        (r#"{"plugins": ["allowed"]}"#, r#"{"wasm": "allowed/link.wasm"}"#, "stages[0].wasm", "plugins"),
        (r#"{"plugins": []}"#, r#"{"command": ["./tool"]}"#, "stages[0].command", "plugins"),
        (r#"{"sha256": true}"#, r#"{"wasm": "allowed/a.wasm"}"#, "stages[0].sha256", "sha256"),
        (
            r#"{"dirs": [{"path": "allowed"}]}"#,
            r#"{"wasm": "allowed/a.wasm", "grants": {"dirs": [{"host": "other"}]}}"#,
            "stages[0].grants.dirs[0].host",
            "dirs",
        ),
        (
            r#"{"dirs": [{"path": "allowed"}]}"#,
            r#"{"wasm": "allowed/a.wasm", "grants": {"dirs": [{"host": "allowed", "access": "write"}]}}"#,
            "stages[0].grants.dirs[0].host",
            "dirs",
        ),
        (
            r#"{"env": ["LANG"]}"#,
            r#"{"wasm": "allowed/a.wasm", "grants": {"env": ["HOME"]}}"#,
            "stages[0].grants.env[0]",
            "env",
        ),
        (
            r#"{"net": ["tcp:127.0.0.1:80"]}"#,
            r#"{"wasm": "allowed/a.wasm", "grants": {"net": ["127.0.0.1:80"]}}"#,
            "stages[0].grants.net[0]",
            "net",
        ),
        (r#"{"sandbox": "strict"}"#, r#"{"command": ["true"]}"#, "stages[0].sandbox", "sandbox"),
        (r#"{"max_stages": 1}"#, r#"{"wasm": "builtin:cat"}, {"wasm": "builtin:cat"}"#, "stages", "max_stages"),
        (r#"{"total_memory": "100MiB"}"#, r#"{"wasm": "builtin:cat"}"#, "stages", "total_memory"),
        (r#"{"total_memory": "100MiB"}"#, r#"{"command": ["true"]}"#, "stages", "total_memory"),
        (
            r#"{"limits": {"memory": "64MiB"}}"#,
            r#"{"wasm": "builtin:cat", "limits": {"memory": "65MiB"}}"#,
            "stages[0].limits.memory",
            "limits.memory",
        ),
        (
            r#"{"limits": {"cpu_time": "10s"}}"#,
            r#"{"wasm": "builtin:cat", "limits": {"cpu_time": "none"}}"#,
            "stages[0].limits.cpu_time",
            "limits.cpu_time",
        ),
        (
            r#"{"limits": {"fuel": 1000}}"#,
            r#"{"wasm": "builtin:cat", "limits": {"fuel": 1001}}"#,
            "stages[0].limits.fuel",
            "limits.fuel",
        ),
        // A program that only the pipeline's own PATH finds.
        (
            r#"{"plugins": ["allowed"]}"#,
            r#"{"command": ["tool"], "env": {"PATH": "."}}"#,
            "stages[0].command",
            "plugins",
        ),
        (r#"{"timeout": "10s"}"#, r#"{"command": ["true"], "leftovers": "keep"}"#, "stages[0].leftovers", "timeout"),
        (
            r#"{"net": ["127.0.0.1:80"]}"#,
            r#"{"command": ["true"], "sandbox": "strict", "grants": {"net": ["tcp:127.0.0.1:80"]}}"#,
            "stages[0].grants.net[0]",
            "net",
        ),
        (
            r#"{"limits": {"stack": "600KiB"}}"#,
            r#"{"wasm": "builtin:cat", "limits": {"stack": "600KiB"}}"#,
            "stages[0].limits.stack",
            "limits.stack",
        ),
        (
            r#"{"limits": {"processes": 3}}"#,
            r#"{"command": ["true"], "limits": {"processes": 4}}"#,
            "stages[0].limits.processes",
            "limits.processes",
        ),
    ];
    for (policy, stage, where_, field) in cases {
        place.write("policy.json", policy);
        pipeline(&place, stage);
        let run = place.stagehost(["run", "p.json", "--policy", "policy.json"]);
        let output = run.done().code(126).says(&[&format!("error: {where_}: "), &format!("the policy's `{field}` ")]);
        if let Some(limit) = field.strip_prefix("limits.") {
            output.says(&[&format!("{limit} is "), " allows "]);
        }
    }
    // Files at the ends, and the time of a run.
    let whole: &[(&str, &str, &str, &str)] = &[
        (r#"{"files": ["allowed"]}"#, r#""stdin": {"file": "other/in.txt"}"#, "stdin.file", "files"),
        (r#"{"files": ["allowed"]}"#, r#""stdin": "null", "stdout": {"file": "other/out"}"#, "stdout.file", "files"),
        (r#"{"timeout": "10s"}"#, r#""stdin": "null", "timeout": "11s""#, "timeout", "timeout"),
        (r#"{"timeout": "10s"}"#, r#""stdin": "null", "timeout": "none""#, "timeout", "timeout"),
        (r#"{"timeout": "10s"}"#, r#""stdin": "null", "kill_after": "1h""#, "kill_after", "timeout"),
        (r#"{"timeout": "10s"}"#, r#""stdin": "null", "linger": "1h""#, "linger", "timeout"),
        // No descriptor of the host either.
        (r#"{"files": ["allowed"]}"#, r#""stdin": "null", "stdout": {"file": "/dev/fd/3"}"#, "stdout.file", "files"),
        (
            r#"{"files": ["allowed"]}"#,
            r#""stdin": "null", "stdout": {"file": "/proc/self/fd/4"}"#,
            "stdout.file",
            "files",
        ),
    ];
    for (policy, rest, where_, field) in whole {
        place.write("policy.json", policy);
        place.write("p.json", format!(r#"{{"version": 1, "stages": [{{"wasm": "builtin:cat"}}], {rest}}}"#));
        let run = place.stagehost(["run", "p.json", "--policy", "policy.json"]);
        run.done()
            .code(126)
            .says(&[&format!("error: {where_}: "), &format!("the policy's `{field}` does not allow it")]);
    }
    place.write("policy.json", r#"{"limts": {}}"#);
    let run = place.stagehost(["run", "p.json", "--policy", "policy.json"]);
    run.done().code(125).says(&["policy.json is no good policy", "limits"]);
}

#[test]
fn commands_inherit_what_a_policy_lets_them() {
    let place = Place::new();
    let script = "printenv STAGEHOST_TEST_WORD || echo nothing; printenv PATH > /dev/null && echo path";
    pipeline(&place, &format!(r#"{{"command": ["sh", "-c", "{script}"]}}"#));
    for (policy, printed) in [
        ("{}", "word\npath\n"),
        (r#"{"env": []}"#, "nothing\npath\n"),
        (r#"{"env": ["STAGEHOST_TEST_WORD"]}"#, "word\npath\n"),
    ] {
        place.write("policy.json", policy);
        let run = place.stagehost(["run", "p.json", "--policy", "policy.json"]).env("STAGEHOST_TEST_WORD", "word");
        run.done().code(0).prints(printed);
    }
}

#[test]
fn a_policys_maximum_is_the_limit_of_who_sets_none() {
    let place = Place::new();
    place.write(
        "policy.json",
        r#"{"limits": {"memory": "64MiB", "cpu_time": "200ms", "handles": 20000}, "timeout": "60s"}"#,
    );
    pipeline(&place, r#"{"wasm": "builtin:cat"}"#);
    let run = place.stagehost(["plan", "-v", "p.json", "--policy", "policy.json"]);
    // The default is less than the most of handles.
    run.done().code(0).shows(&["memory: 64 MiB", "cpu_time: 200 ms", "handles: 10000", "timeout: 60000 ms"]);
    let spin = stagehost_tests::guests::probe();
    pipeline(&place, &format!(r#"{{"wasm": "{spin}", "args": ["spin"]}}"#));
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(152).says(&["cpu_time limit of 200ms"]);
}

#[test]
fn a_lock_tells_what_changed() {
    let place = Place::new();
    let section = |grants: &str| {
        let escaped = format!(r#"{{"grants": {grants}}}"#).replace('"', "\\\"");
        format!(r#"(module (memory (export "memory") 1) (@custom "stagehost" "{escaped}") (func (export "_start")))"#)
    };
    fs::create_dir(place.path("plugins")).expect("a new directory");
    text(&place, "plugins/a.wasm", &section("{}"));
    pipeline(&place, r#"{"wasm": "plugins/a.wasm"}, {"wasm": "builtin:cat"}"#);
    place.stagehost(["run", "p.json", "--locked"]).done().code(126).says(&["there is no lock", "stagehost lock"]);
    place.stagehost(["lock", "p.json"]).done().code(0).shows(&["added plugins/a.wasm (sha256 "]);
    place.stagehost(["run", "p.json", "--locked"]).done().code(0);
    place.stagehost(["lock", "p.json"]).done().code(0).shows(&["nothing has changed"]);
    let lock = place.read("stagehost.lock");
    assert!(lock.contains("plugins/a.wasm") && !lock.contains("builtin"), "{lock}");
    text(&place, "plugins/a.wasm", &section(r#"{"env": ["HOME"]}"#));
    place
        .stagehost(["run", "p.json", "--locked"])
        .done()
        .code(126)
        .says(&["plugins/a.wasm: sha256 ", "plugins/a.wasm: + asks for variable HOME"]);
    // Without the flag the lock is not asked.
    place.stagehost(["run", "p.json"]).done().code(0);
    place.stagehost(["lock", "p.json"]).done().code(0).shows(&["+ asks for variable HOME"]);
    place.stagehost(["run", "p.json", "--locked"]).done().code(0);
    place.write("stagehost.lock", "{");
    place.stagehost(["run", "p.json", "--locked"]).done().code(125).says(&["is no good lock"]);
}

#[test]
fn a_programs_digest_is_checked() {
    let place = Place::new();
    place.write("tool", "#!/bin/sh\necho ran\n");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(place.path("tool"), executable).expect("it is ours");
    let wrong = "0".repeat(64);
    pipeline(&place, &format!(r#"{{"command": ["./tool"], "sha256": "{wrong}"}}"#));
    let output = place.stagehost(["run", "p.json"]).done().code(126).says(&["stages[0].sha256", "has the digest"]);
    let said = output.error_text();
    let right = said.split("has the digest ").nth(1).and_then(|rest| rest.get(..64)).expect("a digest").to_owned();
    pipeline(&place, &format!(r#"{{"command": ["./tool"], "sha256": "{right}"}}"#));
    place.stagehost(["run", "p.json"]).done().code(0).prints("ran\n");
}

#[test]
fn what_was_planned_is_what_is_opened() {
    let place = Place::new();
    for directory in ["race/a/b", "outside"] {
        fs::create_dir_all(place.path(directory)).expect("a new directory");
    }
    place.write("race/a/b/secret.txt", "inner");
    place.write("outside/secret.txt", "OUTER");
    // The first stage puts a link in the place of what the second was granted, before that one starts.
    let swap = r#"(module
        (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_symlink" (func $link (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "bc../../outside")
        (func (export "_start")
            (drop (call $rename (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 3) (i32.const 1) (i32.const 1)))
            (drop (call $link (i32.const 2) (i32.const 13) (i32.const 3) (i32.const 0) (i32.const 1)))))"#;
    text(&place, "swap.wasm", swap);
    let std = stagehost_tests::guests::built("std-probe-p2.wasm").display().to_string();
    place.write(
        "p.json",
        format!(
            r#"{{"version": 1, "stdin": "null", "stages": [
                {{"wasm": "swap.wasm", "grants": {{"dirs": [{{"host": "race/a", "access": "write"}}]}}}},
                {{"wasm": "{std}", "args": ["read", "/b/secret.txt"],
                  "grants": {{"dirs": [{{"host": "race/a/b", "guest": "/b"}}]}}}}]}}"#
        ),
    );
    for _ in 0..5 {
        let output = place.stagehost(["run", "p.json"]).env("STAGEHOST_CACHE_DIR", "").done();
        // "OUTER", as the program shows bytes.
        assert!(!output.stdout_text().contains("[79, 85, 84, 69, 82]"), "{output}");
        if fs::symlink_metadata(place.path("race/a/b")).is_ok_and(|found| found.is_symlink()) {
            fs::remove_file(place.path("race/a/b")).expect("the link");
            fs::rename(place.path("race/a/c"), place.path("race/a/b")).expect("as it was");
        }
    }
}

#[test]
fn a_sandbox_is_for_commands_and_grants_are_for_sandboxes() {
    let place = Place::new();
    let refused = |stage: &str, words: &[&str]| {
        pipeline(&place, stage);
        place.stagehost(["check", "p.json"]).done().code(78).says(words);
    };
    refused(r#"{"wasm": "builtin:cat", "sandbox": "strict"}"#, &["stages[0].sandbox"]);
    refused(r#"{"command": ["cat"], "grants": {"dirs": []}}"#, &["stages[0].grants", "\"sandbox\": \"strict\""]);
    refused(r#"{"command": ["cat"], "sandbox": "strict", "grants": {"clock": "real"}}"#, &["stages[0].grants.clock"]);
    refused(r#"{"command": ["cat"], "sandbox": "strict", "grants": {"net": ["a:*"]}}"#, &["grants.net[0]"]);
    refused(r#"{"command": ["cat"], "on_trap": "finish"}"#, &["stages[0].on_trap"]);
}

#[test]
fn webassembly_is_never_started_as_a_program_and_scripts_are_text() {
    let place = Place::new();
    let executable = |name: &str, bytes: &[u8]| {
        place.write(name, bytes);
        place.shell(&format!("chmod +x {name}")).done().code(0);
    };
    // A component whose custom section a shell would obey.
    executable("poly", b"\0asm\x01\0\0\0\0\x14\x01x\ntouch obeyed; exit 0\n");
    place.shorthand("./poly").done().code(126).says(&["./poly is WebAssembly", "hint: give its name the ending .wasm"]);
    place.write("p.json", r#"{"version": 1, "stages": [{"command": ["./poly"]}]}"#);
    place.stagehost(["run", "p.json"]).done().code(126).says(&["not as \"command\""]);
    // One that took a program's place when it had been planned.
    let host = Host::new(&HostOptions::new().threads(1)).unwrap();
    executable("program", b"#!/bin/sh\ntouch obeyed\n");
    let spec =
        stagehost::spec::parse(br#"{"version": 1, "stdin": "null", "stages": [{"command": ["./program"]}]}"#).unwrap();
    let plan = Plan::new(&spec, &PlanOptions::at(place.path(""), Policy::allow_all())).unwrap();
    place.shell("cp poly swap && mv swap program").done().code(0);
    let outcome = host.run(&plan, Ends::new(), &RunOptions::default());
    assert_eq!((outcome.exit_code, outcome.code.as_str()), (126, "start-failed"), "{outcome:?}");
    // What the system does not know goes to a shell if its first line is text.
    executable("data", b"\x7f\0\x01 touch obeyed\ntouch obeyed\n");
    place.shorthand("./data").done().code(126).says(&["Exec format error"]);
    for (name, bytes) in
        [("utf-16", &b"\xff\xfe touch obeyed\n"[..]), ("control", b"\x01 touch obeyed\ntouch obeyed\n")]
    {
        executable(name, bytes);
        place.shorthand(&format!("./{name}")).done().code(126).says(&["Exec format error"]);
    }
    executable("latin-1", b"# gr\xfc\xdfe\necho latin\n");
    place.shorthand("./latin-1").done().code(0).prints("latin\n");
    executable("script", b"echo script\n");
    place.shorthand("./script").done().code(0).prints("script\n");
    executable("empty", b"");
    place.shorthand("./empty").done().code(0).prints("");
    assert!(!place.path("obeyed").exists());
}

#[test]
fn a_digest_is_of_a_regular_file_and_takes_no_longer_than_the_run_may() {
    let place = Place::new();
    fs::create_dir(place.path("plugins")).unwrap();
    place
        .shell("mkfifo plugins/fifo && truncate -s 256G plugins/huge && chmod +x plugins/fifo plugins/huge")
        .done()
        .code(0);
    place.write("policy.json", r#"{"plugins": ["plugins"], "timeout": "1s", "total_memory": "64MiB"}"#);
    let zeros = "0".repeat(64);
    let check = |program: &str| {
        let stage =
            format!(r#"{{"command": ["plugins/{program}"], "sha256": "{zeros}", "limits": {{"memory": "1MiB"}}}}"#);
        place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stage}]}}"#));
        // Where it would be read whole, there is no room for it.
        place
            .shell(&format!(
                "ulimit -v 1000000; exec {} check p.json --policy policy.json",
                stagehost_tests::binary().display()
            ))
            .done()
    };
    check("fifo").code(126).says(&["it is no regular file"]);
    check("huge").code(124).says(&["the timeout of 1s was over"]);
}

#[test]
fn checking_takes_no_longer_than_the_run_may() {
    let place = Place::new();
    let stages = |stage: &str, count: usize, more: &str| {
        format!(r#"{{"version": 1, "stages": [{}]{more}}}"#, vec![stage; count].join(", "))
    };
    place.write("leaf.json", stages(r#"{"wasm": "builtin:cat"}"#, 2000, ""));
    place.write("mid.json", stages(r#"{"pipeline": "leaf.json"}"#, 2000, ""));
    place.write("p.json", stages(r#"{"pipeline": "mid.json"}"#, 2000, r#", "timeout": "1s""#));
    // Each of its stages is too much by itself, and looking for all that is wrong begins anew behind each.
    let output = place.stagehost(["check", "p.json"]).done().code(124).says(&["the timeout of 1s was over"]);
    assert_eq!(output.error_text().matches("was over").count(), 1, "it began anew: {output}");
    place.write("policy.json", r#"{"max_stages": 10}"#);
    place.stagehost(["check", "leaf.json", "--policy", "policy.json"]).done().code(126).says(&["max_stages"]);
}

#[test]
fn who_may_run_no_program_learns_of_none() {
    let place = Place::new();
    pipeline(&place, r#"{"wasm": "builtin:sh"}"#);
    place.stagehost(["check", "p.json"]).done().code(127).says(&["`sh` is a program here"]);
    place.write("policy.json", r#"{"stages": ["wasm"]}"#);
    let output = place.stagehost(["check", "p.json", "--policy", "policy.json"]).done().code(127);
    assert!(!output.error_text().contains("is a program"), "{output}");
}
