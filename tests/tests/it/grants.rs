//! Rights by grant, in all generations of WASI: what is granted works, what is not fails with a word on the grant, and nothing
//! leads out of a granted directory.

use std::{fs, os::unix::fs::symlink};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use stagehost_tests::{
    Output, Place, binary,
    guests::{built, text},
    repository,
};

/// One of `tests/grants`, as a component in the place.
pub(crate) fn guest(place: &Place, name: &str) -> String {
    let source = fs::read_to_string(repository().join("tests/grants").join(format!("{name}.wat")));
    text(place, &format!("{name}.wasm"), &source.expect("it is there")).display().to_string()
}

/// Runs one stage with grants.
pub(crate) fn run(place: &Place, wasm: &str, args: &[&str], grants: &str) -> Output {
    let args = serde_json::to_string(args).expect("words");
    let json = format!(
        r#"{{"version": 1, "timeout": "60s", "stdin": "null",
            "stages": [{{"wasm": "{wasm}", "name": "guest", "args": {args}, "grants": {grants}}}]}}"#
    );
    place.write("p.json", json);
    place.stagehost(["run", "p.json", "--report", "report.json"]).done()
}

pub(crate) const GENERATIONS: [&str; 3] = ["p1", "p2", "p3"];

/// A directory with everything in it that could lead out of it, or hold a thread.
fn directory() -> Place {
    let place = Place::new();
    for directory in ["dir", "dir/sub"] {
        fs::create_dir(place.path(directory)).expect("a new directory");
    }
    place.write("dir/a.txt", "inside");
    place.write("dir/sub/b.txt", "inside");
    place.write("outside.txt", "outside");
    let link = |to: &str, name: &str| symlink(to, place.path("dir").join(name)).expect("a new link");
    link("../outside.txt", "out");
    link("/etc/passwd", "passwd");
    link("..", "up");
    link("a.txt", "in");
    link("/proc/self/root", "root");
    let fifo = place.path("dir/fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("a FIFO");
    place
}

#[test]
fn a_granted_directory_can_be_read_and_nothing_leads_out_of_it() {
    let place = directory();
    let grants = r#"{"dirs": [{"host": "dir", "guest": "/data"}]}"#;
    for generation in GENERATIONS {
        let open = guest(&place, &format!("{generation}-open"));
        for path in ["a.txt", "sub/b.txt", "sub/../a.txt", "in", "."] {
            run(&place, &open, &[path], grants).code(0);
        }
        let escapes = [
            "../outside.txt",
            "sub/../../outside.txt",
            "/etc/passwd",
            "out",
            "passwd",
            "up/outside.txt",
            "up",
            "root",
            "root/etc/passwd",
            "sub/../up/outside.txt",
            // What would wait for a writer.
            "fifo",
        ];
        for path in escapes {
            let code = run(&place, &open, &[path], grants).status.code();
            assert!(code.is_some_and(|code| (20..100).contains(&code)), "{generation} {path}: {code:?}");
        }
        // Without a grant there is no directory at all.
        run(&place, &open, &["a.txt"], "{}").code(if generation == "p1" { 8 } else { 9 });
        let create = guest(&place, &format!("{generation}-create"));
        let code = run(&place, &create, &["new.txt"], grants).status.code();
        assert!(code.is_some_and(|code| (20..100).contains(&code)), "{generation}: {code:?}");
        assert!(!place.path("dir/new.txt").exists());
    }
}

#[test]
fn a_directory_granted_for_writing_can_be_changed_and_no_other() {
    let place = directory();
    let grants = r#"{"dirs": [{"host": "dir", "access": "write"}]}"#;
    for generation in GENERATIONS {
        let create = guest(&place, &format!("{generation}-create"));
        run(&place, &create, &["new.txt"], grants).code(0);
        fs::remove_file(place.path("dir/new.txt")).expect("it was made");
        for path in ["../new.txt", "up/new.txt", "out", "passwd", "/tmp/new.txt", "fifo"] {
            let code = run(&place, &create, &[path], grants).status.code();
            assert!(code.is_some_and(|code| (20..100).contains(&code)), "{generation} {path}: {code:?}");
        }
        // Setting times opens a file too.
        let touch = guest(&place, &format!("{generation}-touch"));
        run(&place, &touch, &["a.txt"], grants).code(0);
        for path in ["fifo", "out", "../outside.txt"] {
            let code = run(&place, &touch, &[path], grants).status.code();
            assert!(code.is_some_and(|code| (20..100).contains(&code)), "{generation} {path}: {code:?}");
        }
    }
    assert_eq!(place.read("outside.txt"), "outside");
    let names: Vec<_> =
        fs::read_dir(place.path("")).expect("it is there").flatten().map(|one| one.file_name()).collect();
    assert!(!names.iter().any(|name| name == "new.txt"), "{names:?}");
}

const CROWD: &str = r#"{"dirs": [{"host": "crowd", "guest": "d", "access": "read"}]}"#;

/// A directory with files whose names are of 200 bytes, until there are enough: asked with the number there is.
fn crowd(place: &Place, is_enough: impl Fn(usize) -> bool) -> usize {
    let crowd = place.path("crowd");
    fs::create_dir_all(&crowd).expect("there is room");
    let mut files = 0;
    while !is_enough(files) {
        fs::File::create(crowd.join(format!("{files:0>200}"))).expect("there is room");
        files += 1;
    }
    files
}

/// The exit code of the guests that count entries.
fn counted(files: usize) -> i32 {
    i32::try_from(files % 251).expect("it is small")
}

#[test]
fn listings_of_large_directories_cost_the_host_little() {
    let place = Place::new();
    let files = crowd(&place, |files| files == 3_000);
    let wasm = guest(&place, "p2-listings");
    run(&place, &wasm, &[], CROWD).code(counted(files));
    // All of 200 listings would be 150 MB.
    let host = binary().display().to_string();
    place.shell(&format!("ulimit -d 120000; exec {host} run p.json")).done().code(counted(files));
}

#[test]
fn listings_by_streams_are_bounded() {
    let place = Place::new();
    let files = crowd(&place, |files| files == 3_000);
    // The stock host has a thread wait for each of them, whoever else may need one.
    run(&place, &guest(&place, "p3-listings"), &[], CROWD).code(counted(files));
}

#[test]
fn a_directory_can_be_emptied_while_it_is_listed() {
    let place = Place::new();
    crowd(&place, |files| files == 1_000);
    let grants = r#"{"dirs": [{"host": "crowd", "guest": "d", "access": "write"}]}"#;
    // It stays as it was opened: opened anew, its place would be lost where places are numbers (ramfs, overlays, older tmpfs).
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        run(&place, &guest, &["empty", "d"], grants).code(0).prints("0 are left\n");
        crowd(&place, |files| files == 1_000);
    }
}

#[test]
fn preview1_lists_directories_of_any_size() {
    let place = Place::new();
    crowd(&place, |files| files == 20_000);
    // A name that is not UTF-8 is left out, and the report says so; the others come.
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe");
    fs::write(place.path("crowd").join(name), "").expect("there is room");
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        run(&place, &guest, &["count", "d"], CROWD)
            .code(0)
            .prints("20000 entries\n")
            .says(&["a name which is not UTF-8", "left out"]);
    }
}

#[test]
fn files_are_renamed_and_linked_inside_only() {
    let place = directory();
    let grants = r#"{"dirs": [{"host": "dir", "guest": "d", "access": "write"}]}"#;
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        run(&place, &guest, &["rename", "d/a.txt", "d/moved.txt"], grants).code(0).prints("Ok(())\n");
        run(&place, &guest, &["rename", "d/moved.txt", "d/a.txt"], grants).code(0).prints("Ok(())\n");
        for (habit, from, to) in [
            ("rename", "d/a.txt", "d/../stolen.txt"),
            ("rename", "d/../outside.txt", "d/got.txt"),
            ("rename", "d/a.txt", "d/up/stolen.txt"),
            ("link", "d/../outside.txt", "d/got.txt"),
            ("link", "d/a.txt", "d/../stolen.txt"),
        ] {
            let output = run(&place, &guest, &[habit, from, to], grants).code(0);
            assert!(output.stdout_text().starts_with("Err("), "{habit} {from} {to}\n{output}");
        }
        run(&place, &guest, &["read", "d/a.txt"], grants).code(0).prints("Ok([105, 110, 115, 105, 100, 101])\n");
        run(&place, &guest, &["read", "a.txt"], "{}").code(0);
    }
    let third = guest(&place, "p3-move");
    run(&place, &third, &["rename", "a.txt", "moved.txt"], grants).code(0);
    run(&place, &third, &["link", "moved.txt", "a.txt"], grants).code(0);
    fs::remove_file(place.path("dir/moved.txt")).expect("it is there");
    for (habit, from, to) in [
        ("rename", "a.txt", "../stolen.txt"),
        ("rename", "../outside.txt", "got.txt"),
        ("rename", "a.txt", "up/stolen.txt"),
        ("link", "../outside.txt", "got.txt"),
        ("link", "a.txt", "../stolen.txt"),
        ("link", "a.txt", "up/stolen.txt"),
    ] {
        let output = run(&place, &third, &[habit, from, to], grants);
        assert!(output.status.code().is_some_and(|code| (20..60).contains(&code)), "{habit} {from} {to}\n{output}");
    }
    assert!(!place.path("stolen.txt").exists() && !place.path("dir/got.txt").exists());
}

#[test]
fn open_files_are_bounded() {
    let place = directory();
    let grants = r#"{"dirs": [{"host": "dir", "guest": "d"}]}"#;
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        run(&place, &guest, &["open-many", "d/a.txt"], grants).code(137).says(&["open_files limit of 256"]);
    }
    let third = guest(&place, "p3-open-many");
    run(&place, &third, &["a.txt"], grants).code(137).says(&["open_files limit of 256"]);
}

#[test]
fn only_what_is_meant_can_be_granted() {
    let place = directory();
    let open = guest(&place, "p2-open");
    let refused = |grants: &str, code: i32, words: &[&str]| {
        run(&place, &open, &["a.txt"], grants).code(code).says(words);
    };
    refused(r#"{"dirs": [{"host": "missing"}]}"#, 126, &["stages[0].grants.dirs[0].host", "missing"]);
    refused(r#"{"dirs": [{"host": "dir/a.txt"}]}"#, 126, &["is no directory"]);
    refused(r#"{"dirs": [{"host": "/proc"}]}"#, 126, &["the kernel's own files"]);
    refused(r#"{"dirs": [{"host": "/"}]}"#, 126, &["the kernel's own files"]);
    refused(r#"{"dirs": [{"host": "dir"}, {"host": "dir"}]}"#, 78, &["another directory is granted"]);
    refused(r#"{"dirs": [{"host": "dir", "access": "all"}]}"#, 78, &["stages[0].grants.dirs[0].access"]);
    refused(r#"{"net": ["example.org"]}"#, 78, &["stages[0].grants.net[0]", "is no address"]);
    refused(r#"{"clock": {"frozen": "yesterday"}}"#, 78, &["is no instant"]);
    refused(
        r#"{"dirs": [{"host": "dir"}], "clock": {"frozen": "2026-01-01T00:00:00Z"}}"#,
        126,
        &["grants.clock", "does not wait"],
    );
}

#[test]
fn variables_are_passed_through_by_name() {
    let place = Place::new();
    let grants = r#"{"env": ["STAGEHOST_TEST_WORD", "STAGEHOST_TEST_MISSING"]}"#;
    for generation in ["p2", "p3"] {
        let environment = guest(&place, &format!("{generation}-environment"));
        run(&place, &environment, &[], "{}").code(0);
    }
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        let json = format!(
            r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{guest}", "args": ["env"], "grants": {grants}}}]}}"#
        );
        place.write("p.json", json);
        let run = place.stagehost(["run", "p.json"]).env("STAGEHOST_TEST_WORD", "word");
        run.done().code(0).prints("STAGEHOST_TEST_WORD=word\n");
        run_env_is_over_the_hosts(&place, &guest);
    }
}

fn run_env_is_over_the_hosts(place: &Place, guest: &str) {
    let json = format!(
        r#"{{"version": 1, "stdin": "null", "env": {{"STAGEHOST_TEST_WORD": "the file's"}},
            "stages": [{{"wasm": "{guest}", "args": ["env"], "grants": {{"env": ["STAGEHOST_TEST_WORD"]}}}}]}}"#
    );
    place.write("p.json", json);
    let run = place.stagehost(["run", "p.json"]).env("STAGEHOST_TEST_WORD", "the host's");
    run.done().code(0).prints("STAGEHOST_TEST_WORD=the file's\n");
}

#[test]
fn plan_shows_what_is_granted_and_what_is_asked_for() {
    let place = directory();
    // A component that says what it wants.
    let section = r#"{"name": "asker", "limits": {"memory": "32MiB"},
        "grants": {"dirs": [{"guest": "/data", "access": "write"}], "env": ["HOME"], "net": ["example.org:443"]}}"#;
    let escaped = section.replace('"', "\\\"").replace('\n', " ");
    let module =
        format!(r#"(module (memory (export "memory") 1) (@custom "stagehost" "{escaped}") (func (export "_start")))"#);
    let wasm = text(&place, "asker.wasm", &module).display().to_string();
    place.stagehost(["inspect", &wasm]).done().code(0).shows(&[
        "suggested limits: memory: \"32MiB\"",
        "asks for: directory /data (write)",
        "asks for: variable HOME",
        "asks for: address example.org:443",
    ]);
    let json = format!(
        r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{wasm}",
            "grants": {{"dirs": [{{"host": "dir", "guest": "/data"}}], "env": ["HOME"]}}}}]}}"#
    );
    place.write("p.json", json);
    place.stagehost(["plan", "p.json"]).done().code(0).shows(&[
        "grants: directory dir at /data (read); variable HOME",
        "asks for, and is not granted: directory /data (write); address example.org:443",
    ]);
    // It asks; it is not given.
    place.write("none.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{wasm}"}}]}}"#));
    place.stagehost(["plan", "-v", "none.json"]).done().code(0).shows(&["grants: none"]);
}

#[test]
fn preview1_fills_a_buffer_of_any_size_with_a_listing() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    let mut expected = (24 + 1) + (24 + 2);
    for index in 0..3000 {
        let name = format!("a-file-of-the-directory-{index}");
        expected += 24 + name.len();
        fs::write(place.path("d").join(name), "").unwrap();
    }
    assert!(expected > 2 << 16, "more than the host reads at a time");
    let module = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
            (memory (export "memory") 20)
            (func (export "_start")
              (if (call $list (i32.const 3) (i32.const 1024) (i32.const 1000000) (i64.const 0) (i32.const 8)) (then (call $exit (i32.const 1))))
              (if (i32.ne (i32.load (i32.const 8)) (i32.const {expected})) (then (call $exit (i32.const 2))))))"#
    );
    let wasm = text(&place, "lists.wasm", &module).display().to_string();
    run(&place, &wasm, &[], r#"{"dirs": [{"host": "d", "guest": "d"}]}"#).code(0).is_quiet();
}

#[test]
fn a_failure_after_a_refused_opening_names_the_grant() {
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    fs::create_dir(place.path("e")).unwrap();
    place.write("d/there", "");
    place.write("outside", "");
    mknodat(CWD, place.path("d/fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("a FIFO");
    let read = r#"{"dirs": [{"host": "d", "guest": "d"}]}"#;
    let write = r#"{"dirs": [{"host": "d", "guest": "d", "access": "write"}]}"#;
    for generation in ["p1", "p2", "p3"] {
        let (opens, creates) =
            (guest(&place, &format!("{generation}-open")), guest(&place, &format!("{generation}-create")));
        run(&place, &opens, &["there"], read).code(0).is_quiet();
        let output = run(&place, &opens, &["../outside"], read);
        output.says(&["was refused to open \"../outside\"", "leads out of what `stages[0].grants.dirs` grants"]);
        run(&place, &creates, &["new"], write).code(0).is_quiet();
        let output = run(&place, &creates, &["newer"], read);
        output.says(&["was refused to open \"newer\" for writing", "`stages[0].grants.dirs`", "\"access\": \"write\""]);
        // The right of the directory that it was in, and not of another one.
        let both = r#"{"dirs": [{"host": "d", "guest": "d", "access": "write"}, {"host": "e", "guest": "e"}]}"#;
        run(&place, &creates, &["../out"], both).says(&["was refused to open \"../out\"", "leads out of"]);
        run(&place, &opens, &["fifo"], read).says(&["was refused to open \"fifo\": it is no file, directory or link"]);
        // What is not there is no refusal.
        let output = run(&place, &opens, &["nowhere"], read);
        assert!(!output.error_text().contains("refused to open"), "{generation}: {output}");
        fs::remove_file(place.path("d/new")).unwrap();
    }
}
