//! The library, used in this process, with a check that nothing outlives it.

mod compilers;

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use stagehost::{
    Ends, ErrorCode, Event, ExitCode, Host, HostOptions, Outcome, Plan, PlanOptions, Policy, RunControl, RunOptions,
    StageExit, spec,
};
use stagehost_tests::{
    Place, file_calls,
    guests::{self, probe},
    leaks::checked,
};

fn plan(json: &str) -> Plan {
    Plan::new(&spec::parse(json.as_bytes()).expect("a good file"), &PlanOptions::at(".", Policy::allow_all()))
        .expect("a good plan")
}

fn run(json: &str, options: &RunOptions) -> Outcome {
    Host::new(&HostOptions::new().threads(2)).expect("a host").run(&plan(json), Ends::new(), options)
}

#[test]
fn a_run_leaves_nothing_behind() {
    checked(|| {
        let place = Place::new();
        let json = format!(
            r#"{{"version": 1, "stages": [{{"wasm": "builtin:words"}}, {{"wasm": "builtin:count"}}],
                "stdin": {{"text": "b a b"}}, "stdout": {{"file": "{}"}}}}"#,
            place.path("out").display()
        );
        let outcome = run(&json, &RunOptions::default());
        assert!(outcome.success, "{outcome:?}");
        assert_eq!(place.read("out"), "      2 b\n      1 a\n");
        assert_eq!(place.names(), ["out"]);
    });
}

#[test]
fn a_failed_run_leaves_nothing_behind() {
    // Without a code cache every run compiles: only those that would never end get a short time.
    let habits = [("panic", "100s"), ("spin", "300ms"), ("alloc", "100s"), ("yes", "300ms"), ("wait", "100s")];
    for (habit, timeout) in habits {
        checked(|| {
            let place = Place::new();
            let json = format!(
                r#"{{"version": 1, "timeout": "{timeout}", "limits": {{"memory": "64MiB"}},
                    "stages": [{{"wasm": "builtin:cat"}}, {{"wasm": "{}", "args": ["{habit}"]}}, {{"wasm": "builtin:cat"}}],
                    "stdin": {{"file": "/dev/zero"}}, "stdout": {{"file": "{}"}}}}"#,
                probe(),
                place.path("out").display()
            );
            let outcome = run(&json, &RunOptions::default());
            // `wait` has its byte and ends well.
            assert_eq!(outcome.success, habit == "wait", "{habit}: {outcome:?}");
        });
    }
}

#[test]
fn a_run_can_be_cancelled_from_another_thread() {
    checked(|| {
        let control = RunControl::default();
        let json =
            format!(r#"{{"version": 1, "stages": [{{"wasm": "{}", "args": ["spin"]}}], "stdin": "null"}}"#, probe());
        let other = control.clone();
        let cancelling = thread::spawn(move || other.cancel());
        let outcome = run(&json, &RunOptions::new().control(&control));
        cancelling.join().expect("cancelling does not panic");
        assert_eq!(outcome.exit_code, ExitCode::Host as u8);
        assert_eq!(outcome.stages[0].exit, StageExit::Cancelled);
    });
}

#[test]
fn whoever_waits_for_programs_starts_them_itself() {
    checked(|| {
        let place = Place::new();
        let json = format!(
            r#"{{"version": 1, "stages": [{{"command": ["grep", "Cpus_allowed_list", "/proc/self/status"]}}],
                "stdout": {{"file": "{}"}}}}"#,
            place.path("out").display()
        );
        let (plan, options) = (plan(&json), RunOptions::default());
        let host = Host::new(&HostOptions::new().threads(2)).expect("a host");
        let all = sched_getaffinity(None).expect("some processors");
        let first = (0..CpuSet::MAX_CPU).find(|&processor| all.is_set(processor)).expect("one processor");
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut one = CpuSet::new();
                one.set(first);
                sched_setaffinity(None, &one).expect("a thread of one processor");
                let alone = format!("Cpus_allowed_list:\t{first}\n");
                assert!(host.run(&plan, Ends::new(), &options).success);
                assert_eq!(place.read("out"), alone, "a program is started where its run is waited for");
                assert!(host.start(&plan, Ends::new(), &options).wait().success);
                assert_eq!(place.read("out") == alone, all.count() == 1, "and else by the host");
            });
        });
    });
}

#[test]
fn one_host_runs_many_pipelines_at_once() {
    checked(|| {
        let host = Host::new(&HostOptions::default()).expect("a host");
        thread::scope(|scope| {
            for n in 0..20 {
                let host = &host;
                scope.spawn(move || {
                    let json = format!(
                        r#"{{"version": 1, "stages": [{{"wasm": "builtin:cat"}}, {{"wasm": "builtin:wc", "args": ["-c"]}}],
                            "stdin": {{"text": "{}"}}, "stdout": "null"}}"#,
                        "x".repeat(n)
                    );
                    let outcome = host.run(&plan(&json), Ends::new(), &RunOptions::default());
                    assert!(outcome.success, "{outcome:?}");
                    assert_eq!(outcome.stages[0].output_bytes, Some(n as u64));
                });
            }
        });
    });
}

#[test]
fn good_runs_end_beside_spinning_ones_on_one_thread() {
    checked(|| {
        let host = Host::new(&HostOptions::new().threads(1)).expect("a host");
        let control = RunControl::default();
        thread::scope(|scope| {
            let spinner = format!(
                r#"{{"version": 1, "stages": [{{"wasm": "{}", "args": ["spin"]}}], "stdin": "null"}}"#,
                probe()
            );
            let splicer = format!(
                r#"{{"version": 1, "stages": [{{"wasm": "{}", "args": ["splice"]}}], "stdin": {{"file": "/dev/zero"}}, "stdout": "null"}}"#,
                probe()
            );
            let mut hostile = Vec::new();
            for json in [spinner, splicer] {
                let (host, control) = (&host, control.clone());
                hostile.push(
                    scope.spawn(move || host.run(&plan(&json), Ends::new(), &RunOptions::new().control(&control))),
                );
            }
            let good =
                r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"text": "x"}, "stdout": "null"}"#;
            let started = Instant::now();
            for _ in 0..5 {
                assert!(host.run(&plan(good), Ends::new(), &RunOptions::default()).success);
            }
            assert!(started.elapsed() < Duration::from_secs(60));
            control.cancel();
            for hostile in hostile {
                assert!(!hostile.join().expect("a run does not panic").success);
            }
        });
    });
}

#[test]
fn a_host_runs_no_more_at_once_than_it_may() {
    checked(|| {
        let options = HostOptions::new().threads(2).max_runs(1);
        let host = Host::new(&options).expect("a host");
        let first = format!(
            r#"{{"version": 1, "timeout": "3s", "stdin": {{"file": "/dev/zero"}}, "stdout": "null",
                "stages": [{{"wasm": "{}", "args": ["spin"]}}]}}"#,
            probe()
        );
        let second = r#"{"version": 1, "stages": [{"wasm": "builtin:cat"}], "stdin": {"text": "x"}, "stdout": "null"}"#;
        let (sender, started) = std::sync::mpsc::sync_channel(64);
        let tell = move |event: &Event| {
            if matches!(event, Event::Started { .. }) {
                let _ = sender.try_send(());
            }
        };

        let first = host.start(&plan(&first), Ends::new(), &RunOptions::new().on_event(tell));
        started.recv_timeout(Duration::from_secs(60)).expect("it starts");
        let second = host.start(&plan(second), Ends::new(), &RunOptions::default());
        let waited = second.wait();
        // It began when the first was over.
        assert!(waited.success && waited.duration_ms >= 1000, "{waited:?}");
        assert!(first.wait().timed_out);
    });
}

#[test]
fn errors_have_a_code_and_their_paths_apart() {
    let place = Place::new();
    // What no text for strangers may have in it.
    let secret = place.path("").display().to_string();
    let secret = secret.trim_end_matches('/');
    for name in ["dir", "locked"] {
        std::fs::create_dir(place.path(name)).unwrap();
    }
    place.write("file", "");
    place.write("bad.json", "{");
    place.write("text.wasm", "text");
    place.write("program", "");
    let base = || PlanOptions::at(secret, Policy::allow_all()).environment(std::env::vars_os());
    let held = || {
        let policy = r#"{"files": ["dir"], "plugins": ["dir"], "dirs": [{"path": "dir", "access": "read"}]}"#;
        let policy = Policy::parse(policy.as_bytes(), secret).expect("a good policy");
        PlanOptions::at(secret, policy).environment(std::env::vars_os())
    };
    let plan = |spec: &str, options: &PlanOptions| match spec::parse(spec.as_bytes()) {
        Ok(spec) => Plan::new(&spec, options).map(|_| ()).map_err(|error| {
            assert!(!error.text_without_path().contains(secret), "{error}");
            (error.code, error.place, error.message, error.path)
        }),
        Err(error) => Err((error.code(), error.place, error.message, None)),
    };
    let copies = r#"{"wasm": "builtin:cat"}"#;
    let dirs = |dir: &str, rest: &str| {
        format!(r#"{{"wasm": "builtin:cat", "grants": {{"dirs": [{{"host": "{dir}"{rest}}}]}}}}"#)
    };
    use ErrorCode::*;
    // The pipeline's stages and rest, whether the policy holds, the code, and whether the path is named.
    let table = [
        (copies.to_owned(), r#", "stdin": {"file": "none"}"#, false, NotFound, true),
        (copies.to_owned(), r#", "stdin": {"file": "dir"}"#, false, IsADirectory, true),
        (copies.to_owned(), r#", "stdin": {"file": "file/x"}"#, false, NotADirectory, true),
        (copies.to_owned(), r#", "stdout": {"file": "none/x"}"#, false, NotAtomic, true),
        (copies.to_owned(), r#", "stdin": {"file": "file"}"#, true, DeniedByPolicy, true),
        (copies.to_owned(), r#", "nmae": 1"#, false, InvalidPipeline, false),
        (r#"{"wasm": "builtin:cta"}"#.to_owned(), "", false, NotFound, false),
        (r#"{"wasm": "none.wasm"}"#.to_owned(), "", false, NotFound, false),
        (r#"{"wasm": "text.wasm"}"#.to_owned(), "", false, NotAStage, false),
        (r#"{"wasm": "text.wasm"}"#.to_owned(), "", true, DeniedByPolicy, true),
        (r#"{"wasm": "dir"}"#.to_owned(), "", false, Inaccessible, false),
        (format!(r#"{{"wasm": "builtin:cat", "sha256": "{}"}}"#, "0".repeat(64)), "", false, DigestMismatch, false),
        (r#"{"command": ["none-such-program"]}"#.to_owned(), "", false, NotFound, false),
        (r#"{"command": ["./program"]}"#.to_owned(), "", false, NotExecutable, true),
        (r#"{"command": ["./dir"]}"#.to_owned(), "", false, NotExecutable, true),
        (r#"{"command": ["cat"], "dir": "none"}"#.to_owned(), "", false, NotFound, true),
        (r#"{"command": ["cat"], "dir": "file"}"#.to_owned(), "", false, NotADirectory, true),
        (r#"{"command": ["cat"], "stderr": {"file": "none/x"}}"#.to_owned(), "", false, NotFound, true),
        (format!(r#"{{"command": ["cat"], "sha256": "{}"}}"#, "0".repeat(64)), "", false, DigestMismatch, true),
        (dirs("none", ""), "", false, NotFound, true),
        (dirs("file", ""), "", false, NotADirectory, true),
        (dirs("/", ""), "", false, NotGrantable, true),
        (dirs("locked", ""), "", true, DeniedByPolicy, true),
        (r#"{"pipeline": "none.json"}"#.to_owned(), "", false, NotFound, true),
        (r#"{"pipeline": "bad.json"}"#.to_owned(), "", false, InvalidPipeline, false),
    ];
    for (stage, rest, is_held, code, names) in table {
        let spec = format!(r#"{{"version": 1, "stages": [{stage}]{rest}}}"#);
        let options = if is_held { held() } else { base() };
        let (found, at, message, path) = plan(&spec, &options).expect_err(&spec);
        assert_eq!((found, path.is_some()), (code, names), "{spec}: {at}: {message} ({path:?})");
        assert!(!at.contains(secret) && !message.contains(secret), "{spec}: {at}: {message}");
    }
    // What is wrong with a policy, or with where the pipeline lies.
    std::os::unix::fs::symlink("/nowhere", place.path("dir/lost")).unwrap();
    let write = r#""dirs": [{"path": "dir", "access": "write"}]"#;
    for (policy, at) in [
        (format!(r#"{{{write}, "files": ["{secret}/dir/in"]}}"#), secret.to_owned()),
        (format!("{{{write}}}"), format!("{secret}/dir/lost")),
    ] {
        let policy = Policy::parse(policy.as_bytes(), secret).expect("a good policy");
        let spec = format!(r#"{{"version": 1, "stages": [{copies}]}}"#);
        let (code, _, message, path) = plan(&spec, &PlanOptions::at(at, policy)).expect_err("it is refused");
        assert!(code == DeniedByPolicy && path.is_some_and(|path| path.contains(secret)), "{message}");
    }
    // What fails when it runs has them too.
    let options = base();
    let spec = spec::parse(br#"{"version": 1, "stages": [{"command": ["./script"]}], "stdin": "null"}"#).unwrap();
    place.write("script", "#!/none/such\n");
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(place.path("script"), executable).unwrap();
    let host = Host::new(&HostOptions::new().threads(2)).expect("a host");
    let outcome = host.run(&Plan::new(&spec, &options).expect("a plan"), Ends::new(), &RunOptions::default());
    assert_eq!((outcome.code.as_str(), outcome.exit_code), ("start-failed", 127), "{outcome:?}");
    assert!(outcome.message.contains(secret) && outcome.path.as_ref().is_some_and(|path| path.contains(secret)));
    assert!(!outcome.message_without_path().contains(secret), "{}", outcome.message_without_path());
}

/// A preview1 module that counts to so many millions.
fn counting(place: &Place, millions: u32) -> String {
    let body = format!(
        "(local $left i64) (local.set $left (i64.const {millions}000000))
         (loop $more (local.set $left (i64.sub (local.get $left) (i64.const 1))) (br_if $more (i64.ne (local.get $left) (i64.const 0))))"
    );
    guests::preview1(place, &format!("count{millions}.wasm"), &body).display().to_string()
}

#[test]
fn turns_go_by_run_and_then_by_stage() {
    checked(|| {
        let place = Place::new();
        let host = Host::new(&HostOptions::new().threads(1)).expect("a host");
        let (control, good) = (RunControl::default(), counting(&place, 300));
        let good = format!(r#"{{"version": 1, "stages": [{{"wasm": "{good}"}}], "stdin": "null", "stdout": "null"}}"#);
        // Compiled, and known from then on.
        assert!(host.run(&plan(&good), Ends::new(), &RunOptions::default()).success);
        let spinning = guests::preview1(&place, "spinning.wasm", "(loop $spin (br $spin))").display().to_string();
        let stages = vec![format!(r#"{{"wasm": "{spinning}"}}"#); 100].join(", ");
        let many = format!(r#"{{"version": 1, "stages": [{stages}], "stdin": "null", "stdout": "null"}}"#);
        let hostile = host.start(&plan(&many), Ends::new(), &RunOptions::new().control(&control));
        // All of them are at it from here on.
        let (begun, deadline) = (processor_time(), Instant::now() + Duration::from_secs(60));
        while processor_time() - begun < Duration::from_secs(2) {
            assert!(Instant::now() < deadline, "they do not compute");
            thread::yield_now();
        }
        let before = processor_time();
        let outcome = host.run(&plan(&good), Ends::new(), &RunOptions::default());
        let all = processor_time() - before;
        control.cancel();
        assert!(outcome.success, "{outcome:?}");
        let ours = Duration::from_millis(outcome.stages[0].cpu_ms.expect("it ran"));
        let ran = hostile.wait().stages.iter().filter(|stage| stage.cpu_ms.is_some_and(|ms| ms > 0)).count();
        assert!(ran > 90, "{ran} of a hundred ran");
        // By stage it would be a hundred times as much.
        let theirs = all - ours;
        assert!(theirs < 4 * ours + Duration::from_millis(300), "{theirs:?} beside {ours:?}");
    });
}

/// What this process used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().expect("no less than nothing"), time.tv_nsec.try_into().expect("a part"))
}

#[test]
fn planning_ends_whatever_the_file_is_made_of() {
    let place = Place::new();
    // Each stage is given all of the variables.
    let variables: Vec<_> = (0..20_000).map(|number| format!(r#""V{number}": "{}""#, "x".repeat(100))).collect();
    let stages = vec![r#"{"wasm": "builtin:cat"}"#; 500].join(", ");
    let json = format!(r#"{{"version": 1, "env": {{{}}}, "stages": [{stages}]}}"#, variables.join(", "));
    let spec = spec::parse(json.as_bytes()).expect("a good file");
    let options = PlanOptions::at(".", Policy::allow_all());
    let refused = Plan::new(&spec, &options).expect_err("it is too much");
    assert_eq!((refused.code, refused.exit_code()), (ErrorCode::TooLarge, ExitCode::BadPipeline), "{refused}");
    // Entries count, however little is in them.
    let variables: Vec<_> = (0..200_000).map(|number| format!(r#""V{number}": """#)).collect();
    let stages = [r#"{"wasm": "builtin:cat"}"#; 2].join(", ");
    let json = format!(r#"{{"version": 1, "env": {{{}}}, "stages": [{stages}]}}"#, variables.join(", "));
    let many = spec::parse(json.as_bytes()).expect("a good file");
    assert_eq!(Plan::new(&many, &options).expect_err("it is too much").code, ErrorCode::TooLarge);
    let json = format!(
        r#"{{"version": 1, "env": {{{}}}, "stages": [{{"wasm": "builtin:cat"}}]}}"#,
        variables[..100_000].join(", ")
    );
    let half = spec::parse(json.as_bytes()).expect("a good file");
    let worst = |spec| Plan::new(spec, &options).expect("it is just enough").summary().worst_case_memory_bytes;
    let one = spec::parse(br#"{"version": 1, "stages": [{"wasm": "builtin:cat"}]}"#).expect("a good file");
    assert!(worst(&half) >= worst(&one).map(|bytes| bytes + (25 << 20)), "they are not in what the plan says");
    // So do the lists of a stage, however often a name is on them.
    let here = PlanOptions::at(place.path(""), Policy::allow_all());
    let list = |item: &str| vec![item; 60_000].join(", ");
    for stage in [
        format!(r#"{{"wasm": "builtin:cat", "grants": {{"env": [{}]}}}}"#, list(r#""LIST""#)),
        format!(r#"{{"wasm": "builtin:cat", "grants": {{"net": [{}]}}}}"#, list(r#""a:1""#)),
        format!(r#"{{"wasm": "builtin:cat", "ok_exit": [{}]}}"#, list("1")),
        format!(r#"{{"wasm": "builtin:cat", "ignore": [{}]}}"#, list(r#""broken-pipe""#)),
    ] {
        place.write("nested.json", format!(r#"{{"version": 1, "stages": [{stage}]}}"#));
        let plan = |times| {
            let stages = vec![r#"{"pipeline": "nested.json"}"#; times].join(", ");
            let json = format!(r#"{{"version": 1, "stages": [{stages}]}}"#);
            Plan::new(&spec::parse(json.as_bytes()).expect("a good file"), &here)
        };
        assert_eq!(plan(1).err(), None, "once is allowed: {}", &stage[..60]);
        let refused = plan(5).expect_err("it is too much");
        assert_eq!(refused.code, ErrorCode::TooLarge, "{refused}: {}", &stage[..60]);
    }
    // A file has so many values and no more, each of which takes more than its text.
    let json =
        format!(r#"{{"version": 1, "stages": [{{"command": ["true", {}]}}]}}"#, vec![r#""""#; 300_000].join(", "));
    let refused = spec::parse(json.as_bytes()).expect_err("it has too many values");
    assert!(refused.to_string().contains("more than 262144 values"), "{refused}");
    let text = format!(r#"{{"version": 1, "description": "{}\"[", "stages": []}}"#, ",[{".repeat(200_000));
    assert_eq!(spec::parse(text.as_bytes()).err(), None, "what is in a text is no value");
    // Many nested files, each of a megabyte that says nothing.
    let nested = format!(r#"{{"version": 1, "description": "{}", "stages": []}}"#, "x".repeat(1 << 20));
    let stages: Vec<_> = (0..100)
        .map(|number| {
            let file = place.write(&format!("nested{number}.json"), &nested);
            format!(r#"{{"pipeline": "{}"}}"#, file.display())
        })
        .collect();
    let json = format!(r#"{{"version": 1, "stages": [{}]}}"#, stages.join(", "));
    let spec = spec::parse(json.as_bytes()).expect("a good file");
    let refused = Plan::new(&spec, &options).expect_err("it is too much");
    assert_eq!(refused.code, ErrorCode::TooLarge, "{refused}");
    assert!(refused.message.contains("more than 64 MiB"), "{refused}");
    // Planning is a part of the run's time.
    let json = r#"{"version": 1, "timeout": "1ns", "stages": [{"wasm": "builtin:cat"}]}"#;
    let spec = spec::parse(json.as_bytes()).expect("a good file");
    let refused = Plan::new(&spec, &options).expect_err("its time is over");
    assert_eq!((refused.code, refused.exit_code()), (ErrorCode::TimedOut, ExitCode::TimedOut), "{refused}");
    assert!(refused.to_string().contains("stages[0]: the timeout of 1ns was over"), "{refused}");
}

#[test]
fn a_guest_changes_nothing_after_its_end() {
    checked(|| {
        let place = Place::new();
        let host = Host::new(&HostOptions::new().threads(2)).expect("a host");
        std::fs::create_dir(place.path("dir")).expect("the place is writable");
        // Counts in its file, for ever.
        let body = "(i64.store (i32.const 65536) (i64.add (i64.load (i32.const 65536)) (i64.const 1)))
            (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 8))
            (call $good (call $pwrite (local.get $file) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 256)))";
        let guest = guests::text(&place, "counts.wasm", &file_calls::preview1(body)).display().to_string();
        let json = format!(
            r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{guest}", "limits": {{"wall_time": "20ms"}},
                "grants": {{"dirs": [{{"host": "{}", "guest": "/", "access": "write"}}]}}}}]}}"#,
            place.path("dir").display()
        );
        let (file, mut wrote) = (place.path("dir/f"), 0);
        for _ in 0..20 {
            let _ = std::fs::remove_file(place.path("dir/l"));
            std::fs::write(&file, [0; 8]).expect("the place is writable");
            let outcome = host.run(&plan(&json), Ends::new(), &RunOptions::default());
            let first = std::fs::read(&file).expect("it is there");
            assert_eq!(outcome.exit_code, ExitCode::TimedOut as u8, "{outcome:?}");
            wrote += usize::from(first != [0; 8]);
            // What still ran would be seen by now.
            let until = Instant::now() + Duration::from_millis(20);
            while Instant::now() < until {
                assert_eq!(std::fs::read(&file).expect("it is there"), first, "it was changed after the run's end");
            }
        }
        assert!(wrote > 0, "none of them came to write");
    });
}
