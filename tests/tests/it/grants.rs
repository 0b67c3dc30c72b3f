//! Rights by grant, in all generations of WASI: what is granted works, what is not fails with a word on the grant, and nothing
//! leads out of a granted directory.

use std::{fs, io::Read, net::TcpListener, os::unix::fs::symlink};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use stagehost_tests::{
    Output, Place, binary,
    guests::{built, text},
    repository,
};

/// One of `tests/grants`, as a component in the place.
fn guest(place: &Place, name: &str) -> String {
    let source = fs::read_to_string(repository().join("tests/grants").join(format!("{name}.wat")));
    text(place, &format!("{name}.wasm"), &source.expect("it is there")).display().to_string()
}

/// Runs one stage with grants.
fn run(place: &Place, wasm: &str, args: &[&str], grants: &str) -> Output {
    let args = serde_json::to_string(args).expect("words");
    let json = format!(
        r#"{{"version": 1, "timeout": "60s", "stdin": "null",
            "stages": [{{"wasm": "{wasm}", "name": "guest", "args": {args}, "grants": {grants}}}]}}"#
    );
    place.write("p.json", json);
    place.stagehost(["run", "p.json", "--report", "report.json"]).done()
}

const GENERATIONS: [&str; 3] = ["p1", "p2", "p3"];

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

/// A listener on the loopback address, which takes connections until it is dropped.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    (listener, port)
}

#[test]
fn the_network_is_what_is_granted_of_it() {
    let place = Place::new();
    let (_listener, port) = listener();
    let digits = port.to_string();
    for generation in ["p2", "p3"] {
        let connect = guest(&place, &format!("{generation}-connect"));
        for grant in [
            format!("tcp:127.0.0.1:{port}"),
            format!("127.0.0.1:{port}"),
            format!("localhost:{port}"),
            "127.0.0.1:*".into(),
        ] {
            run(&place, &connect, &[&digits], &format!(r#"{{"net": ["{grant}"]}}"#)).code(0).is_quiet();
        }
        let nothing = run(&place, &connect, &[&digits], "{}");
        let code = nothing.status.code();
        assert!(code.is_some_and(|code| code >= 60), "{generation}: {code:?}");
        nothing.says(&["tried to use the network, which is not granted", "stages[0].grants.net"]);
        let other = run(&place, &connect, &[&digits], r#"{"net": ["127.0.0.1:1", "udp:127.0.0.1:*"]}"#);
        let code = other.status.code();
        assert!(code.is_some_and(|code| (30..60).contains(&code)), "{generation}: {code:?}");
        other.says(&[&format!("tcp:127.0.0.1:{port}"), "which is not granted"]);
    }
    // Preview1 has no sockets; a program of the standard library says what it is told.
    let std = built("std-probe-p2.wasm").display().to_string();
    let address = format!("127.0.0.1:{port}");
    let output = run(&place, &std, &["connect", &address], "{}").code(0);
    assert!(output.stdout_text().contains("PermissionDenied"), "{output}");
    run(&place, &std, &["connect", &address], &format!(r#"{{"net": ["{address}"]}}"#)).code(0).prints("Ok(())\n");
    let std = built("std-probe-p1.wasm").display().to_string();
    let output = run(&place, &std, &["connect", &address], &format!(r#"{{"net": ["{address}"]}}"#)).code(0);
    assert!(output.stdout_text().contains("Unsupported"), "{output}");
}

#[test]
fn what_is_granted_can_be_bound_and_no_warning_names_what_is_refused() {
    let place = Place::new();
    let std = built("std-probe-p2.wasm").display().to_string();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let bind = |address: &str, grant: &str| {
        run(&place, &std, &["bind", address], &format!(r#"{{"net": ["{grant}"]}}"#)).code(0)
    };
    for address in [format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}")] {
        bind(&address, &format!("udp:{address}")).prints("Ok(())\n");
        // The remedy that is named is one.
        let denied =
            bind(&address, "udp:127.0.0.1:1").says(&[&format!("add \"udp:{address}\" to `stages[0].grants.net`")]);
        assert!(denied.stdout_text().contains("PermissionDenied"), "{denied}");
    }
    let grant = format!(r#"{{"net": ["tcp:127.0.0.1:{port}"]}}"#);
    let listens = run(&place, &std, &["listen", &format!("127.0.0.1:{port}")], &grant).code(0);
    listens.says(&["tried to listen at tcp:127.0.0.1", "which no stage may"]);
}

#[test]
fn datagrams_are_granted_apart() {
    let place = Place::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("its address").to_string();
    let std = built("std-probe-p2.wasm").display().to_string();
    run(&place, &std, &["send", &address], &format!(r#"{{"net": ["udp:{address}"]}}"#)).code(0).prints("Ok(5)\n");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    let mut bytes = [0; 16];
    assert_eq!(socket.recv(&mut bytes).expect("what was sent"), 5);
    for grants in
        [format!(r#"{{"net": ["tcp:{address}"]}}"#), format!(r#"{{"net": ["tcp:{address}", "udp:127.0.0.1:1"]}}"#)]
    {
        let output = run(&place, &std, &["send", &address], &grants).code(0);
        assert!(output.stdout_text().starts_with("Err("), "{output}");
    }
}

#[test]
fn names_are_looked_up_by_grant_and_pinned() {
    let place = Place::new();
    for generation in ["p2", "p3"] {
        let lookup = guest(&place, &format!("{generation}-lookup"));
        run(&place, &lookup, &["localhost"], r#"{"net": ["localhost:80"]}"#).code(1);
        let denied = run(&place, &lookup, &["localhost"], "{}");
        let code = denied.status.code();
        denied.says(&["tried to look up localhost", "\"localhost:PORT\""]);
        // What a guest names is shown, not sent.
        run(&place, &lookup, &["\u{1b}[31mred"], "{}").says(&["is no name"]);
        // What cannot be a name is told apart from one that is not granted, and an address is one however it is written.
        let bad = run(&place, &lookup, &["no name"], "{}").status.code();
        assert!(bad.is_some_and(|bad| bad > 40) && bad != code, "{generation}: {bad:?}");
        run(&place, &lookup, &["[::1]"], r#"{"net": ["localhost:80"]}"#).code(1);
    }
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
fn a_frozen_clock_stands_and_sleeping_on_it_takes_no_time() {
    let place = Place::new();
    let frozen = r#"{"clock": {"frozen": "2026-01-01T00:00:00Z"}}"#;
    let stepping = r#"{"clock": {"from": "2026-01-01T00:00:00Z", "step": "1ms"}}"#;
    for generation in ["p2", "p3"] {
        // Two looks at one clock.
        let clock = guest(&place, &format!("{generation}-clock"));
        run(&place, &clock, &[], frozen).code(0);
        run(&place, &clock, &[], stepping).code(1);
        // An hour, by the stage's clock.
        let sleep = guest(&place, &format!("{generation}-sleep"));
        run(&place, &sleep, &[], frozen).code(0);
        run(&place, &sleep, &[], stepping).code(0);
    }
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        run(&place, &guest, &["now"], frozen).code(0).prints("1767225600s 1767225600s\n");
        run(&place, &guest, &["now"], stepping).code(0).prints("1767225600s 1767225600.001s\n");
        run(&place, &guest, &["sleep"], frozen).code(0).prints("3600\n");
    }
}

#[test]
fn seeded_random_numbers_are_the_same_in_all_generations() {
    let place = Place::new();
    let of = |seed: u64, generation: &str| {
        let random = guest(&place, &format!("{generation}-random"));
        run(&place, &random, &[], &format!(r#"{{"random": {{"seed": {seed}}}}}"#)).status.code()
    };
    assert_eq!(of(7, "p2"), of(7, "p3"));
    assert_ne!(of(7, "p2"), of(8, "p2"));
    let hash = |guest: &str| {
        let output = run(&place, guest, &["hash"], r#"{"random": {"seed": 7}}"#).code(0);
        output.stdout_text()
    };
    for guest in ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string()) {
        assert_eq!(hash(&guest), hash(&guest));
    }
}

#[test]
fn a_deterministic_run_gives_the_same_output_every_time() {
    let place = Place::new();
    let std = built("std-probe-p2.wasm").display().to_string();
    place.write("words.txt", "b a c\n".repeat(10_000));
    let json = format!(
        r#"{{"version": 1, "stdin": {{"file": "words.txt"}}, "stdout": {{"file": "out"}},
            "stages": [{{"wasm": "builtin:words"}}, {{"wasm": "builtin:count"}}, {{"wasm": "{std}", "args": ["pass"]}},
                       {{"wasm": "{std}", "name": "now", "args": ["now"], "ok_exit": [0]}}]}}"#
    );
    place.write("p.json", json);
    let mut seen = Vec::new();
    for _ in 0..5 {
        place.stagehost(["run", "p.json", "--deterministic", "--report", "report.json"]).done().code(0);
        let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).expect("JSON");
        assert_eq!(report["deterministic"], true);
        // Instructions are counted, and the same each time.
        let fuel: Vec<_> = (0..4).map(|stage| report["stages"][stage]["fuel"].as_u64().expect("counted")).collect();
        seen.push((place.read("out"), fuel[3]));
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].0, "0ns 0ns\n");
    // By how many bytes at a time input comes is the same too, whoever writes it and however fast.
    let chunks = r#"(module
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 4)
        (func (export "_start")
            (loop $l
                (i64.store (i32.const 0) (i64.const 0x0002000000010000))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (i64.store (i32.const 0) (i64.const 0x0000000400000008))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
                (br_if $l (i32.load (i32.const 8))))))"#;
    let chunks = text(&place, "chunks.wasm", chunks).display().to_string();
    place.write("data.txt", "x".repeat(1_000_000));
    let mut sizes = std::collections::BTreeSet::new();
    for buffer in [4096, 65_536, 1_048_576] {
        let json = format!(
            r#"{{"version": 1, "stdin": {{"file": "data.txt"}}, "stdout": {{"file": "sizes"}}, "buffer": {buffer},
                "stages": [{{"wasm": "{std}", "args": ["pass"]}}, {{"wasm": "{chunks}"}}, {{"wasm": "builtin:cat"}}]}}"#
        );
        place.write("chunks.json", json);
        place.stagehost(["run", "chunks.json", "--deterministic"]).done().code(0);
        sizes.insert(fs::read(place.path("sizes")).expect("it was written"));
    }
    assert_eq!(sizes.len(), 1);
    // A loop without end is stopped all the same.
    let spin = format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{std}", "args": ["spin"]}}]}}"#);
    place.write("spin.json", spin);
    place.stagehost(["run", "spin.json", "--deterministic", "--timeout", "300ms"]).done().code(124);
    place.stagehost(["run", "spin.json", "--deterministic", "--limit", "fuel=1000000"]).done().code(152);
    // What is not the same every time is refused.
    place
        .shorthand(":cat | date")
        .args(["--deterministic", "--stdin", "null"])
        .done()
        .code(126)
        .says(&["not the same on every run"]);
    fs::create_dir(place.path("dir")).expect("a new directory");
    for grants in [
        r#"{"dirs": [{"host": "dir"}]}"#,
        r#"{"net": ["127.0.0.1:1"]}"#,
        r#"{"clock": "real"}"#,
        r#"{"env": ["HOME"]}"#,
    ] {
        let json =
            format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "builtin:cat", "grants": {grants}}}]}}"#);
        place.write("refused.json", json);
        place
            .stagehost(["run", "refused.json", "--deterministic"])
            .done()
            .code(126)
            .says(&["not the same on every run"]);
    }
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
fn a_connection_that_is_not_granted_never_reaches_anybody() {
    let place = Place::new();
    let (listener, port) = listener();
    listener.set_nonblocking(true).expect("it is ours");
    for generation in ["p2", "p3"] {
        let connect = guest(&place, &format!("{generation}-connect"));
        // Not even a socket is made.
        run(&place, &connect, &[&port.to_string()], "{}").says(&["tried to use the network, which is not granted"]);
    }
    let nobody = listener.accept().map(|(mut peer, _)| peer.read(&mut [0; 1]).is_ok());
    assert!(nobody.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
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
