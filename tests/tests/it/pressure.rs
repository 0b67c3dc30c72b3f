//! The host where something is short or damaged: one line and exit code 125 at once, never a panic, a hang or blame on a plugin.

use std::fs;

use rustix::process::Signal;
use stagehost_tests::{
    Place,
    guests::{built, probe, text},
};

/// Runs a pipeline under `ulimit`, from what is far too little to what is enough. What is too little is told in a line.
fn under(limits: &[&str], pipeline: &str) {
    let place = Place::new();
    let mut good = 0;
    for limit in limits {
        let run =
            place.shell(&format!("ulimit {limit}; echo text | timeout 60 $STAGEHOST run -c '{pipeline}' --stdout out"));
        let output = run.done();
        let said = output.error_text();
        assert!(!said.contains("panicked") && !said.contains("trapped"), "{limit}: {output}");
        match output.status.code() {
            Some(0) => {
                good += 1;
                assert_eq!(place.read("out"), "text\n", "{limit}: {output}");
                fs::remove_file(place.path("out")).unwrap();
            }
            Some(125) => {
                assert!(said.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{limit}: {output}");
                assert!(!place.path("out").exists(), "{limit}: {output}");
            }
            _ => panic!("{limit}: {output}"),
        }
    }
    assert!(good > 0, "{pipeline}: none of {limits:?} is enough");
}

#[test]
fn too_few_descriptors_are_told() {
    let limits = ["-n 7", "-n 9", "-n 11", "-n 13", "-n 15", "-n 17", "-n 19", "-n 21", "-n 24", "-n 64"];
    under(&limits, ":cat | cat | :cat");
    under(&limits, &format!("{} pass | :cat", built("std-probe-p1.wasm").display()));
    // Where all but the sandbox itself finds enough.
    under(&["-n 9", "-n 10", "-n 11", "-n 12", "-n 64"], ":cat");
}

#[test]
fn too_little_address_space_is_told_and_little_is_enough() {
    under(&["-v 60000", "-v 90000", "-v 2000000"], &format!("{} pass | :cat", built("std-probe-p1.wasm").display()));
    let place = Place::new();
    // With nothing compiled yet, the compiler needs more than the stages.
    let mut ended = [0; 2];
    for space in ["250000", "330000", "370000", "410000", "2000000"] {
        let script = format!(
            "rm -rf cold; ulimit -v {space}; STAGEHOST_CACHE_DIR=$PWD/cold timeout 60 $STAGEHOST run -c ':cat' --stdin null"
        );
        let output = place.shell(&script).done();
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 125)), "{space}: {output}");
        let errors = output.error_text().lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, usize::from(code == Some(125)), "{space}: {output}");
        ended[usize::from(code == Some(0))] += 1;
    }
    assert!(ended[1] > 0, "one of them is enough");
    // Wherever it runs out: a line and the host's code, never an abort.
    let pipeline = format!(":grep text | {} pass | sort", built("std-probe-p2.wasm").display());
    for space in (100_000..700_000).step_by(8_000) {
        let script = format!("ulimit -v {space}; echo text | timeout 60 $STAGEHOST run -c '{pipeline}' --stdout out");
        let output = place.shell(&script).done();
        match output.status.code() {
            Some(0) => assert_eq!(place.read("out"), "text\n", "{space}: {output}"),
            Some(125) => {
                assert!(output.error_text().lines().any(|line| line.starts_with("error: ")), "{space}: {output}");
                assert!(!place.path("out").exists(), "{space}: {output}");
            }
            // What the system's own programs do without memory is theirs to say.
            Some(127) if output.error_text().contains("sort") => {}
            _ => panic!("{space}: {output}"),
        }
        let _ = fs::remove_file(place.path("out"));
    }
    // The guest's own limit holds there too.
    let run = place
        .shell(&format!("ulimit -v 2000000; $STAGEHOST run -c '{} alloc' --limit memory=32MiB --stdin null", probe()));
    run.done().code(137).says(&["memory limit of 32 MiB"]);
}

#[test]
fn too_few_threads_are_told() {
    // The limit counts a user's processes and threads, and does not hold for root: so another user runs it, who has none.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    place.shell("chmod 755 . && cp $STAGEHOST program && chmod 755 program").done().code(0).is_quiet();
    let mut good = 0;
    for most in [3, 4, 6, 8, 10, 12, 64] {
        let script = format!("ulimit -u {most}; exec ./program run -c ':cat | :cat' --stdin null");
        let run = place.program("setpriv").args([
            "--reuid",
            "64321",
            "--regid",
            "64321",
            "--clear-groups",
            "bash",
            "-c",
            &script,
        ]);
        let output = run.env("STAGEHOST_CACHE_DIR", "").done();
        let said = output.error_text();
        assert!(!said.contains("panicked"), "{most}: {output}");
        match output.status.code() {
            Some(0) => good += 1,
            Some(125) => assert!(said.starts_with("error: "), "{most}: {output}"),
            _ => panic!("{most}: {output}"),
        }
    }
    assert!(good > 0);
}

#[test]
fn a_damaged_code_cache_is_a_cache_miss() {
    let place = Place::new();
    text(
        &place,
        "ends.wasm",
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 7))))"#,
    );
    let cache = place.path("cache");
    let run = || place.shorthand("./ends.wasm").args(["--stdin", "null"]).env("STAGEHOST_CACHE_DIR", &cache).done();
    run().code(7);
    let files = fs::read_dir(cache.join("stagehost-code")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| !path.ends_with("CACHEDIR.TAG")).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let whole = fs::read(file).unwrap();
    // Bytes all over the file, its first and its last among them; and its end missing.
    let places = (0..40).map(|n| n * (whole.len() - 1) / 39);
    for at in places {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        fs::write(file, &damaged).unwrap();
        run().code(7);
        // It was compiled again, and is whole again.
        assert_eq!(fs::read(file).unwrap(), whole, "byte {at}");
    }
    for length in [0, 1, 15, whole.len() / 2, whole.len() - 1] {
        fs::write(file, &whole[..length]).unwrap();
        run().code(7);
        assert_eq!(fs::read(file).unwrap(), whole, "{length} bytes");
    }
}

#[test]
fn without_proc_it_works_or_says_what_is_missing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    let guest = built("std-probe-p1.wasm").display().to_string();
    let grants = r#"{"dirs": [{"host": "empty", "guest": "d"}]}"#;
    place.write(
        "grant.json",
        format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{guest}", "grants": {grants}}}]}}"#),
    );
    let without = |command: &str| {
        place
            .shell(&format!("exec unshare -m bash -c 'mount --bind empty /proc && {command}'"))
            .env("STAGEHOST_CACHE_DIR", "")
            .done()
    };
    without(&format!("echo text | $STAGEHOST run -c \"{guest} pass | cat | :cat\" --stdout out --report r.json"))
        .code(0)
        .is_quiet();
    assert_eq!(place.read("out"), "text\n");
    assert!(place.read("r.json").contains("\"success\": true"));
    without("echo more | $STAGEHOST run -c cat --stdout out").code(0).is_quiet();
    assert_eq!(place.read("out"), "more\n");
    without("$STAGEHOST run grant.json").code(125).says(&["/proc"]);
    without("$STAGEHOST run -c cat --stdin null --limit memory=1GiB").code(126).says(&["/proc is not mounted"]);
}

#[test]
fn a_stop_with_a_continue_right_behind_it_stops_nothing() {
    let place = Place::new();
    let mut running = place.shorthand("sh -c ': > started; read x < go'").args(["--stdin", "null"]).start();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("go"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    running.until("the command runs", || place.path("started").exists());
    for _ in 0..200 {
        running.signal(Signal::TSTP);
        running.signal(Signal::CONT);
    }
    // Whoever is stopped does not see what comes now.
    fs::write(place.path("go"), "go\n").unwrap();
    running.done().code(0);
}

#[test]
fn readiness_is_the_kernels_answer() {
    // Reads what is there, then asks whether there is more, with a deadline: as `select` does.
    let place = Place::new();
    let module = r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
          (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
          ;; Says that it has it.
          (i32.store (i32.const 4) (i32.load (i32.const 16)))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
          ;; A read of standard input, or 100 ms.
          (i64.store (i32.const 200) (i64.const 1)) (i32.store8 (i32.const 208) (i32.const 1)) (i32.store (i32.const 216) (i32.const 0))
          (i64.store (i32.const 248) (i64.const 2)) (i32.store8 (i32.const 256) (i32.const 0))
          (i32.store (i32.const 264) (i32.const 1)) (i64.store (i32.const 272) (i64.const 100000000))
          (if (call $poll (i32.const 200) (i32.const 400) (i32.const 2) (i32.const 500)) (then (call $exit (i32.const 9))))
          (if (i32.ne (i32.load (i32.const 500)) (i32.const 1)) (then (call $exit (i32.const 8))))
          ;; It was the clock.
          (call $exit (i32.ne (i64.eq (i64.load (i32.const 400)) (i64.const 2)) (i32.const 1)))))"#;
    let guest = text(&place, "selects.wasm", module).display().to_string();
    // The input stays open until it has ended: nothing more ever comes.
    let script =
        format!("mkfifo in; exec 8<>in; echo once >&8; $STAGEHOST run -c '{guest}' < in; code=$?; rm in; exit $code");
    place.shell(&script).done().code(0).prints("once\n");
    // Between stages too: the first one waits for more of it, and is stopped when the last has ended.
    let json = format!(
        r#"{{"version": 1, "upstream": "stop", "stages": [{{"wasm": "builtin:cat"}}, {{"wasm": "{guest}"}}]}}"#
    );
    place.write("p.json", json);
    let script = "mkfifo in; exec 8<>in; echo once >&8; $STAGEHOST run p.json < in; code=$?; rm in; exit $code";
    place.shell(script).done().code(0).prints("once\n");
}
