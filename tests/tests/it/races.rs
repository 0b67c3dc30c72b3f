//! Names that others swap while a pipeline is looked at and run.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use stagehost_tests::{Place, guests::text};

/// How often a pipeline is run while names are swapped.
const TIMES: u32 = 80;

/// What swaps two names.
struct Swaps {
    is_over: AtomicBool,
    /// Between two swaps, in microseconds.
    pause: AtomicU64,
    /// Held for a swap.
    turn: Mutex<()>,
}

impl Swaps {
    /// Sets how often they are swapped, for one run of many: from 16 µs to 16 ms, in turn. What needs a swap between a look and a use is
    /// found by quick ones, what needs the same names for longer by slow ones.
    fn pace(&self, times: u32) {
        self.pause.store(16 << (times % 11), Relaxed);
    }
}

/// Swaps two names in a place for as long as something is done.
fn swapping(place: &Place, one: &str, other: &str, doing: impl FnOnce(&Swaps)) {
    let swaps = Swaps { is_over: AtomicBool::new(false), pause: AtomicU64::new(0), turn: Mutex::new(()) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !swaps.is_over.load(Relaxed) {
                let until = Instant::now() + Duration::from_micros(swaps.pause.load(Relaxed));
                while Instant::now() < until {
                    std::thread::yield_now();
                }
                let _turn = swaps.turn.lock().unwrap();
                let _ = renameat_with(CWD, place.path(one), CWD, place.path(other), RenameFlags::EXCHANGE);
            }
        });
        // A panic must end the swaps as well: the thread is waited for.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| doing(&swaps)));
        swaps.is_over.store(true, Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
}

fn make_program(place: &Place, name: &str, code: u32) {
    place.write(name, format!("#!/bin/sh\nexit {code}\n"));
    fs::set_permissions(place.path(name), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_directory_that_is_swapped_for_a_link_lets_nobody_out() {
    let place = Place::new();
    for directory in ["roots", "roots/d", "outside"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    let exits = |code: u32| {
        format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
        )
    };
    for (directory, word, code) in [("outside", "secret", 77), ("roots/d", "inside", 0)] {
        let program = if code == 0 { "/usr/bin/true" } else { "/usr/bin/false" };
        fs::copy(program, place.path(format!("{directory}/program"))).unwrap();
        // What is a script when it is looked at is a program when it is started.
        if code == 0 {
            place.write("roots/d/script", "#!/bin/sh\nexit 0\n");
            place.write("roots/d/here.json", r#"{"version": 1, "stages": [{"command": ["cat", "only"]}]}"#);
            fs::set_permissions(place.path("roots/d/script"), PermissionsExt::from_mode(0o755)).unwrap();
        } else {
            fs::copy(program, place.path("outside/script")).unwrap();
        }
        place.write(&format!("{directory}/file"), word);
        text(&place, &format!("{directory}/plugin.wasm"), &exits(code));
        let nested = format!(r#"{{"version": 1, "stages": [{{"command": ["sh", "-c", "exit {code}"]}}]}}"#);
        place.write(&format!("{directory}/nested.json"), nested);
    }
    // What only the outside has, for a stage that opens it below its grant.
    place.write("outside/only", "secret");
    symlink(place.path("outside"), place.path("roots/link")).unwrap();
    let opens = fs::read_to_string(stagehost_tests::repository().join("tests/grants/p1-open.wat")).unwrap();
    let opens = text(&place, "opens.wasm", &opens).display().to_string();
    let cat = r#"{"wasm": "builtin:cat"}"#;
    let (files, plugins) = (r#"{"files": ["roots"]}"#, r#"{"plugins": ["roots"]}"#);
    let dirs = r#"{"dirs": [{"path": "roots", "access": "write"}]}"#;
    // Stages, the rest of the file, the policy, and the exit code that says that it was let out.
    let kinds = [
        (cat.to_owned(), r#", "stdin": {"file": "roots/d/file"}"#, files, None),
        (r#"{"command": ["cat"]}"#.to_owned(), r#", "stdin": {"file": "roots/d/file"}"#, files, None),
        (cat.to_owned(), r#", "stdin": {"text": "x"}, "stdout": {"file": "roots/d/out"}"#, files, None),
        (
            cat.to_owned(),
            r#", "stdin": {"text": "x"}, "stdout": {"file": "roots/d/place", "atomic": false}"#,
            files,
            None,
        ),
        (
            cat.to_owned(),
            r#", "stdin": {"text": "x"}, "stdout": {"file": "roots/d/more", "append": true}"#,
            files,
            None,
        ),
        (
            r#"{"command": ["sh", "-c", "cat roots/d/only"], "sandbox": "best-effort", "grants": {"dirs": [{"host": "roots/d"}]}}"#
                .to_owned(),
            r#", "stdin": "null""#,
            dirs,
            Some(0),
        ),
        (
            r#"{"command": ["sh", "-c", "echo x >&2"], "stderr": {"file": "roots/d/log"}}"#.to_owned(),
            r#", "stdin": "null""#,
            files,
            None,
        ),
        (r#"{"wasm": "roots/d/plugin.wasm"}"#.to_owned(), r#", "stdin": "null""#, plugins, Some(77)),
        (r#"{"pipeline": "roots/d/nested.json"}"#.to_owned(), r#", "stdin": "null""#, plugins, Some(77)),
        (r#"{"command": ["roots/d/program"]}"#.to_owned(), r#", "stdin": "null""#, plugins, Some(1)),
        (r#"{"command": ["roots/d/script"]}"#.to_owned(), r#", "stdin": "null""#, plugins, Some(1)),
        (r#"{"pipeline": "roots/d/here.json"}"#.to_owned(), r#", "stdin": "null""#, plugins, Some(0)),
        (r#"{"command": ["cat", "only"], "dir": "roots/d"}"#.to_owned(), r#", "stdin": "null""#, dirs, Some(0)),
        (
            format!(
                r#"{{"wasm": "{opens}", "args": ["only"], "grants": {{"dirs": [{{"host": "roots/d", "guest": "d"}}]}}}}"#
            ),
            r#", "stdin": "null""#,
            dirs,
            Some(0),
        ),
    ];
    let outside = || {
        let mut names: Vec<_> =
            fs::read_dir(place.path("outside")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = outside();
    let mut let_out = Vec::new();
    swapping(&place, "roots/d", "roots/link", |swaps| {
        for (stages, rest, policy, code) in &kinds {
            place.write("policy.json", policy);
            place.write("p.json", format!(r#"{{"version": 1, "stages": [{stages}]{rest}}}"#));
            // What would be let out has nothing to find inside.
            let (mut times, mut went_well) = (0, *code == Some(0));
            while times < TIMES || !went_well {
                swaps.pace(times);
                let output = place.stagehost(["run", "p.json", "--policy", "policy.json"]).done();
                times += 1;
                went_well |= output.status.success();
                if times > 5 * TIMES {
                    let_out.push(format!("{stages}{rest} never goes well: {output}"));
                    break;
                }
                if output.stdout.starts_with(b"secret") || code.is_some() && output.status.code() == *code {
                    let_out.push(format!("{stages}{rest}: {output}"));
                    break;
                }
            }
        }
    });
    assert!(let_out.is_empty(), "{let_out:?}");
    assert_eq!(outside(), before, "nothing was made outside");
    assert_eq!(place.read("outside/file"), "secret");
}

#[test]
fn a_program_is_the_one_that_was_judged() {
    let place = Place::new();
    for directory in ["plugins", "plugins/good", "outside"] {
        fs::create_dir(place.path(directory)).unwrap();
    }
    for (program, code) in [("plugins/good/tool", 0), ("outside/tool", 77)] {
        place.write(program, format!("#!/bin/sh\nexit {code}\n"));
        fs::set_permissions(place.path(program), PermissionsExt::from_mode(0o755)).unwrap();
    }
    symlink("good", place.path("plugins/x")).unwrap();
    symlink("../outside", place.path("plugins/y")).unwrap();
    place.write("policy.json", r#"{"plugins": ["plugins"]}"#);
    place.write("p.json", r#"{"version": 1, "stdin": "null", "stages": [{"command": ["plugins/x/tool"]}]}"#);
    let mut codes = Vec::new();
    swapping(&place, "plugins/x", "plugins/y", |swaps| {
        codes.extend((0..200).map(|times| {
            swaps.pace(times);
            place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().status.code()
        }));
    });
    assert!(!codes.contains(&Some(77)), "another was run: {codes:?}");
    assert!(codes.contains(&Some(0)), "none was run: {codes:?}");
}

#[test]
fn a_directory_that_was_judged_is_not_looked_at_by_its_name_again() {
    let place = Place::new();
    for directory in ["work/sub", "outside/deep/er", "plug", "root"] {
        fs::create_dir_all(place.path(directory)).unwrap();
    }
    make_program(&place, "plug/program", 0);
    place.write("root/data", "found");
    let cat = r#"{"wasm": "builtin:cat"}"#;
    let nested = [
        ("input.json", format!(r#"{{"version": 1, "stages": [{cat}], "stdin": {{"file": "../../../root/data"}}}}"#)),
        (
            "grant.json",
            r#"{"version": 1, "stages": [{"wasm": "builtin:cat", "grants": {"dirs": [{"host": "../../../root"}]}}]}"#
                .to_owned(),
        ),
        (
            "log.json",
            r#"{"version": 1, "stages": [{"wasm": "builtin:cat", "stderr": {"file": "../../../root/log"}}]}"#
                .to_owned(),
        ),
    ];
    for (name, text) in nested {
        place.write(&format!("work/sub/{name}"), text);
    }
    let deep = place.path("outside/deep/er");
    // Where a guest's link leads, stages, the policy, what is run, and what it answers if that was looked at.
    let kinds = [
        (
            &deep,
            r#"{"command": ["../../../plug/program"], "dir": "work/sub"}"#,
            r#"{"plugins": ["plug"], "dirs": [{"path": "work", "access": "write"}]}"#,
        ),
        (&deep, r#"{"pipeline": "work/sub/input.json"}"#, r#"{"plugins": ["work"], "files": ["root"]}"#),
        (&deep, r#"{"pipeline": "work/sub/grant.json"}"#, r#"{"plugins": ["work"], "dirs": [{"path": "root"}]}"#),
        (&deep, r#"{"pipeline": "work/sub/log.json"}"#, r#"{"plugins": ["work"], "files": ["root"]}"#),
    ];
    let mut let_out = Vec::new();
    for (leads_to, stage, policy) in kinds {
        let _ = fs::remove_file(place.path("work/link"));
        symlink(leads_to, place.path("work/link")).unwrap();
        place.write("policy.json", policy);
        place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stage}]}}"#));
        swapping(&place, "work/sub", "work/link", |swaps| {
            for times in 0..2 * TIMES {
                swaps.pace(times);
                let output = place.stagehost(["run", "p.json", "--policy", "policy.json"]).done();
                if output.status.success() {
                    let_out.push(format!("{stage}: {output}"));
                    break;
                }
            }
        });
        if fs::symlink_metadata(place.path("work/sub")).unwrap().is_symlink() {
            renameat_with(CWD, place.path("work/sub"), CWD, place.path("work/link"), RenameFlags::EXCHANGE).unwrap();
        }
    }
    assert!(let_out.is_empty(), "{let_out:?}");
}

#[test]
fn whether_files_may_be_run_is_asked_of_the_directory_that_was_judged() {
    let place = Place::new();
    for directory in ["work/sub", "runs"] {
        fs::create_dir_all(place.path(directory)).unwrap();
    }
    // What is below `runs` may be run, and a granted directory that is not may not.
    symlink(place.path("runs"), place.path("work/link")).unwrap();
    place.write("policy.json", r#"{"plugins": ["runs"], "dirs": [{"path": "work", "access": "write"}]}"#);
    let stage = r#"{"command": ["true"], "sandbox": "best-effort", "grants": {"dirs": [{"host": "work/sub"}]}}"#;
    // Many in one plan: the moment that matters is short.
    let stages = vec![stage; 20].join(", ");
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stages}]}}"#));
    swapping(&place, "work/sub", "work/link", |swaps| {
        let mut planned = 0;
        for times in 0..20 * TIMES {
            swaps.pace(times);
            let output = place.stagehost(["plan", "p.json", "--policy", "policy.json"]).done();
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            planned += u32::from(output.status.success());
            for line in shown.lines().filter(|line| line.contains("work/sub")) {
                assert!(line.contains("nothing to run"), "{line}");
            }
            if times >= 4 * TIMES && planned > 10 {
                return;
            }
        }
        panic!("it is never planned: {planned}");
    });
}

#[test]
fn a_command_is_where_its_pipeline_was_found() {
    let place = Place::new();
    for directory in ["work/job", "outside"] {
        fs::create_dir_all(place.path(directory)).unwrap();
    }
    place.write("outside/only", "secret");
    let reads = r#"{"version": 1, "stdin": "null", "stages": [{"command": ["cat", "only"]}]}"#;
    place.write("p.json", reads);
    place.write("work/job/nested.json", reads.replace(r#""stdin": "null", "#, ""));
    place.write("outer.json", r#"{"version": 1, "stdin": "null", "stages": [{"pipeline": "work/job/nested.json"}]}"#);
    let dirs = r#"{"dirs": [{"path": "work", "access": "write"}]}"#;
    place.write("policy.json", dirs);
    // The operator's own directory, the one of a pipeline file, and of a nested one.
    place.write("work/job/p.json", reads);
    for args in [&["p.json", "--cwd", "work/job"][..], &["work/job/p.json"], &["outer.json"]] {
        for target in ["../outside", "../nowhere", "../outside/only"] {
            let _ = fs::remove_file(place.path("work/link"));
            symlink(target, place.path("work/link")).unwrap();
            swapping(&place, "work/job", "work/link", |swaps| {
                for times in 0..TIMES {
                    swaps.pace(times);
                    let more = ["--policy", "policy.json", "--report", "work/job/report"];
                    let args = ["run"].iter().chain(args).chain(&more).copied();
                    let output = place.stagehost(args.collect::<Vec<_>>()).done();
                    assert!(!output.stdout.starts_with(b"secret"), "it is outside: {output}");
                    let told = output.error_text();
                    assert!(!told.contains("is no directory"), "it tells what is outside: {output}");
                }
            });
            if fs::symlink_metadata(place.path("work/job")).unwrap().is_symlink() {
                renameat_with(CWD, place.path("work/job"), CWD, place.path("work/link"), RenameFlags::EXCHANGE)
                    .unwrap();
            }
        }
    }
    assert!(!place.path("outside/report").exists(), "a report is outside");
    // Without a race, one that lies elsewhere is not where commands may be.
    place.write("outside/nested.json", reads.replace(r#""stdin": "null", "#, ""));
    place.write("p.json", r#"{"version": 1, "stdin": "null", "stages": [{"pipeline": "outside/nested.json"}]}"#);
    place.stagehost(["run", "p.json", "--policy", "policy.json"]).done().code(126).says(&["may not be granted"]);
    place.stagehost(["run", "p.json"]).done().code(0).prints("secret");
}

#[test]
fn what_the_kernel_has_is_told_of_nobodys_directory() {
    let place = Place::new();
    fs::create_dir_all(place.path("work/sub")).unwrap();
    symlink("/proc/self", place.path("work/link")).unwrap();
    place.write("policy.json", r#"{"dirs": [{"path": "work", "access": "write"}]}"#);
    let grant = r#"{"wasm": "builtin:cat", "grants": {"dirs": [{"host": "work/sub"}]}}"#;
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{grant}]}}"#));
    swapping(&place, "work/sub", "work/link", |swaps| {
        for times in 0..3 * TIMES {
            swaps.pace(times);
            let output = place.stagehost(["check", "p.json", "--policy", "policy.json"]).done();
            assert!(!output.error_text().contains("kernel"), "{output}");
        }
    });
}

#[test]
fn an_output_has_the_mode_of_no_link() {
    let place = Place::new();
    fs::create_dir(place.path("work")).unwrap();
    place.write("policy.json", r#"{"files": ["work"]}"#);
    place.write(
        "p.json",
        r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"text": "x"}, "stdout": {"file": "work/out"}}"#,
    );
    place.write("work/out", "");
    swapping(&place, "work/out", "work/link", |swaps| {
        for times in 0..3 * TIMES {
            {
                let _turn = swaps.turn.lock().unwrap();
                for name in ["work/out", "work/link"] {
                    let _ = fs::remove_file(place.path(name));
                }
                place.write("work/out", "");
                fs::set_permissions(place.path("work/out"), PermissionsExt::from_mode(0o600)).unwrap();
                symlink("nowhere", place.path("work/link")).unwrap();
            }
            swaps.pace(times);
            let output = place.stagehost(["run", "p.json", "--policy", "policy.json"]).done();
            let _turn = swaps.turn.lock().unwrap();
            for name in ["work/out", "work/link"] {
                let found = fs::symlink_metadata(place.path(name)).unwrap();
                let mode = found.permissions().mode() & 0o777;
                assert!(found.is_symlink() || mode != 0o777, "{name} has the mode of a link: {output}");
            }
        }
    });
}
