//! The ends of a pipeline: files, FIFOs, devices and inherited descriptors.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use stagehost_tests::{
    Place,
    guests::{preview1, probe},
};

fn mkfifo(place: &Place, name: &str) {
    mknodat(CWD, place.path(name), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn an_output_appears_whole_and_only_when_the_run_succeeded() {
    let place = Place::new();
    place.shorthand(":cat").input("whole\n").args(["--stdout", "out"]).done().code(0).is_quiet();
    assert_eq!(place.read("out"), "whole\n");
    place.shorthand(&format!("{} copy-exit 3", probe())).input("half").args(["--stdout", "out"]).done().code(3);
    assert_eq!(place.read("out"), "whole\n");
    assert_eq!(place.names(), ["out"]);
}

#[test]
fn a_new_file_is_made_under_the_umask_and_an_old_one_keeps_its_mode() {
    let place = Place::new();
    let run = place.shell("umask 027; echo new | $STAGEHOST run -c ':cat' --stdout new");
    run.done().code(0).is_quiet();
    assert_eq!(fs::metadata(place.path("new")).unwrap().mode() & 0o777, 0o640);
    place.write("old", "old");
    fs::set_permissions(place.path("old"), fs::Permissions::from_mode(0o604)).unwrap();
    place.shorthand(":cat").input("newer").args(["--stdout", "old"]).done().code(0).is_quiet();
    assert_eq!(place.read("old"), "newer");
    assert_eq!(fs::metadata(place.path("old")).unwrap().mode() & 0o777, 0o604);
}

#[test]
fn a_symbolic_link_keeps_pointing_and_its_target_is_replaced() {
    let place = Place::new();
    fs::create_dir(place.path("far")).unwrap();
    place.write("far/target", "old");
    symlink("far/target", place.path("link")).unwrap();
    place.shorthand(":cat").input("new").args(["--stdout", "link"]).done().code(0).is_quiet();
    assert_eq!(place.read("far/target"), "new");
    assert!(fs::symlink_metadata(place.path("link")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(place.path("far")).unwrap().count(), 1);
}

#[test]
fn a_file_with_two_names_is_refused_and_written_in_place_when_asked() {
    let place = Place::new();
    place.write("one", "old");
    fs::hard_link(place.path("one"), place.path("two")).unwrap();
    let run = place.shorthand(":cat").input("new").args(["--stdout", "one"]);
    run.done().code(125).says(&["hard links", "\"atomic\": false"]);
    assert_eq!(place.read("two"), "old");
    let pipeline = r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdout": {"file": "one", "atomic": false}}"#;
    place.write("p.json", pipeline);
    place.stagehost(["run", "p.json"]).input("new").done().code(0).is_quiet();
    assert_eq!(place.read("two"), "new");
}

#[test]
fn an_unwritable_directory_is_refused_before_anything_runs() {
    // Root may write anywhere but where nobody can.
    let place = Place::new();
    place.shorthand(":cat").args(["--stdout", "/proc/self/nothing"]).done().code(125).says(&["/proc/self/nothing"]);
    place.shorthand(":cat").args(["--stdout", "missing/out"]).done().code(125).says(&["missing"]);
    fs::create_dir(place.path("locked")).unwrap();
    fs::set_permissions(place.path("locked"), fs::Permissions::from_mode(0o555)).unwrap();
    if rustix::process::geteuid().is_root() {
        let run = run_as_nobody(&place, &["-c", ":cat", "--stdout", "locked/out"]);
        run.done().code(125).says(&["is not writable", "\"atomic\": false"]);
    } else {
        place.shorthand(":cat").args(["--stdout", "locked/out"]).done().code(125).says(&["is not writable"]);
    }
    fs::set_permissions(place.path("locked"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// `stagehost run` as the user nobody, who is let into the place; for tests that root runs. Another process makes the
/// copy of the binary: a descriptor of ours, open for writing, could be inherited by what other tests start, and then
/// the copy could not be run.
fn run_as_nobody<'a>(place: &'a Place, args: &[&str]) -> stagehost_tests::Run<'a> {
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    place.shell("cp $STAGEHOST stagehost && chmod 755 stagehost").done().code(0).is_quiet();
    let run = place.program("setpriv").args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    run.arg(place.path("stagehost")).arg("run").args(args).env("STAGEHOST_CACHE_DIR", "")
}

/// Whether this machine lets us make a mount namespace of our own.
fn can_mount(place: &Place) -> bool {
    place.program("unshare").args(["-rm", "true"]).done().status.success()
}

#[test]
fn a_mount_point_is_refused_before_anything_runs() {
    let place = Place::new();
    place.write("under", "old");
    place.write("over", "mounted");
    if !can_mount(&place) {
        return;
    }
    let script =
        "mount --bind over under && echo new | $STAGEHOST run -c ':cat' --stdout under; code=$?; cat under; exit $code";
    let run = place.program("unshare").args(["-rm", "/bin/bash", "-c", script]);
    run.done().code(125).says(&["is a mount point", "\"atomic\": false"]).prints("mounted");
}

#[test]
fn an_owner_is_kept_or_the_output_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(place.path("open")).unwrap();
    fs::set_permissions(place.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    place.write("open/file", "old");
    std::os::unix::fs::chown(place.path("open/file"), Some(1234), Some(4321)).unwrap();
    place.shorthand(":cat").input("new").args(["--stdout", "open/file"]).done().code(0).is_quiet();
    let metadata = fs::metadata(place.path("open/file")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), place.read("open/file")), (1234, 4321, "new".into()));
    // Whoever cannot give the new file that owner is told before anything runs.
    let run = run_as_nobody(&place, &["-c", ":cat", "--stdin", "null", "--stdout", "open/file"]);
    run.done().code(125).says(&["belongs to another user"]);
    assert_eq!(place.read("open/file"), "new");
}

#[test]
fn append_writes_behind_what_is_there() {
    let place = Place::new();
    place.write("log", "one\n");
    let pipeline = r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdout": {"file": "log", "append": true}}"#;
    place.write("p.json", pipeline);
    place.stagehost(["run", "p.json"]).input("two\n").done().code(0).is_quiet();
    assert_eq!(place.read("log"), "one\ntwo\n");
}

#[test]
fn a_full_device_is_the_hosts_failure_and_names_it() {
    let place = Place::new();
    for habit in [":cat".to_owned(), format!("{} ignore-broken-pipe", probe()), format!("{} lines", probe())] {
        let run = place.shorthand(&habit).input("x\n".repeat(100_000)).args(["--stdout", "/dev/full"]);
        run.done().code(125).says(&["/dev/full", "No space left on device"]);
        let run = place.shell(&format!("yes | head -c 300000 | $STAGEHOST run -c '{habit}' > /dev/full"));
        run.done().code(125).says(&["standard output", "No space left on device"]);
    }
}

#[test]
fn a_file_that_outgrows_its_limit_is_an_error_and_leaves_nothing() {
    let place = Place::new();
    let script = format!("ulimit -f 100; $STAGEHOST run -c '{} generate 10000000 | :cat' --stdout out", probe());
    place.shell(&script).done().code(125).says(&["out", "File too large"]);
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[test]
fn a_full_file_system_is_an_error_and_leaves_nothing() {
    let place = Place::new();
    fs::create_dir(place.path("small")).unwrap();
    // A mount of its own needs a namespace; where that is not allowed, /dev/full and the file-size limit stand for it.
    let script = format!(
        "mount -t tmpfs -o size=1m none small && $STAGEHOST run -c '{} generate 10000000 | :cat' --stdout small/out; \
         code=$?; ls -A small; exit $code",
        probe()
    );
    if can_mount(&place) {
        let run = place.program("unshare").args(["-rm", "/bin/bash", "-c", &script]);
        run.done().code(125).says(&["small/out", "No space left on device"]).prints("");
    }
}

#[test]
fn output_over_input_is_refused() {
    let place = Place::new();
    place.write("f", "text");
    let pipeline = r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "f"}, "stdout": {"file": "f", "atomic": false}}"#;
    place.write("p.json", pipeline);
    place.stagehost(["run", "p.json"]).done().code(125).says(&["the output is the input"]);
    assert_eq!(place.read("f"), "text");
    let run = place.shell("$STAGEHOST run -c ':cat' < f >> f");
    run.done().code(125).says(&["the output is the input"]);
    // Atomically it is fine: the old file is read, the new one takes its place.
    place.shorthand(":lower").args(["--stdin", "f", "--stdout", "f"]).done().code(0).is_quiet();
    assert_eq!(place.read("f"), "text");
}

#[test]
fn fifos_at_both_ends_wait_for_their_partners() {
    let place = Place::new();
    mkfifo(&place, "in");
    mkfifo(&place, "out");
    let run =
        place.shell("cat out > result & echo through > in & $STAGEHOST run -c ':cat' --stdin in --stdout out; wait");
    run.done().code(0).is_quiet();
    assert_eq!(place.read("result"), "through\n");
}

#[test]
fn who_opens_a_fifo_and_writes_later_is_a_partner() {
    let place = Place::new();
    mkfifo(&place, "in");
    mkfifo(&place, "out");
    // It answers what the command says first.
    place.write("peer", "exec 3> in; read -r line < out; echo \"answer to $line\" >&3\n");
    place.write(
        "p.json",
        r#"{"version": 1, "stages": [{"command": ["sh", "-c", "echo hello; cat >&2"]}], "stdin": {"file": "in"}, "stdout": {"file": "out"}, "timeout": "60s"}"#,
    );
    place.shell("sh peer & $STAGEHOST run p.json; code=$?; wait; exit $code").done().code(0).says(&["answer to hello"]);
}

#[test]
fn a_fifo_without_a_partner_ends_at_the_timeout() {
    let place = Place::new();
    mkfifo(&place, "lonely");
    for end in ["--stdin", "--stdout"] {
        place.shorthand(":cat").args([end, "lonely", "--timeout", "300ms"]).done().code(124).prints("");
    }
}

#[test]
fn looking_at_a_plan_opens_no_fifo() {
    let place = Place::new();
    mkfifo(&place, "lonely");
    let run = place.stagehost(["check", "-c", ":cat", "--stdin", "lonely", "--stdout", "lonely"]);
    run.done().code(0).prints("good: 1 stage\n");
}

#[test]
fn dev_stdout_is_standard_output() {
    let place = Place::new();
    place.shell("echo one > x; echo two | $STAGEHOST run -c ':cat' --stdout /dev/stdout > x").done().code(0).is_quiet();
    assert_eq!(place.read("x"), "two\n");
    let run = place.shell("{ echo one; echo two | $STAGEHOST run -c ':cat' --stdout /dev/stdout; echo three; } > x");
    run.done().code(0).is_quiet();
    assert_eq!(place.read("x"), "one\ntwo\nthree\n");
    place.shell("echo two | $STAGEHOST run -c ':cat' --stdout /dev/fd/5 5> y").done().code(0).is_quiet();
    assert_eq!(place.read("y"), "two\n");
}

#[test]
fn an_inherited_offset_is_left_at_the_first_byte_not_consumed() {
    let place = Place::new();
    let text: String = (1..=50_000).map(|line| format!("line {line}\n")).collect();
    place.write("f", &text);
    for head in [":head -n 1", ":head -n 3", ":head -c 12", ":head -n 0"] {
        let run = place.shell(&format!("($STAGEHOST run -c '{head}'; cat) < f"));
        run.done().code(0).prints(&text).is_quiet();
    }
    let run = place.shell("(read line; echo $line; $STAGEHOST run -c ':head -n 1'; cat) < f");
    run.done().code(0).prints(&text).is_quiet();
    // All was read: nothing is left.
    place.shell("($STAGEHOST run -c ':wc -l'; cat) < f").done().code(0).prints("50000\n");
}

#[test]
fn a_loop_over_lines_is_not_starved() {
    let place = Place::new();
    let run = place.shell("seq 3 | while read n; do $STAGEHOST run -c ':cat' --stdin null; echo $n; done");
    run.done().code(0).prints("1\n2\n3\n");
}

#[test]
fn an_inherited_pipe_is_read_only_as_asked() {
    let place = Place::new();
    // `early` reads nothing; whoever shares the pipe gets it all.
    let run = place.shell(&format!("printf 'a\\nb\\n' | ($STAGEHOST run -c '{} early'; cat)", probe()));
    run.done().code(0).prints("a\nb\n");
}

#[test]
fn an_inherited_pipe_stays_blocking_for_the_others() {
    let place = Place::new();
    let script = "exec 3< <(sleep 1000); exec 4>&1; echo x | $STAGEHOST run -c ':cat' >&4; \
        grep -c 'flags:.*04' /proc/self/fdinfo/1; true";
    let run = place.shell(&script.replace("exec 3< <(sleep 1000); ", ""));
    run.done().code(0).prints("x\n0\n");
}

#[test]
fn an_outside_reader_that_leaves_is_no_failure() {
    let place = Place::new();
    let script =
        format!("$STAGEHOST run -c '{} yes | :cat' --report report.json | head -n 1; echo ${{PIPESTATUS[0]}}", probe());
    place.shell(&script).done().code(0).prints("y\n0\n").is_quiet();
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!(report["stdout_closed"], true, "{report}");
}

#[test]
fn sockets_and_devices_can_be_read_and_written() {
    let place = Place::new();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let running = place.shorthand(":head -n 1").stdin(std::os::fd::OwnedFd::from(theirs)).start();
    ours.write_all(b"over a socket\nand more\n").unwrap();
    running.done().code(0).prints("over a socket\n");
    place.shorthand(":wc -c").args(["--stdin", "/dev/null"]).done().code(0).prints("0\n");
    place.shorthand(":head -c 5 | :wc -c").args(["--stdin", "/dev/zero"]).done().code(0).prints("5\n");
}

#[test]
fn closed_standard_streams_are_errors() {
    // The language's runtime opens /dev/null in their place: nothing would be read, and all would seem to be written.
    let place = Place::new();
    let run = |closed: &str, flags: &str| {
        place
            .shell(&format!("echo x | $STAGEHOST run -c ':cat' {flags} {closed} | cat; exit ${{PIPESTATUS[1]}}"))
            .done()
    };
    run("<&-", "").code(125).says(&["standard input is closed", "--stdin"]);
    run(">&-", "").code(125).says(&["standard output is closed", "--stdout"]);
    run("<&- >&- 2>&-", "").code(125).is_quiet();
    run("2>&-", "").code(0).prints("x\n");
    run("<&- >&-", "--stdin null --stdout out").code(0).is_quiet();
    for verb in ["--help", "--version", "run --help"] {
        for closed in [">&-", "> /dev/full"] {
            let output = place.shell(&format!("$STAGEHOST {verb} {closed}")).done();
            let said = output.error_text();
            assert!(output.status.code() != Some(0) && said.contains("standard output"), "{verb} {closed}: {output}");
        }
    }
    for verb in ["plan -c :cat", "check -c :cat", "stages", "schema", "inspect builtin:cat"] {
        place.shell(&format!("$STAGEHOST {verb} >&-")).done().code(2).says(&["standard output is closed"]);
    }
}

#[test]
fn a_descriptors_path_shares_its_offset() {
    let place = Place::new();
    let run = place.shell("{ echo one; echo two | $STAGEHOST run -c ':cat' --stdout /dev/fd/1; echo three; } > x");
    run.done().code(0).is_quiet();
    assert_eq!(place.read("x"), "one\ntwo\nthree\n");
    let run =
        place.shell("{ echo one >&3; $STAGEHOST run -c ':cat' --stdin null --report-fd 3; echo three >&3; } 3> y");
    run.done().code(0).is_quiet();
    let report = place.read("y");
    assert!(report.starts_with("one\n{") && report.ends_with("}\nthree\n"), "{report}");
}

#[test]
fn what_was_written_before_a_failure_reaches_an_inherited_file() {
    let place = Place::new();
    place.write("in", vec![b'x'; 20_000_000]);
    place.shell(&format!("$STAGEHOST run -c '{} copy-exit 3' --stdin in > out", probe())).done().code(3);
    assert_eq!(fs::metadata(place.path("out")).unwrap().len(), 20_000_000);
}

#[test]
fn a_log_that_is_a_fifo_without_a_reader_ends_at_the_timeout() {
    let place = Place::new();
    mkfifo(&place, "log");
    let pipeline = r#"{"version": 1, "timeout": "300ms", "stdin": "null", "stages": [{"wasm": "builtin:cat", "stderr": {"file": "log"}}]}"#;
    place.write("p.json", pipeline);
    place.stagehost(["run", "p.json"]).done().code(124).says(&["timeout"]);
}

#[test]
fn a_missing_input_is_named() {
    let place = Place::new();
    place.shorthand(":cat").args(["--stdin", "nothing"]).done().code(125).says(&[
        "stdin.file",
        "nothing",
        "No such file",
    ]);
    fs::create_dir(place.path("d")).unwrap();
    place.shorthand(":cat").args(["--stdin", "d"]).done().code(125).says(&["is a directory"]);
    place.shorthand(":cat").args(["--stdout", "d"]).done().code(125).says(&["is a directory"]);
}

#[test]
fn paths_of_the_file_are_relative_to_it_and_paths_of_flags_to_the_caller() {
    let place = Place::new();
    fs::create_dir(place.path("sub")).unwrap();
    place.write("sub/in", "of the file\n");
    place.write("in", "of the caller\n");
    let pipeline = r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"file": "in"}}"#;
    place.write("sub/p.json", pipeline);
    place.stagehost(["run", "sub/p.json"]).done().code(0).prints("of the file\n");
    place.stagehost(["run", "sub/p.json", "--stdin", "in"]).done().code(0).prints("of the caller\n");
    place.stagehost(["run", "sub/p.json", "--cwd", "."]).done().code(0).prints("of the caller\n");
}

#[test]
fn without_stages_a_pipe_is_moved_to_a_file() {
    let place = Place::new();
    place.write("empty.json", r#"{"version": 1, "stages": []}"#);
    let run = place
        .shell("(seq 300000; sleep 0.2; seq 300000) | $STAGEHOST run empty.json --stdout out --report report.json");
    run.done().code(0).is_quiet();
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert!(place.read("out") == format!("{expected}{expected}"));
    // What cannot be moved is copied.
    place.write("log", "old\n");
    place.write("append.json", r#"{"version": 1, "stages": [], "stdout": {"file": "log", "append": true}}"#);
    place.shell("seq 3 | $STAGEHOST run append.json").done().code(0).is_quiet();
    assert_eq!(place.read("log"), "old\n1\n2\n3\n");
    let run = place.shell("ulimit -f 8; seq 300000 | $STAGEHOST run empty.json --stdout out");
    run.done().code(125).says(&["out: File too large"]);
}

#[test]
fn what_appears_whole_is_on_the_disk_before() {
    // `fdatasync`, and an error of the disk.
    let (sync, broken) = (if cfg!(target_arch = "x86_64") { 75 } else { 83 }, 5);
    let place = Place::new();
    place.write("out", "old");
    let run = place.shorthand("cat").input("new").args(["--stdout", "out"]).start_without(&[sync], broken);
    run.done().code(125).says(&["out", "Input/output error"]);
    assert_eq!((place.read("out").as_str(), place.names()), ("old", vec!["out".to_owned()]));
    // Compiled code that is not on the disk is not kept.
    let guest = preview1(&place, "guest.wasm", "").display().to_string();
    let run = || place.shorthand(&guest).args(["--stdin", "null"]).env("STAGEHOST_CACHE_DIR", place.path("cache"));
    let kept = || fs::read_dir(place.path("cache/stagehost-code")).unwrap().count();
    run().start_without(&[sync], broken).done().code(0).is_quiet();
    assert_eq!(kept(), 1, "its tag alone");
    run().done().code(0).is_quiet();
    assert_eq!(kept(), 2);
}
