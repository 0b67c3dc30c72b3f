//! What the host makes of odd surroundings: denied system calls, few rights, few descriptors, being the first process.

use std::path::PathBuf;

use stagehost_tests::{
    Place,
    guests::{probe, text},
};

/// Starts `run` under a filter that denies what containers deny: newer system calls.
fn under_filter(run: stagehost_tests::Run<'_>) -> stagehost_tests::Running {
    // pidfd_send_signal, pidfd_open, clone3, close_range, pidfd_getfd, preadv2: the numbers are the same on all
    // architectures but the last.
    let preadv2 = if cfg!(target_arch = "x86_64") { 327 } else { 286 };
    // What a kernel that does not know them says; also for clone3, where programs then take clone.
    run.start_without(&[424, 434, 435, 436, 438, preadv2], 38)
}

#[test]
fn denied_system_calls_have_fallbacks() {
    let place = Place::new();
    place.write("in", "b\na\n");
    let run = place.shorthand(":cat | sort | :cat").args(["--stdin", "in", "--stdout", "out"]);
    under_filter(run).done().code(0).is_quiet();
    assert_eq!(place.read("out"), "a\nb\n");
    let run = place.shorthand("sh -c 'sleep 1000 & sleep 1000' | cat").args(["--timeout", "300ms"]);
    under_filter(run).done().code(124);
    let run = place.shorthand("sh -c 'sleep 1000 & echo now'");
    under_filter(run).done().code(0).says(&["left behind, killed"]).prints("now\n");
    let run = place.shorthand("sh -c 'ls /proc/self/fd | wc -l'");
    under_filter(run).done().code(0).prints("4\n");
    let run = place.shell("$STAGEHOST run -c 'echo through' --stdout /dev/fd/7 7> seven; cat seven; rm seven");
    under_filter(run).done().code(0).prints("through\n");
    // Whatever number a descriptor has, and however few the stage may have.
    let run =
        place.shell("exec 90< /dev/null; $STAGEHOST run -c 'sh -c \"ls /proc/self/fd | wc -l\"' --limit open_files=10");
    under_filter(run).done().code(0).prints("4\n");
    let run = place.shorthand(&format!("{} copy-exit 3 | sh -c 'cat; touch saw-eof'", probe())).input("x");
    under_filter(run).done().code(3);
    assert_eq!(place.names(), ["in", "out"]);
}

/// Lets the user nobody into the place, with a copy of a program. Another process makes the copy: a descriptor of ours,
/// open for writing, could be inherited by what other tests start, and then the copy could not be run.
fn as_nobody<'a>(place: &'a Place, program: &std::path::Path) -> stagehost_tests::Run<'a> {
    let everybody = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(place.path(""), everybody).unwrap();
    let script = format!("cp '{}' program && chmod 755 program", program.display());
    place.shell(&script).done().code(0).is_quiet();
    let program = place.path("program").display().to_string();
    let limited = format!("ulimit -n 1024; exec '{program}'");
    if rustix::process::geteuid().is_root() {
        let run = place.program("setpriv").args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        run.args(["bash", "-c", &limited])
    } else {
        place.program("bash").args(["-c", &limited])
    }
}

#[test]
fn a_thousand_mixed_runs_at_once_in_a_process_of_few_descriptors() {
    let place = Place::new();
    let crowd = PathBuf::from(env!("CARGO_BIN_EXE_crowd"));
    as_nobody(&place, &crowd).done().code(0).prints("right: 1000\n");
}

#[test]
fn as_the_first_process_it_ends_with_a_code() {
    let place = Place::new();
    let can = place.program("unshare").args(["-rpf", "--mount-proc", "true"]).done().status.success();
    if !can {
        return;
    }
    let inside = |script: &str| {
        let run =
            place.program("unshare").args(["-rpf", "--mount-proc", "--kill-child"]).arg(stagehost_tests::binary());
        run.args(["run", "-c", script])
    };
    inside("sh -c 'exit 3'").done().code(3);
    inside("yes | head -n 1").done().code(0).prints("y\n");
    // It reaps what is left to it: of ten orphans that ended early, none is there as a zombie when the run ends.
    let orphans = "sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.1 &); done; sleep 3; grep -l \"^State:.Z\" /proc/[0-9]*/status 2>/dev/null | wc -l'";
    inside(orphans).done().code(0).prints("0\n");
    // Stopped by a signal, the first process cannot die of it.
    inside("sh -c 'kill -TERM 1; sleep 1000'").done().code(143);
}

#[test]
fn a_working_directory_may_be_deeper_than_any_path() {
    let place = Place::new();
    let guest = "tests/grants/p1-open.wat";
    let guest = std::fs::read_to_string(stagehost_tests::repository().join(guest)).unwrap();
    stagehost_tests::guests::text(&place, "opens.wasm", &guest);
    place.write(
        "ends.json",
        r#"{"version": 1, "stdin": {"file": "in"}, "stdout": {"file": "out"}, "stages": [
            {"command": ["sh", "-c", "cat; cat x"], "dir": "d"}, {"command": ["../prog"], "dir": "d"}, {"command": ["./prog"]}]}"#,
    );
    place.write(
        "grants.json",
        r#"{"version": 1, "stdin": "null", "stages": [
            {"wasm": "./opens.wasm", "args": ["x"], "grants": {"dirs": [{"host": "d", "guest": "d"}]}}]}"#,
    );
    // 25 directories of 200 bytes each, which is over 4,096.
    let script = r#"
        set -e
        files="$PWD"; name=$(printf 'd%.0s' {1..200})
        for i in {1..25}; do mkdir "$name"; cd -P "$name" 2> /dev/null || cd "$name"; done
        cp "$files"/*.json "$files/opens.wasm" .
        printf 'in\n' > in; mkdir d; printf 'in d\n' > d/x; printf '#!/bin/sh\necho prog; exec cat\n' > prog; chmod +x prog
        $STAGEHOST run -c ':cat | cat' --stdin in --stdout first --report report
        cat first; test -s report
        $STAGEHOST run -c './prog | :cat' --stdin in
        $STAGEHOST run ends.json; cat out
        $STAGEHOST run grants.json && $STAGEHOST check grants.json && $STAGEHOST lock grants.json > lock
        $STAGEHOST run grants.json --locked"#;
    let expected = "in\nprog\nin\nprog\nprog\nin\nin d\ngood: 1 stage\n";
    place.shell(script).done().code(0).prints(expected).is_quiet();
    // What removes the place goes by names.
    place.shell("rm -rf ddd*").done().code(0);
}

#[test]
fn names_of_any_bytes_are_taken_everywhere() {
    let place = Place::new();
    let guest = std::fs::read_to_string(stagehost_tests::repository().join("tests/grants/p1-open.wat")).unwrap();
    stagehost_tests::guests::text(&place, "opens.wasm", &guest);
    let script = r#"
        set -e
        e=$'\xe9'; f=$'\xff'
        printf 'in\n' > "in$e"; mkdir "d$f"; printf 'in d\n' > "d$f/x"; mv opens.wasm "opens$e.wasm"
        printf '#!/bin/sh\nprintf "%%s\\n" "$@"\n' > "prog$e"; chmod +x "prog$e"
        # Flags, the shorthand, variables.
        $STAGEHOST run -c ':cat' --stdin "in$e" --stdout "out$e" --report "report$e"
        cat "out$e"; test -s "report$e"
        $STAGEHOST run -c "cat in$e | cat"
        $STAGEHOST run -c "./prog$e a$e 'b$f c'"
        $STAGEHOST run -c 'sh -c "printf %s \"\$V\""' --env "V=$e$f"
        # A file, whose texts have the bytes as they are or as their characters, and whose name is no text either.
        {
            printf '{"version": 1, "stdin": {"file": "in%s"}, "stdout": {"file": "whole\\udbff\\udfe9"}, "stages": [' "$e"
            printf '{"command": ["cat", "-", "../in\\udbff\\udfe9", "x"], "dir": "d%s"},' "$f"
            printf '{"wasm": "builtin:cat"}]}'
        } > "p$e.json"
        $STAGEHOST run "p$e.json"; cat "whole$e"
        {
            printf '{"version": 1, "stdin": "null", "stages": [{"wasm": "./opens%s.wasm", "args": ["x"],' "$e"
            printf '"grants": {"dirs": [{"host": "d\\udbff\\udfff", "guest": "d"}]}}]}'
        } > "g$e.json"
        $STAGEHOST check "g$e.json"; $STAGEHOST run "g$e.json"; $STAGEHOST inspect "opens$e.wasm" > inspected"#;
    let mut expected = b"in\nin\na\xe9\nb\xff c\n\xe9\xff".to_vec();
    expected.extend(b"in\nin\nin d\ngood: 1 stage\n");
    place.shell(script).done().code(0).prints(expected).is_quiet();
    // A sandboxed stage is told text only; what is shown is never lost in a replacement character.
    let refused = place.shell("$STAGEHOST run -c $'./opens\\xe9.wasm x\\xff' --stdin null").done();
    refused.code(126).says(&["`x\\xff` is not UTF-8"]);
    place.shell("$STAGEHOST run -c $'./none\\xe9.wasm'").done().code(127).says(&["./none\\xe9.wasm does not exist"]);
    // The characters that stand for bytes are characters to a guest and in a text.
    let probe = stagehost_tests::guests::built("std-probe-p1.wasm").display().to_string();
    place.write(
        "text.json",
        r#"{"version": 1, "stdin": {"text": "a\udbff\udfe9"}, "stages": [{"wasm": "builtin:cat"}]}"#,
    );
    place.stagehost(["run", "text.json"]).done().code(0).prints("a\u{10ffe9}");
    place.shorthand(&format!("{probe} args \u{10ffe9}")).done().code(0).shows(&["\u{10ffe9}"]);
    place.write("text.json", b"{\"version\": 1, \"stdin\": {\"text\": \"a\xe9\"}, \"stages\": []}");
    place.stagehost(["run", "text.json"]).done().code(78).says(&["the text for standard input is not UTF-8"]);
    // A sandboxed stage does without a variable that it cannot be told; a command has it.
    let run =
        place.shell("$STAGEHOST run -c $':cat | sh -c \"cat; printf %s \\$V\"' --stdin null --env V=$'\\xe9'").done();
    run.code(0).prints(b"\xe9").says(&["was not told the variable V"]);
    // A file in another encoding is still one.
    place.write("utf16.json", b"{\0\"\0v\0\xff\0");
    place.stagehost(["check", "utf16.json"]).done().code(78).says(&["not UTF-8"]);
}

#[test]
fn calls_that_fail_cost_no_more_where_backtraces_are_asked_for() {
    let place = Place::new();
    let guest = r#"(module
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $n i32)
          (loop $l
            (drop (call $close (i32.const 77)))
            (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 500000))))))"#;
    let file = text(&place, "fails.wasm", guest).display().to_string();
    // Of processor time, which a busy machine has no less of: with the host's stack for each it takes ten times as much.
    let run = place.shorthand(&file).args(["--stdin", "null", "--limit", "cpu_time=3s"]);
    run.env("RUST_BACKTRACE", "1").env("RUST_LIB_BACKTRACE", "1").done().code(0).is_quiet();
}
