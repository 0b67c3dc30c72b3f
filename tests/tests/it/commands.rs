//! Commands as stages: endings, leftovers, files at their ends, limits, as users see them.

use std::time::Duration;

use rustix::process::Signal;
use stagehost_tests::{Place, guests::probe};

pub(crate) fn pipeline(place: &Place, file: &str) -> std::path::PathBuf {
    place.write("p.json", file)
}

#[test]
fn sort_and_uniq_between_sandboxed_stages() {
    let place = Place::new();
    let run = place.shorthand(":words | sort | uniq -c | :grep 2").input("b a b c a\n");
    run.done().code(0).prints("      2 a\n      2 b\n").is_quiet();
}

#[test]
fn an_endless_producer_ends_when_head_has_enough() {
    Place::new().shorthand("yes | cat | head -1").done().code(0).prints("y\n").is_quiet();
    Place::new().shorthand("yes | :cat | head -1").done().code(0).prints("y\n").is_quiet();
    Place::new().shorthand(&format!("{} yes | cat | :head -n 1", probe())).done().code(0).prints("y\n").is_quiet();
}

#[test]
fn a_signal_death_with_a_living_reader_is_a_failure() {
    let place = Place::new();
    let run = place.shorthand("sh -c 'seq 5; kill -PIPE $$' | sort").args(["--stdout", "out"]);
    run.done().code(141).says(&["stage `sh` died of SIGPIPE"]);
    assert!(place.names().is_empty(), "{:?}", place.names());
}

/// Chains whose first stage ends badly: no reader ever sees an end, and no file appears.
#[test]
fn a_failing_producer_never_looks_like_an_end() {
    let place = Place::new();
    let writes_a_marker = "sh -c 'cat; touch saw-eof'";
    let producers = [
        "sh -c 'seq 5; exit 3'".to_owned(),
        "sh -c 'seq 5; kill -9 $$'".to_owned(),
        format!("{} copy-exit 3", probe()),
        format!("{} panic-after 2", probe()),
    ];
    for producer in &producers {
        for chain in [
            format!("{producer} | {writes_a_marker}"),
            format!("{producer} | {writes_a_marker} | cat"),
            format!("{producer} | cat | {writes_a_marker}"),
            format!("{producer} | :cat | {writes_a_marker}"),
        ] {
            let run = place.shorthand(&chain).input("a\nb\nc\n").args(["--stdout", "out"]);
            let output = run.done();
            assert!(matches!(output.status.code(), Some(3 | 134 | 137)), "{chain}\n{output}");
            assert!(place.names().is_empty(), "{chain}\n{:?}\n{output}", place.names());
        }
    }
}

#[test]
fn under_drain_commands_see_an_end_and_no_file_appears() {
    let place = Place::new();
    for producer in [
        r#"{"command": ["sh", "-c", "seq 2; exit 3"]}"#.to_owned(),
        format!(r#"{{"wasm": "{}", "args": ["copy-exit", "3"]}}"#, probe()),
    ] {
        pipeline(
            &place,
            &format!(
                r#"{{"version": 1, "on_failure": "drain", "stdin": {{"text": "1\n2\n"}}, "stdout": {{"file": "out"}},
                "stages": [{producer}, {{"command": ["sh", "-c", "cat; touch saw-eof"]}}]}}"#
            ),
        );
        place.stagehost(["run", "p.json"]).done().code(3);
        assert_eq!(place.names(), ["p.json", "saw-eof"]);
        std::fs::remove_file(place.path("saw-eof")).unwrap();
    }
    // A sandboxed reader is told that what it read is not all.
    pipeline(
        &place,
        &format!(
            r#"{{"version": 1, "on_failure": "drain", "stdin": "null", "stages": [
            {{"command": ["sh", "-c", "seq 2; exit 3"]}}, {{"wasm": "{}", "name": "reader"}}]}}"#,
            probe()
        ),
    );
    place.stagehost(["run", "p.json", "--report", "report.json"]).done().code(3).prints("1\n2\n");
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!(report["stages"][1]["exit"]["kind"], "cancelled", "{report}");
}

/// `generate | sort > out`, killed half-way.
#[test]
fn a_killed_generator_leaves_no_file_and_its_reader_saw_no_end() {
    let place = Place::new();
    let run = place.shorthand("sh -c 'echo $$ > pid; seq 100; sleep 1000' | sh -c 'sort; touch saw-eof'");
    let mut running = run.args(["--stdout", "out"]).start();
    let path = place.path("pid");
    running.until("the generator runs", || std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let pid: i32 = place.read("pid").trim().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    running.done().code(137).says(&["stage `sh` died of SIGKILL"]);
    assert_eq!(place.names(), ["pid"]);
}

#[test]
fn what_python_does_passes_under_excuse_any() {
    let place = Place::new();
    // What Python does when its reader is gone: a trace, and exit code 1.
    let file = |how: &str| {
        format!(
            r#"{{"version": 1, "stdin": "null", "stages": [
                {{"command": ["sh", "-c", "trap '' PIPE; yes 2>&- || exit 1"], "broken_pipe": "{how}"}},
                {{"command": ["head", "-n", "1"]}}]}}"#
        )
    };
    pipeline(&place, &file("excuse-any"));
    place.stagehost(["run", "p.json"]).done().code(0).prints("y\n");
    pipeline(&place, &file("excuse"));
    place.stagehost(["run", "p.json"]).done().code(1).says(&["stage `sh` exited with code 1"]);
}

#[test]
fn an_accepted_code_of_the_last_command_stays_the_runs() {
    let place = Place::new();
    place.shorthand("echo a | grep b").args(["--ok-exit", "grep=1"]).done().code(1).is_quiet();
    place.shorthand("echo a | grep b").done().code(1).says(&["exited with code 1"]);
    pipeline(
        &place,
        r#"{"version": 1, "stdin": "null", "stages": [{"command": ["sh", "-c", "kill -TERM $$"], "ignore": ["signal:TERM"]}]}"#,
    );
    place.stagehost(["run", "p.json"]).done().code(0).is_quiet();
}

#[test]
fn late_bytes_of_a_grandchild_count() {
    let place = Place::new();
    place.shorthand("sh -c '(sleep 0.5; echo late) & echo now'").done().code(0).prints("now\nlate\n").is_quiet();
    place.shorthand("sh -c '(sleep 0.5; echo late) & echo now' | cat").done().code(0).prints("now\nlate\n").is_quiet();
    let run = place.shorthand("sh -c '(sleep 0.5; echo late) & echo now'").args(["--stdout", "out"]);
    run.done().code(0).is_quiet();
    assert_eq!(place.read("out"), "now\nlate\n");
}

#[test]
fn a_grandchild_that_holds_stderr_cannot_hold_the_run() {
    let place = Place::new();
    let output = place.shorthand("sh -c 'sleep 1000 & echo now'").done().code(0);
    let output = output.says(&["a process left behind, killed: sleep"]);
    assert!(output.took < Duration::from_secs(20), "{output}");
}

#[test]
fn a_grandchild_in_a_session_of_its_own_cannot_hold_the_run() {
    let place = Place::new();
    let run = place
        .shorthand("sh -c 'setsid sh -c \"echo \\$\\$ > pid; exec sleep 1000\" & echo now'")
        .stdout(std::process::Stdio::null());
    let mut running = run.stderr(std::fs::File::create(place.path("stderr")).unwrap()).start();
    let path = place.path("pid");
    running.until("it has its session", || std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let pid: i32 = place.read("pid").trim().parse().unwrap();
    let escaped = rustix::process::Pid::from_raw(pid).unwrap();
    // Whatever left its group is not ours to kill without a cgroup; the test does.
    let killer = std::thread::spawn(move || {
        let deadline = std::time::Instant::now() + stagehost_tests::PATIENCE;
        while std::time::Instant::now() < deadline && !path.with_file_name("stop").exists() {
            std::thread::yield_now();
        }
        rustix::process::kill_process(escaped, Signal::KILL).unwrap();
    });
    running.until("the run says so", || {
        std::fs::read_to_string(place.path("stderr"))
            .is_ok_and(|text| text.contains("still holds its standard error open"))
    });
    place.write("stop", "");
    killer.join().unwrap();
    running.done().code(0);
}

#[test]
fn leftovers_can_be_kept() {
    let place = Place::new();
    // What is left behind goes on once it is told to.
    let file = |leftovers: &str| {
        format!(
            r#"{{"version": 1, "stdin": "null", "linger": "10ms", "stages": [
                {{"command": ["sh", "-c", "(until test -e go; do sleep 0.01; done; touch late) >/dev/null 2>&1 & echo now"],
                  "leftovers": "{leftovers}"}}]}}"#
        )
    };
    pipeline(&place, &file("keep"));
    let script = "$STAGEHOST run p.json; touch go; while ! test -e late; do sleep 0.01; done; echo late";
    place.shell(script).done().code(0).prints("now\nlate\n").is_quiet();
    for name in ["go", "late"] {
        std::fs::remove_file(place.path(name)).unwrap();
    }
    pipeline(&place, &file("kill"));
    place.stagehost(["run", "p.json"]).done().code(0).prints("now\n").says(&["left behind, killed"]);
    assert_eq!(place.names(), ["p.json"]);
}

#[test]
fn leftovers_see_no_end_either() {
    let place = Place::new();
    // It ignores the stop, its leader does not: it must be gone before the pipe closes.
    let reader = "sh -c 'exec 3<&0; (trap \"\" TERM; cat <&3 >/dev/null; touch saw-eof) & exec sleep 1000'";
    for _ in 0..20 {
        place.shorthand(&format!("sh -c 'sleep 0.05; exit 3' | {reader}")).done().code(3);
        assert!(place.names().is_empty(), "{:?}", place.names());
    }
}

#[test]
fn standard_error_is_bounded_and_goes_where_it_should() {
    let place = Place::new();
    let noisy = "echo first >&2; seq 100000 >&2; echo last >&2";
    for (how, said, kept) in [
        ("\"tee\"", true, true),
        ("\"capture\"", false, true),
        ("\"inherit\"", true, false),
        ("\"null\"", false, false),
    ] {
        pipeline(
            &place,
            &format!(
                r#"{{"version": 1, "stdin": "null", "stages": [{{"command": ["sh", "-c", "{noisy}"], "stderr": {how}}}]}}"#
            ),
        );
        let output = place.stagehost(["run", "p.json", "--report", "report.json"]).done().code(0);
        assert_eq!(output.error_text().contains("\n99999\n"), said, "{how}");
        let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
        let tail = report["stages"][0]["stderr"].as_str().unwrap();
        assert!(report["stages"][0]["cpu_ms"].is_u64() && report["stages"][0]["duration_ms"].is_u64(), "{report}");
        if kept {
            assert!(tail.starts_with("first\n1\n") && tail.ends_with("100000\nlast\n"), "{how}");
            assert!(tail.contains("bytes left out") && tail.len() < 70_000, "{how}: {}", tail.len());
        } else {
            assert_eq!(tail, "", "{how}");
        }
    }
    pipeline(
        &place,
        &format!(
            r#"{{"version": 1, "stdin": "null", "stages": [{{"command": ["sh", "-c", "{noisy}"], "stderr": {{"file": "log"}}}}]}}"#
        ),
    );
    place.stagehost(["run", "p.json"]).done().code(0).is_quiet();
    assert!(place.read("log").ends_with("100000\nlast\n"));
}

#[test]
fn eof_early_is_as_in_a_shell() {
    let place = Place::new();
    // The writer ends when its reader has seen the end, or after a while.
    let file = |eof: &str| {
        format!(
            r#"{{"version": 1, "stdin": "null", "stages": [
                {{"command": ["sh", "-c", "echo text; exec >&-; for i in $(seq 200); do test -e saw-eof && exit; sleep 0.01; done; touch waited"],
                  "eof": "{eof}"}},
                {{"command": ["sh", "-c", "cat; touch saw-eof"]}}]}}"#
        )
    };
    pipeline(&place, &file("exit"));
    place.stagehost(["run", "p.json"]).done().code(0).prints("text\n");
    assert_eq!(place.names(), ["p.json", "saw-eof", "waited"]);
    for name in ["saw-eof", "waited"] {
        std::fs::remove_file(place.path(name)).unwrap();
    }
    pipeline(&place, &file("early").replace("seq 200", "seq 20000"));
    place.stagehost(["run", "p.json"]).done().code(0).prints("text\n");
    assert_eq!(place.names(), ["p.json", "saw-eof"]);
}

#[test]
fn a_stage_that_closed_its_output_and_lives_on_is_named() {
    let place = Place::new();
    let run = place.shorthand("sh -c 'echo text; exec >&-; sleep 8' | cat");
    run.done().code(0).prints("text\n").says(&["stage `sh` closed its output but still runs", "\"eof\": \"early\""]);
}

#[test]
fn upstream_can_be_stopped_when_the_last_stage_has_enough() {
    let place = Place::new();
    // It does not notice that its reader is gone, as `tail -f` of old does not.
    let file = r#"{"version": 1, "stdin": "null", "upstream": "stop", "timeout": "60s", "stages": [
        {"command": ["sh", "-c", "echo line; sleep 1000"]}, {"command": ["head", "-n", "1"]}]}"#;
    pipeline(&place, file);
    let output = place.stagehost(["run", "p.json", "--report", "report.json"]).done().code(0).prints("line\n");
    assert!(output.took < Duration::from_secs(30), "{output}");
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!(report["stages"][0]["exit"]["kind"], "cancelled", "{report}");
}

#[test]
fn a_reader_of_stdout_that_left_is_no_failure() {
    let place = Place::new();
    let script = "$STAGEHOST run -c 'yes | cat' --report report.json | head -n 1; echo ${PIPESTATUS[0]}";
    place.shell(script).done().code(0).prints("y\n0\n").is_quiet();
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!((&report["stdout_closed"], &report["success"]), (&true.into(), &true.into()), "{report}");
}

#[test]
fn a_full_disk_behind_a_sandboxed_stage_is_the_hosts_and_behind_a_command_its_own() {
    let place = Place::new();
    let run = place.shorthand("yes | :cat").args(["--stdout", "/dev/full"]);
    run.done().code(125).says(&["/dev/full: No space left on device"]);
    let run = place.shorthand("seq 100000 | cat").args(["--stdout", "/dev/full"]);
    run.done().code(1).says(&["stage `cat` exited with code 1", "No space left"]);
    let run = place.shell("ulimit -f 64; $STAGEHOST run -c 'yes | :cat' --stdout out");
    run.done().code(125).says(&["out: File too large"]);
    let run = place.shell("ulimit -f 64; $STAGEHOST run -c 'yes | cat' --stdout out");
    run.done().code(153).says(&["stage `cat` died of SIGXFSZ"]);
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[test]
fn a_file_that_no_command_may_read_is_found_before_anything_starts() {
    let place = Place::new();
    place.write("program", "no program");
    std::fs::create_dir(place.path("directory")).unwrap();
    for (file, code, said) in [
        (r#"{"command": ["nosuchprogram"]}"#, 127, "stages[1].command: there is no program \"nosuchprogram\""),
        (r#"{"command": ["./program"]}"#, 126, "stages[1].command: ./program is not executable"),
        (r#"{"command": ["./missing"]}"#, 127, "there is no program \"./missing\""),
        (r#"{"command": ["./directory"]}"#, 126, "is a directory, not a program"),
        (r#"{"command": ["cat"], "dir": "missing"}"#, 125, "stages[1].dir"),
        (r#"{"command": ["cat"], "dir": "program"}"#, 125, "is no directory"),
        (r#"{"command": ["cat"], "stderr": {"file": "missing/log"}}"#, 125, "stages[1].stderr.file"),
        (r#"{"command": ["cat"], "requires": {"stdin": "forbid"}}"#, 78, "stages[1].requires.stdin"),
        (r#"{"command": ["cat"], "env": {"PATH": "/nowhere"}}"#, 127, "looked for it in /nowhere"),
    ] {
        pipeline(
            &place,
            &format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"command": ["touch", "started"]}}, {file}]}}"#),
        );
        for verb in ["run", "check", "plan"] {
            place.stagehost([verb, "p.json"]).done().code(code).says(&[said]);
        }
    }
    assert_eq!(place.names(), ["directory", "p.json", "program"]);
}

#[test]
fn commands_inherit_the_environment_as_bytes() {
    let place = Place::new();
    let odd = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xffb");
    let run = place.shorthand("printenv ODD").env("ODD", odd);
    run.done().code(0).prints(b"a\xffb\n");
    place.shorthand("printenv NEW").args(["--env", "NEW=value"]).done().code(0).prints("value\n");
}

#[test]
fn programs_and_directories_are_relative_to_the_file() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("sub/bin")).unwrap();
    place.write("sub/bin/says", "#!/bin/sh\npwd\n");
    place.shell("chmod +x sub/bin/says").done().code(0).is_quiet();
    let sub = place.path("sub").display().to_string();
    place.write("sub/p.json", r#"{"version": 1, "stdin": "null", "stages": [{"command": ["bin/says"]}]}"#);
    place.stagehost(["run", "sub/p.json"]).done().code(0).prints(format!("{sub}\n"));
    place.write("sub/q.json", r#"{"version": 1, "stdin": "null", "dir": "bin", "stages": [{"command": ["./says"]}]}"#);
    place.stagehost(["run", "sub/q.json"]).done().code(0).prints(format!("{sub}/bin\n"));
    place
        .stagehost(["run", "-c", "bin/says", "--stdin", "null", "--cwd", "sub"])
        .done()
        .code(0)
        .prints(format!("{sub}\n"));
    // A script without `#!` is the shell's, as in a shell.
    place.write("plain", "echo plain\n");
    place.shell("chmod +x plain").done().code(0).is_quiet();
    place.shorthand("./plain").done().code(0).prints("plain\n");
}

#[test]
fn children_start_clean() {
    let place = Place::new();
    // SIGPIPE at its default, nothing blocked, the open files that the host was started with, and no descriptor of anybody's.
    let script = "grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/self/status; ulimit -Sn; ls /proc/self/fd | wc -l";
    place.write("script", script);
    let run = place.shell("ulimit -Sn 123; exec 9</dev/null; $STAGEHOST run -c 'sh script' --stdin null");
    let output = run.done().code(0);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[3], "123", "{output}");
    let mask = |line: &str| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!((mask(lines[0]), mask(lines[1]) & (1 << (Signal::PIPE.as_raw() - 1))), (0, 0), "{output}");
    // The three streams, and the directory that `ls` reads.
    assert_eq!(lines[4].trim(), "4", "{output}");
}

#[test]
fn an_ignored_sigchld_loses_no_exit() {
    let place = Place::new();
    place.shell("trap '' CHLD; exec $STAGEHOST run -c 'sh -c \"exit 7\"'").done().code(7);
}

#[test]
fn text_reaches_a_command() {
    let place = Place::new();
    let big = "line\n".repeat(1 << 18);
    place.write(
        "p.json",
        serde_json::json!({"version": 1, "stdin": {"text": big}, "stages": [{"command": ["wc", "-c"]}]}).to_string(),
    );
    place.stagehost(["run", "p.json"]).done().code(0).prints(format!("{}\n", 5 << 18));
}

#[test]
fn a_fifo_is_handed_to_a_command_once_somebody_writes() {
    let place = Place::new();
    place.shell("mkfifo fifo").done().code(0).is_quiet();
    let run = place.shell("(sleep 0.3; echo through) > fifo & $STAGEHOST run -c cat --stdin fifo");
    run.done().code(0).prints("through\n");
    let run = place.shorthand("cat").args(["--stdin", "fifo", "--timeout", "300ms"]);
    run.done().code(124);
}

#[test]
fn the_plan_says_what_each_word_became() {
    let place = Place::new();
    let run = place.stagehost(["plan", "-c", ":grep ERROR | sort -u | ./plugin.wasm --x"]);
    run.done().code(127).says(&["stages[2].wasm", "plugin.wasm"]);
    std::fs::copy(stagehost_tests::guests::built("probe.wasm"), place.path("plugin.wasm")).unwrap();
    let output = place.stagehost(["plan", "-c", ":grep ERROR | sort -u | ./plugin.wasm --x", "--json"]).done().code(0);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let became: Vec<_> = plan["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| (stage["kind"].as_str().unwrap(), stage["args"].to_string(), stage["joint"]["kind"].to_string()))
        .collect();
    assert_eq!(
        became,
        [
            ("wasm", r#"["ERROR"]"#.into(), r#""pipe""#.into()),
            ("command", r#"["-u"]"#.into(), r#""pipe""#.into()),
            ("wasm", r#"["--x"]"#.into(), "null".into())
        ]
    );
    assert!(plan["stages"][1]["runs"].as_str().unwrap().ends_with("/sort"), "{plan}");
    // A line break behind a `|` goes on, as in a shell.
    place.shorthand("\necho a |\n cat\n").done().code(0).prints("a\n");
}

#[test]
fn a_command_that_ignores_the_stop_is_killed() {
    let place = Place::new();
    pipeline(
        &place,
        r#"{"version": 1, "stdin": "null", "timeout": "300ms", "kill_after": "300ms", "stages": [
        {"command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]}]}"#,
    );
    let output = place.stagehost(["run", "p.json"]).done().code(124);
    assert!(output.took < Duration::from_secs(20), "{output}");
    // One that is stopped is woken to end.
    let output = place.shorthand("sh -c 'kill -STOP $$'").args(["--timeout", "300ms"]).done().code(124);
    assert!(output.took < Duration::from_secs(1) + Duration::from_secs(19), "{output}");
}
