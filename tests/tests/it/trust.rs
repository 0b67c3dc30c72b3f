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
fn what_guests_may_write_to_decides_nothing_that_a_policy_allows() {
    let place = Place::new();
    fs::create_dir_all(place.path("open/in")).unwrap();
    place.write("open/in/file", "x");
    std::os::unix::fs::symlink("open/in", place.path("way")).unwrap();
    let run = |policy: &str| {
        place.write("policy.json", policy);
        place.write(
            "p.json",
            r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "open/in/file"}}"#,
        );
        place.stagehost(["run", "p.json", "--policy", "policy.json"]).done()
    };
    let open = r#""dirs": [{"path": "open", "access": "write"}"#;
    for more in [
        r#"], "files": ["open/in"]}"#,
        r#"], "files": ["way"]}"#,
        r#"], "files": ["open"], "plugins": ["open/in"]}"#,
        r#", {"path": "open/in"}], "files": ["open"]}"#,
    ] {
        run(&format!("{{{open}{more}")).code(126).says(&["is found by way of", "lets guests write to", "hint: name"]);
    }
    run(&format!(r#"{{{open}], "files": ["open"]}}"#)).code(0).prints("x");
    run(r#"{"dirs": [{"path": "open"}, {"path": "open/in"}], "files": ["open/in"]}"#).code(0).prints("x");
    // Be it there or not, and whatever a guest has put there: they find out nothing by that.
    std::os::unix::fs::symlink("../p.json", place.path("open/there")).unwrap();
    std::os::unix::fs::symlink("../nowhere", place.path("open/lost")).unwrap();
    for root in ["none", "none/none", "there", "lost", "there/x", "lost/x"] {
        run(&format!(r#"{{{open}], "files": ["open", "open/{root}"]}}"#)).code(126).says(&["is found by way of"]);
    }
}

#[test]
fn under_a_policy_no_answer_tells_what_is_outside() {
    let place = Place::new();
    for directory in ["roots", "outside"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    place.write("outside/there", "x");
    place.write(
        "policy.json",
        r#"{"files": ["roots"], "plugins": ["roots"], "dirs": [{"path": "roots", "access": "write"}]}"#,
    );
    let asks = |name: &str| {
        [
            format!(r#"[{{"wasm": "builtin:cat"}}], "stdin": {{"file": "{name}"}}"#),
            format!(r#"[{{"wasm": "builtin:cat"}}], "stdout": {{"file": "{name}"}}"#),
            format!(r#"[{{"wasm": "builtin:cat", "stderr": {{"file": "{name}"}}}}]"#),
            format!(r#"[{{"wasm": "{name}"}}]"#),
            format!(r#"[{{"pipeline": "{name}"}}]"#),
            format!(r#"[{{"wasm": "builtin:cat", "grants": {{"dirs": [{{"host": "{name}"}}]}}}}]"#),
            format!(r#"[{{"command": ["./{name}"]}}]"#),
            format!(r#"[{{"command": ["cat"], "dir": "{name}"}}]"#),
            format!(r#"[{{"command": ["there"], "env": {{"PATH": "{name}"}}}}]"#),
            format!(
                r#"[{{"command": ["cat"], "sandbox": "best-effort", "grants": {{"dirs": [{{"host": "{name}"}}]}}}}]"#
            ),
        ]
    };
    let answers = |name: &str| {
        asks(name).map(|asked| {
            place.write("p.json", format!(r#"{{"version": 1, "stages": {asked}}}"#));
            let output = place.stagehost(["check", "p.json", "--policy", "policy.json"]).done().code(126);
            output.error_text().replace(name, "NAME")
        })
    };
    let there = answers("outside/there");
    for name in ["outside/none", "outside/none/none", "outside", "none", "roots/../outside/there"] {
        assert_eq!(answers(name), there, "{name}");
    }
    // Nor does one that would lead out and back in again, over what may be there.
    fs::create_dir(place.path("outside/in")).unwrap();
    place.write("roots/file", "x");
    let absolute = place.path("").display().to_string();
    for (link, way) in [("over", "../outside/in/../../roots"), ("lost", "../outside/no/../../roots")] {
        std::os::unix::fs::symlink(way, place.path("roots").join(link)).unwrap();
        std::os::unix::fs::symlink(
            place.path(way.trim_start_matches("../")),
            place.path("roots").join(format!("{link}-all")),
        )
        .unwrap();
    }
    for name in [
        "roots/../outside/in/../../roots/file".to_owned(),
        "roots/../outside/no/../../roots/file".to_owned(),
        "outside/in/../../roots/file".to_owned(),
        "outside/no/../../roots/file".to_owned(),
        format!("{absolute}/outside/in/../../roots/file"),
        format!("{absolute}/outside/no/../../roots/file"),
        "roots/over/file".to_owned(),
        "roots/lost/file".to_owned(),
        "roots/over-all/file".to_owned(),
        "roots/lost-all/file".to_owned(),
    ] {
        // Where the program is named by a path, it begins with one.
        let answers = answers(&name).map(|answer| answer.replace(&absolute, ""));
        assert_eq!(answers, there.clone().map(|answer| answer.replace(&absolute, "")), "{name}");
    }
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
fn a_nested_pipeline_is_where_its_path_was_given_with_a_policy_and_without() {
    let place = Place::new();
    fs::create_dir_all(place.path("plugins/sub")).unwrap();
    place.write("plugins/beside", "beside\n");
    place.write(
        "plugins/sub/real.json",
        r#"{"version": 1, "stages": [{"command": ["cat", "beside"]}, {"command": ["./tool"]}]}"#,
    );
    place.write("plugins/tool", "#!/bin/sh\ncat; echo tool\n");
    fs::set_permissions(place.path("plugins/tool"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("sub/real.json", place.path("plugins/way.json")).unwrap();
    place.write("policy.json", r#"{"plugins": ["plugins"]}"#);
    place.write("p.json", r#"{"version": 1, "stdin": "null", "stages": [{"pipeline": "plugins/way.json"}]}"#);
    place.stagehost(["run", "p.json"]).done().code(0).prints("beside\ntool\n");
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(0).prints("beside\ntool\n");
    // Behind a wall a script is read all the same.
    let walled = r#"{"command": ["plugins/tool"], "sandbox": "best-effort"}"#;
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{walled}]}}"#));
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(0).prints("tool\n");
    place.write("p.json", r#"{"version": 1, "stdin": "null", "stages": [{"pipeline": "plugins/none.json"}]}"#);
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(127);
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
fn the_kernels_own_directories_are_no_grants_whatever_a_policy_says() {
    let place = Place::new();
    place.write("policy.json", r#"{"dirs": [{"path": "/", "access": "write"}]}"#);
    for directory in ["/", "/proc", "/proc/self", "/sys", "/sys/fs/cgroup", "/sys/kernel", "/dev", "/dev/pts"] {
        if !std::path::Path::new(directory).exists() {
            continue;
        }
        let grant = format!(r#"{{"wasm": "builtin:cat", "grants": {{"dirs": [{{"host": "{directory}"}}]}}}}"#);
        pipeline(&place, &grant);
        for policy in [&["check", "p.json"][..], &["check", "p.json", "--policy", "policy.json"]] {
            place.stagehost(policy).done().code(126).says(&["holds the kernel's own files"]);
        }
        // Nor for commands: without a policy they may see it, if whoever writes the file says so.
        let refused = |access: &str, args: &[&str]| {
            pipeline(
                &place,
                &format!(
                    r#"{{"command": ["true"], "sandbox": "best-effort", "grants": {{"dirs": [{{"host": "{directory}", "access": "{access}"}}]}}}}"#
                ),
            );
            place.stagehost(args).done().status.code() == Some(126)
        };
        let with_policy = ["check", "p.json", "--policy", "policy.json"];
        assert!(refused("read", &with_policy) && refused("write", &with_policy), "{directory}");
        assert!(!refused("read", &["check", "p.json"]), "{directory}");
        assert_eq!(refused("write", &["check", "p.json"]), directory != "/", "{directory}");
    }
}

#[test]
fn what_an_operator_names_leads_out_of_no_directory_of_guests() {
    let place = Place::new();
    fs::create_dir(place.path("work")).unwrap();
    let good = r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": "null"}"#;
    place.write("work/p.json", good);
    place.write("policy.json", r#"{"dirs": [{"path": "work", "access": "write"}]}"#);
    place.write("words", "these are secret");
    place.stagehost(["lock", "work/p.json"]).done().code(0);
    let run = |args: &[&str]| {
        let args = ["check", "work/p.json", "--policy", "policy.json"].iter().chain(args).copied();
        place.stagehost(args.collect::<Vec<_>>()).done()
    };
    run(&["--locked"]).code(0);
    // What a guest puts in their places.
    let answers = |name: &str, args: &[&str]| {
        ["../words", "../policy.json", "../nowhere", "/proc/version", "."].map(|target| {
            let _ = fs::remove_file(place.path(name));
            std::os::unix::fs::symlink(target, place.path(name)).unwrap();
            let output = run(args);
            assert!(!output.status.success(), "{target}: {output}");
            (output.status.code(), output.error_text())
        })
    };
    for (name, args) in [("work/stagehost.lock", &["--locked"][..]), ("work/p.json", &[])] {
        let answers = answers(name, args);
        for answer in &answers[..4] {
            assert_eq!(answer, &answers[0], "it tells what is outside");
        }
        fs::remove_file(place.path(name)).unwrap();
        // And nobody is waited for.
        place.shell(&format!("mkfifo {name}")).done().code(0);
        run(args).says(&["it is no regular file"]);
        fs::remove_file(place.path(name)).unwrap();
        place.write("work/p.json", good);
    }
    // Nor is anything written there.
    fs::create_dir(place.path("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", place.path("work/out")).unwrap();
    std::os::unix::fs::symlink("../outside/x", place.path("work/report")).unwrap();
    for report in ["work/out/report", "work/report"] {
        let args = ["run", "work/p.json", "--policy", "policy.json", "--report", report];
        place.stagehost(args).done().code(125).says(&["is found by way of"]);
    }
    let dumps = ["run", "work/p.json", "--policy", "policy.json", "--coredump", "work/out"];
    place.stagehost(dumps).done().code(125).says(&["lets guests write there"]);
    std::os::unix::fs::symlink("../outside/lock", place.path("work/stagehost.lock")).unwrap();
    place.stagehost(["lock", "work/p.json", "--policy", "policy.json"]).done().code(125);
    assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 0);
    fs::remove_file(place.path("work/stagehost.lock")).unwrap();
    place.stagehost(["lock", "work/p.json", "--policy", "policy.json"]).done().code(0);
    place.stagehost(["run", "work/p.json", "--policy", "policy.json", "--report", "work/r"]).done().code(0);
    assert!(place.read("work/r").contains("\"success\": true"));
    // Where the directory that this runs in is gone, nobody can tell what is where.
    fs::create_dir(place.path("work/gone")).unwrap();
    let policy = place.path("policy.json").display().to_string();
    place.write("outside/p.json", good);
    place
        .shell(&format!("cd work/gone && rmdir ../gone && exec $STAGEHOST run ../out/p.json --policy {policy}"))
        .done()
        .code(78)
        .says(&["it cannot be told whether"]);
    place.shell("mkfifo stagehost.lock").done().code(0);
    place.write("p.json", good);
    place.stagehost(["check", "p.json", "--locked"]).done().code(125).says(&["it is no regular file"]);
    place.shell("cat p.json | $STAGEHOST check /dev/stdin").done().code(0);
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

#[test]
fn the_directory_of_a_pipeline_is_where_its_operator_says() {
    let place = Place::new();
    fs::create_dir_all(place.path("data/v1")).unwrap();
    fs::create_dir_all(place.path("jobs")).unwrap();
    place.write("data/v1/in", "inside");
    for (link, target) in
        [("data/current", "v1"), ("data/out", "../jobs"), ("data/lost", "../nowhere"), ("other", "data")]
    {
        std::os::unix::fs::symlink(target, place.path(link)).unwrap();
    }
    place.write("p.json", r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "in"}}"#);
    let run = |policy: &str, cwd: &str| {
        place.write("policy.json", policy);
        place.stagehost(["run", "p.json", "--policy", "policy.json", "--cwd", cwd]).done()
    };
    let absolute = place.path("data/current").display().to_string();
    for cwd in ["data/current", "data/v1", "other/current", "jobs/../data/current", &absolute] {
        run(r#"{"files": ["data"]}"#, cwd).code(0).prints("inside");
    }
    // Where guests may put a link on the way, it has to stay there.
    for cwd in ["data/current", "data/v1", "other/v1", "other/current", &absolute] {
        run(r#"{"files": ["data"], "dirs": [{"path": "data", "access": "write"}]}"#, cwd).code(0).prints("inside");
    }
    for cwd in ["data/out", "data/lost", "other/out", "other/lost"] {
        run(r#"{"files": ["data"], "dirs": [{"path": "data", "access": "write"}]}"#, cwd)
            .code(126)
            .says(&["is found by way of", "leads out of there, or nowhere"]);
    }
    // A directory is known by the name that the policy gives it, whatever that leads over.
    place.write(
        "p.json",
        r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "jobs/../other/v1/in"}}"#,
    );
    run(r#"{"files": ["jobs/../other"]}"#, ".").code(0).prints("inside");
    run(r#"{"files": ["jobs/../data"]}"#, ".").code(126);
    for name in ["data/v1/in/", "data/v1/in/."] {
        let stdin =
            format!(r#"{{"version": 1, "stages": [{{"wasm": "builtin:cat"}}], "stdin": {{"file": "{name}"}}}}"#);
        place.write("p.json", stdin);
        run(r#"{"files": ["data"]}"#, ".").code(126);
    }
}
