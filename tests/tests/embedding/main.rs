//! The library as programs embed it: plans that are run many times, ends of every kind, and waiting in every way.
#![expect(clippy::unwrap_used, reason = "a test's helpers are part of the test")]

mod known;
mod many;
mod views;

use std::{
    io::{Cursor, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use stagehost::{
    Chunks, Ends, ExitCode, Host, HostOptions, LimitKind, NotTaken, Pipeline, Plan, PlanOptions, Policy, RunOptions,
    Stage, StageExit, Stdin, Stdout, spec,
};
use stagehost_tests::{Place, cache, guests::probe, leaks::checked};
use tokio::runtime::{Builder, Runtime};

const MOST: usize = 1 << 20;

fn host() -> Host {
    Host::new(&HostOptions::new().threads(2).cache(cache())).unwrap()
}

/// A plan from JSON.
fn plan(stages: &str) -> Plan {
    let spec = spec::parse(format!(r#"{{"version": 1, "stages": [{stages}]}}"#).as_bytes()).unwrap();
    let path = vec![("PATH".into(), "/usr/bin:/bin".into())];
    Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all()).environment(path)).unwrap()
}

const UPPER: &str = r#"{"command": ["tr", "a-z", "A-Z"]}"#;
const CAT: &str = r#"{"wasm": "builtin:cat"}"#;
const LOWER: &str = r#"{"wasm": "builtin:lower"}"#;

#[test]
fn one_plan_is_run_many_times_at_once_each_with_its_own_ends() {
    checked(|| {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let copies = Stage::blocking("copies", move |input, output| {
            counted.fetch_add(1, Relaxed);
            std::io::copy(input, output)?;
            Ok(())
        });
        let pipeline = Pipeline::builder(Policy::allow_all()).stage(Stage::wasm("builtin:lower")).stage(copies);
        let plan = pipeline.stage(Stage::wasm("builtin:cat")).stdin_bytes("").build().unwrap().into_plan();
        let host = host();
        thread::scope(|scope| {
            for number in 0..8 {
                let (host, plan) = (&host, plan.clone());
                scope.spawn(move || {
                    for turn in 0..10 {
                        let text = format!("TEXT {number} {turn}");
                        let ends = Ends::new().stdin(text.clone());
                        let (outcome, output) = host.output(&plan, ends, &RunOptions::new(), MOST).wait();
                        assert!(outcome.success, "{outcome:?}");
                        assert_eq!(output, text.to_lowercase().as_bytes());
                    }
                });
            }
        });
        assert_eq!(calls.load(Relaxed), 80);
        // What the builder was given was for its own run.
        let outcome = host.run(&plan, Ends::new(), &RunOptions::new());
        assert!(!outcome.success && outcome.message.contains("gave none"), "{outcome:?}");
    });
}

#[test]
fn a_plan_takes_every_kind_of_end_whatever_it_was_made_of() {
    checked(|| {
        let (host, place) = (host(), Place::new());
        place.write("in", "From File");
        // Stages of both kinds at both ends, and none at all.
        for stages in [
            LOWER.to_owned(),
            format!("{UPPER}, {LOWER}"),
            format!("{LOWER}, {UPPER}"),
            UPPER.to_owned(),
            String::new(),
        ] {
            let plan = plan(&stages);
            let made = |text: &str| match stages.ends_with(LOWER) {
                _ if stages.is_empty() => text.to_owned(),
                true => text.to_lowercase(),
                false => text.to_uppercase(),
            };
            let output = |ends: Ends| {
                let (outcome, output) = host.output(&plan, ends, &RunOptions::new(), MOST).wait();
                assert!(outcome.success, "{stages}: {outcome:?}");
                String::from_utf8(output).unwrap()
            };
            assert_eq!(output(Ends::new().stdin("From Text")), made("From Text"), "{stages}");
            assert_eq!(output(Ends::new().stdin(Stdin::file(place.path("in")))), made("From File"), "{stages}");
            assert_eq!(output(Ends::new().stdin(Stdin::null())), "", "{stages}");
            assert_eq!(output(Ends::new().stdin(Stdin::reader(Cursor::new("From Reader")))), made("From Reader"));
            let large = "Blocking ".repeat(30_000);
            assert_eq!(output(Ends::new().stdin(Stdin::blocking(Cursor::new(large.clone())))), made(&large));
            let (sender, stdin) = Stdin::channel(1);
            let sending = thread::spawn(move || {
                for piece in ["From ", "", "Channel"] {
                    sender.send_blocking(piece).unwrap();
                }
                sender.finish();
            });
            assert_eq!(output(Ends::new().stdin(stdin)), made("From Channel"), "{stages}");
            sending.join().unwrap();
            // And the other end.
            let run = |stdout: Stdout| {
                let outcome = host.run(&plan, Ends::new().stdin("Out").stdout(stdout), &RunOptions::new());
                assert!(outcome.success, "{stages}: {outcome:?}");
            };
            run(Stdout::null());
            run(Stdout::file(place.path("out")));
            run(Stdout::append(place.path("out")));
            assert_eq!(place.read("out"), made("OutOut"), "{stages}");
            run(Stdout::file_in_place(place.path("out")));
            assert_eq!(place.read("out"), made("Out"), "{stages}");
            let kept = Kept::default();
            run(Stdout::blocking(kept.clone()));
            assert_eq!(*kept.0.lock().unwrap(), made("Out").as_bytes(), "{stages}");
            let (stdout, mut chunks) = Stdout::channel(1);
            let taking = thread::spawn(move || all(&mut chunks));
            run(stdout);
            assert_eq!(taking.join().unwrap(), made("Out").as_bytes(), "{stages}");
        }
    });
}

/// A writer that blocks, and whose bytes are seen.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(&bytes[..bytes.len().min(3)]);
        Ok(bytes.len().min(3))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn all(chunks: &mut Chunks) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next_blocking() {
        bytes.extend_from_slice(&chunk);
    }
    bytes
}

#[test]
fn ends_that_break_off_fail_the_run_and_commit_nothing() {
    checked(|| {
        let (host, place) = (host(), Place::new());
        for stages in [CAT, UPPER] {
            let plan = plan(stages);
            let (sender, stdin) = Stdin::channel(4);
            sender.send_blocking("half").unwrap();
            drop(sender);
            let ends = Ends::new().stdin(stdin).stdout(Stdout::file(place.path("out")));
            let outcome = host.run(&plan, ends, &RunOptions::new());
            assert_eq!((outcome.success, outcome.code.as_str()), (false, "end-failed"), "{outcome:?}");
            assert!(outcome.message.contains("before it was finished"), "{outcome:?}");
            assert!(place.names().is_empty(), "{:?}", place.names());
            // A run that is over takes nothing more, and its output ends.
            let (sender, stdin) = Stdin::channel(1);
            let (stdout, mut chunks) = Stdout::channel(1);
            let running = host.start(&plan, Ends::new().stdin(stdin).stdout(stdout), &RunOptions::new());
            running.cancel();
            assert!(!running.wait().success);
            while sender.send_blocking("more") != Err(NotTaken) {}
            all(&mut chunks);
        }
        // Files that cannot be opened are named.
        let plan = plan(CAT);
        for (ends, path) in [
            (Ends::new().stdin(Stdin::file(place.path("none"))), "none"),
            (Ends::new().stdin(Stdin::file(place.path(""))), ""),
            (Ends::new().stdin("x").stdout(Stdout::file(place.path("none/out"))), "none/out"),
            (Ends::new().stdin("x").stdout(Stdout::append(place.path("none/out"))), "none/out"),
            (Ends::new().stdin("x").stdout(Stdout::file(place.path(""))), ""),
        ] {
            let outcome = host.run(&plan, ends, &RunOptions::new());
            assert_eq!((outcome.success, outcome.code.as_str()), (false, "end-failed"), "{outcome:?}");
            assert_eq!(
                outcome.path.as_deref().map(std::path::Path::new),
                Some(place.path(path).as_path()),
                "{outcome:?}"
            );
            assert!(place.names().is_empty(), "{:?}", place.names());
        }
        // Whoever drops the receiver wants no more.
        let (stdout, chunks) = Stdout::channel(1);
        drop(chunks);
        let endless = self::plan(&format!(r#"{{"wasm": "{}", "args": ["yes"]}}"#, probe()));
        let outcome = host.run(&endless, Ends::new().stdin(Stdin::null()).stdout(stdout), &RunOptions::new());
        assert!(outcome.stdout_closed, "{outcome:?}");
        // A reader that panics is told like one that fails.
        struct Panics;
        impl std::io::Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                panic!("as it is meant to")
            }
        }
        let outcome = host.run(&plan, Ends::new().stdin(Stdin::blocking(Panics)), &RunOptions::new());
        assert!(!outcome.success && outcome.message.contains("panicked"), "{outcome:?}");
    });
}

fn runtimes() -> [Runtime; 2] {
    let many = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    [Builder::new_current_thread().enable_all().build().unwrap(), many]
}

#[test]
fn runs_are_waited_for_and_awaited_inside_and_outside_of_runtimes() {
    checked(|| {
        // One whose runs go on by themselves, and one that needs somebody to wait.
        for threads in [2, 0] {
            let host = Host::new(&HostOptions::new().threads(threads).cache(cache())).unwrap();
            let plan = plan(&format!("{UPPER}, {CAT}"));
            let output = || host.output(&plan, Ends::new().stdin("x"), &RunOptions::new(), MOST);
            let is_right = |(outcome, output): (stagehost::Outcome, Vec<u8>)| {
                assert!(outcome.success && output == b"X", "{outcome:?}")
            };
            is_right(output().wait());
            for runtime in runtimes() {
                is_right(runtime.block_on(output()));
                runtime.block_on(async {
                    is_right(output().await);
                    // A thread of a runtime that blocks waits as any other does.
                    is_right(output().wait());
                    host.prepare(&plan, |_| ()).wait().unwrap();
                    host.prepare(&plan, |_| ()).await.unwrap();
                    let mut running =
                        host.start(&plan, Ends::new().stdin("x").stdout(Stdout::null()), &RunOptions::new());
                    let mut events = running.events();
                    while events.next_blocking().is_some() {}
                    assert!(running.ended().await.success);
                });
            }
        }
    });
}

#[test]
fn a_host_can_run_on_the_programs_own_runtime() {
    checked(|| {
        for runtime in runtimes() {
            let is_one_thread = runtime.handle().runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread;
            let host = Host::new(&HostOptions::new().runtime(runtime.handle().clone()).cache(cache())).unwrap();
            let plan = plan(&format!("{UPPER}, {LOWER}"));
            let output = || host.output(&plan, Ends::new().stdin("x"), &RunOptions::new(), MOST);
            let (outcome, bytes) = runtime.block_on(output());
            assert!(outcome.success && bytes == b"x", "{outcome:?}");
            // One that has a thread to spare goes on while another waits; one that has not says so.
            let (outcome, bytes) = runtime.block_on(async { output().wait() });
            assert_eq!(
                (outcome.success, bytes.as_slice()),
                (!is_one_thread, if is_one_thread { &b""[..] } else { b"x" }),
                "{outcome:?}"
            );
            assert!(outcome.success || outcome.message.contains("await it"), "{outcome:?}");
            if !is_one_thread {
                assert!(output().wait().0.success);
            }
            // It may be made and dropped inside.
            runtime.block_on(async {
                let host =
                    Host::new(&HostOptions::new().runtime(tokio::runtime::Handle::current()).cache(cache())).unwrap();
                assert!(host.output(&plan, Ends::new().stdin("x"), &RunOptions::new(), MOST).await.0.success);
                let left = host.start(&plan, Ends::new().stdin(Stdin::channel(1).1), &RunOptions::new());
                drop((left, host));
            });
        }
        let plain = Builder::new_current_thread().build().unwrap();
        let refused = Host::new(&HostOptions::new().runtime(plain.handle().clone())).unwrap_err();
        assert!(refused.to_string().contains("enable_all"), "{refused}");
    });
}

#[test]
fn dropping_a_future_stops_its_run() {
    checked(|| {
        let host = host();
        for stages in
            [format!(r#"{{"wasm": "{}", "args": ["spin"]}}"#, probe()), r#"{"command": ["sleep", "1000"]}"#.to_owned()]
        {
            let plan = plan(&stages);
            let (tell, told) = std::sync::mpsc::sync_channel(64);
            let options = RunOptions::new().on_event(move |event| _ = tell.try_send(event.clone()));
            for runtime in runtimes() {
                let running = host.output(&plan, Ends::new().stdin(Stdin::null()), &options, MOST);
                let gave_up =
                    runtime.block_on(async { tokio::time::timeout(Duration::from_millis(50), running).await.is_err() });
                assert!(gave_up, "{stages}");
                while told.recv_timeout(Duration::from_secs(60)).unwrap() != stagehost::Event::Ended {}
            }
        }
    });
}

#[test]
fn a_prepared_plan_runs_as_any_other() {
    checked(|| {
        let host = host();
        let place = Place::new();
        let module = |name: &str, text: &str| stagehost_tests::guests::text(&place, name, text).display().to_string();
        // One for a slot; one whose table may outgrow it; one with two memories.
        let exits = |more: &str, code: &str| {
            format!(
                r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) {more}
                    (func (export "_start") (call $exit {code})))"#
            )
        };
        let grows = |table: &str| {
            exits(
                &format!(r#"(memory (export "memory") 1) (table {table} funcref)"#),
                "(i32.eq (table.grow (ref.null func) (i32.const 50000)) (i32.const -1))",
            )
        };
        let stages = [
            (module("fits.wasm", &grows("1 100")), 1),
            (module("grows.wasm", &grows("1")), 0),
            (module("memories.wasm", &exits(r#"(memory (export "memory") 1) (memory 1)"#, "(i32.const 7)")), 7),
        ];
        for (stage, code) in &stages {
            let plan = plan(&format!(r#"{{"wasm": "{stage}"}}"#));
            let told = Arc::new(Mutex::new(Vec::new()));
            let seen = told.clone();
            for is_prepared in [false, true, true] {
                if is_prepared {
                    let seen = seen.clone();
                    host.prepare(&plan, move |progress| seen.lock().unwrap().push((progress.done, progress.of)))
                        .wait()
                        .unwrap();
                }
                let outcome = host.run(&plan, Ends::new().stdin(Stdin::null()), &RunOptions::new());
                assert_eq!(outcome.exit_code, *code, "{stage} {is_prepared}: {outcome:?}");
            }
            assert_eq!(*told.lock().unwrap(), [(1, 1), (1, 1)]);
        }
        // Its limits hold, and what one guest left in a slot is gone for the next.
        let eats = plan(&format!(r#"{{"wasm": "{}", "args": ["alloc"], "limits": {{"memory": "64MiB"}}}}"#, probe()));
        let dirty = module(
            "dirty.wasm",
            &format!(
                r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                    (memory (export "memory") 16) (data (i32.const 70000) "data") (global $g (mut i32) (i32.const 0))
                    (func (export "_start") (local $at i32) (local $seen i32)
                        (loop $next
                            (local.set $seen (i32.or (local.get $seen) (i32.load8_u (local.get $at))))
                            (i32.store8 (local.get $at) (i32.const 255))
                            (local.set $at (i32.add (local.get $at) (i32.const 1)))
                            (if (i32.eq (local.get $at) (i32.const 70000)) (then (local.set $at (i32.const 70004))))
                            (br_if $next (i32.lt_u (local.get $at) (i32.const {}))))
                        (call $exit (i32.and (local.get $seen) (i32.const 127)))))"#,
                16 << 16
            ),
        );
        let dirty = plan(&format!(r#"{{"wasm": "{dirty}"}}"#));
        for plan in [&eats, &dirty] {
            host.prepare(plan, |_| ()).wait().unwrap();
        }
        for _ in 0..20 {
            let outcome = host.run(&dirty, Ends::new().stdin(Stdin::null()), &RunOptions::new());
            assert!(outcome.success, "{outcome:?}");
        }
        let outcome = host.run(&eats, Ends::new().stdin(Stdin::null()), &RunOptions::new());
        assert!(matches!(outcome.stages[0].exit, StageExit::Limit { which: LimitKind::Memory, .. }), "{outcome:?}");
        // What cannot be loaded says so ahead.
        let imports = module(
            "imports.wasm",
            r#"(module (import "env" "no-such" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
        );
        let spec = spec::parse(format!(r#"{{"version": 1, "stages": [{{"wasm": "{imports}"}}]}}"#).as_bytes()).unwrap();
        if let Ok(plan) = Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all())) {
            assert!(host.prepare(&plan, |_| ()).wait().is_err());
        }
    });
}

#[test]
fn a_run_says_more_of_a_plans_stages_and_never_lifts_a_limit() {
    checked(|| {
        let host = host();
        let plan = plan(
            r#"{"command": ["sh", "-c", "echo $0 $WORD; cat"], "name": "words"}, {"wasm": "builtin:grep", "name": "find", "limits": {"output_bytes": 10}}"#,
        );
        let output = |options: &RunOptions| host.output(&plan, Ends::new().stdin("abc\n"), options, MOST).wait();
        let options = RunOptions::new().args("words", ["first"]).env("WORD", "second").args("find", ["-c", "."]);
        let (outcome, bytes) = output(&options.clone().label("job 7"));
        assert_eq!((outcome.label.as_deref(), bytes.as_slice()), (Some("job 7"), &b"2\n"[..]), "{outcome:?}");
        // The plan is what it was.
        let (outcome, _) = output(&RunOptions::new().args("find", ["."]));
        assert!(outcome.label.is_none() && outcome.success, "{outcome:?}");
        let limits = |bytes| stagehost::spec::LimitsSpec {
            output_bytes: Some(spec::Bound::At(spec::Size(bytes))),
            ..Default::default()
        };
        for (bytes, most) in [(3, 3), (1000, 10)] {
            let all = RunOptions::new().args("words", ["a word that is long"]).args("find", ["."]);
            let (outcome, _) = output(&all.stage_limits("find", limits(bytes)));
            let exit = &outcome.stages[1].exit;
            assert!(
                matches!(exit, StageExit::Limit { which: LimitKind::OutputBytes, limit: Some(limit), .. } if *limit == most),
                "{exit:?}"
            );
        }
        let slow = RunOptions::new().args("words", ["x; sleep 1000"]).timeout(Duration::from_millis(200));
        let endless = self::plan(r#"{"command": ["sleep", "1000"]}"#);
        assert!(host.run(&endless, Ends::new().stdin(Stdin::null()), &slow.clone().args("sleep", ["1"])).code != "ok");
        assert!(
            host.run(&endless, Ends::new().stdin(Stdin::null()), &RunOptions::new().timeout(Duration::from_millis(50)))
                .timed_out
        );
        for (options, word) in [
            (RunOptions::new().args("none", ["x"]), "no stage is called so"),
            (RunOptions::new().args("find", ["a\0b"]), "UTF-8"),
            (RunOptions::new().args("words", ["a\0b"]), "NUL"),
            (RunOptions::new().env("a=b", "x"), "variable"),
            (RunOptions::new().stage_limits("words", limits(1)), "output_bytes"),
        ] {
            let (outcome, _) = output(&options);
            assert_eq!(outcome.exit_code, ExitCode::BadPipeline as u8, "{outcome:?}");
            assert!(outcome.message.contains(word), "{outcome:?}");
        }
    });
}

#[test]
fn what_can_be_called_once_and_what_is_forbidden_is_said() {
    checked(|| {
        let host = host();
        let once = Stage::blocking_once("once", |_, output| Ok(output.write_all(b"once")?));
        let plan = Pipeline::builder(Policy::allow_all()).stdin_null().stage(once).build().unwrap().into_plan();
        let output = || host.output(&plan, Ends::new(), &RunOptions::new(), MOST).wait();
        assert_eq!(output().1, b"once");
        let (outcome, bytes) = output();
        assert!(bytes.is_empty() && outcome.message.contains("can be called once"), "{outcome:?}");
        let silent = Stage::wasm("builtin:cat").requires(spec::Requirement::Forbid, spec::Requirement::Forbid);
        let silent = Pipeline::builder(Policy::allow_all()).stdin_null().stdout_null().stage(silent).build().unwrap();
        let run = |ends| host.run(silent.plan(), ends, &RunOptions::new());
        assert!(run(Ends::new()).success && run(Ends::new().stdin(Stdin::null()).stdout(Stdout::null())).success);
        for ends in [Ends::new().stdin("x"), Ends::new().stdout(Stdout::writer(tokio::io::sink()))] {
            let outcome = run(ends);
            assert!(outcome.exit_code == 78 && outcome.message.contains("forbids a connected"), "{outcome:?}");
        }
    });
}
