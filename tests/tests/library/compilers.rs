//! Compilers that many runs share.

use std::{
    thread,
    time::{Duration, Instant},
};

use stagehost::{Ends, Host, HostOptions, RunControl, RunOptions};
use stagehost_tests::{Place, guests, leaks::checked};

use super::{counting, plan, processor_time};

/// A pipeline of these stages, from nothing to nothing.
fn pipeline(stages: &[String]) -> String {
    let stages: Vec<_> = stages.iter().map(|file| format!(r#"{{"wasm": "{file}"}}"#)).collect();
    format!(r#"{{"version": 1, "stages": [{}], "stdin": "null", "stdout": "null"}}"#, stages.join(", "))
}

/// A host that compiles in processes.
fn compiling_host() -> Host {
    host_with_compiler(vec![stagehost_tests::binary().into_os_string(), "compile-worker".into()])
}

/// A host whose compilers never end, nor take any time.
fn host_with_stopped_compiler() -> Host {
    host_with_compiler(["/bin/sh", "-c", "kill -STOP $$", "compile-worker"].map(Into::into).to_vec())
}

fn host_with_compiler(compiler: Vec<std::ffi::OsString>) -> Host {
    let options = HostOptions::new().threads(2).compiler(compiler);
    Host::new(&options).expect("a host")
}

/// A module that takes its compiler many seconds, and of which no function is refused.
fn bomb(place: &Place, seed: usize) -> String {
    slow(place, seed, 40)
}

/// One that takes it some tenths of a second for each function.
fn slow(place: &Place, seed: usize, functions: usize) -> String {
    let block = |number: usize| format!("(if (local.get {number}) (then (local.set {number} (i32.const {seed}))))");
    let blocks: String = (0..1_000).map(block).collect();
    let function = format!("(func (local {}) (loop $l {blocks} (br_if $l (local.get 0))))", "i32 ".repeat(1_000));
    let text = format!("(module {} (func (export \"_start\")))", function.repeat(functions));
    guests::text(place, &format!("bomb{seed}.wasm"), &text).display().to_string()
}

fn busy_compilers() -> usize {
    std::fs::read_dir("/proc").expect("a directory").flatten().filter(is_our_compiler).count()
}

/// Whether a compiler of ours has a component of so many bytes.
fn is_compiled(size: u64) -> bool {
    let compilers = std::fs::read_dir("/proc").expect("a directory").flatten().filter(is_our_compiler);
    // One that has just gone has nothing.
    compilers.filter_map(|process| std::fs::metadata(process.path().join("fd/0")).ok()).any(|file| file.len() == size)
}

fn until_compilers_are_busy(count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while busy_compilers() < count {
        assert!(Instant::now() < deadline, "no more than {} compilers were started", busy_compilers());
        thread::yield_now();
    }
}

#[test]
fn compilations_of_one_run_hold_up_no_other_run() {
    checked(|| {
        let place = Place::new();
        let host = compiling_host();
        // Whoever wants what another run compiles already waits for that: each run has its own.
        let bombs = |run: usize| {
            let stages: Vec<_> = (0..4).map(|seed| bomb(&place, 4 * run + seed)).collect();
            pipeline(&stages)
        };
        let control = RunControl::default();
        let hostile: Vec<_> = (0..2)
            .map(|run| host.start(&plan(&bombs(run)), Ends::new(), &RunOptions::new().control(&control)))
            .collect();
        // All compilers but one are busy from here on.
        until_compilers_are_busy(3);
        let outcome = host.run(&plan(&pipeline(&[counting(&place, 1)])), Ends::new(), &RunOptions::default());
        assert!(outcome.success, "{outcome:?}");
        let still = busy_compilers();
        control.cancel();
        for run in hostile {
            assert!(!run.wait().success);
        }
        assert!(still >= 3, "the small one waited until others were done: {still} are left");
    });
}

/// Waits until this process does nothing more, because all that it started waits.
fn until_idle() {
    const LOOK: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let before = processor_time();
        thread::sleep(LOOK);
        if processor_time() - before < LOOK / 10 {
            return;
        }
        assert!(Instant::now() < deadline, "it is never idle");
    }
}

#[test]
fn whoever_wants_what_another_run_wants_too_waits_in_its_own_turn() {
    checked(|| {
        let place = Place::new();
        let host = host_with_stopped_compiler();
        // More than may be looked at at once. One of them is another run's, too: it is known by its size.
        let mut stages: Vec<_> = (0..60).map(|seed| slow(&place, seed, 1)).collect();
        let shared = slow(&place, 1000, 1);
        stages.insert(30, shared.clone());
        let size = std::fs::metadata(&shared).unwrap().len();
        let begin = || {
            let control = RunControl::default();
            let options = RunOptions::new().control(&control);
            let hostile = host.start(&plan(&pipeline(&stages)), Ends::new(), &options);
            until_compilers_are_busy(2);
            until_idle();
            (control, options, hostile)
        };
        // It is to wait for its turn while others of its run are compiled, and nobody says in which order they come.
        const TRIES: usize = 30;
        let mut begun = (0..TRIES).map(|_| begin()).find_map(|(control, options, hostile)| {
            if !is_compiled(size) {
                return Some((control, options, hostile));
            }
            control.cancel();
            assert!(!hostile.wait().success, "what was compiled?");
            None
        });
        let (control, options, hostile) = begun.take().expect("it never had to wait");
        let good = host.start(&plan(&pipeline(&[shared])), Ends::new(), &options);
        // It does not wait for who waits.
        until_compilers_are_busy(3);
        control.cancel();
        assert!(!hostile.wait().success && !good.wait().success, "what was compiled?");
    });
}

#[test]
fn nobody_waits_for_a_compilation_that_may_take_less_than_its_own() {
    checked(|| {
        let place = Place::new();
        let host = host_with_stopped_compiler();
        let file = slow(&place, 0, 2);
        let control = RunControl::default();
        let options = RunOptions::new().control(&control);
        let runs: Vec<_> = [100, 200]
            .into_iter()
            .map(|seconds| {
                let limits = format!(r#""limits": {{"compile_time": "{seconds}s"}}"#);
                let json = format!(r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{file}", {limits}}}]}}"#);
                let run = host.start(&plan(&json), Ends::new(), &options);
                until_compilers_are_busy(seconds / 100);
                run
            })
            .collect();
        control.cancel();
        assert!(runs.into_iter().all(|run| !run.wait().success), "what was compiled?");
    });
}

#[test]
fn many_stages_of_one_component_are_compiled_once_for_all() {
    checked(|| {
        let place = Place::new();
        let host = compiling_host();
        for (seed, stages) in [3, 20, 300].into_iter().enumerate() {
            let file = slow(&place, seed, 2);
            let stages: Vec<_> = (0..stages).map(|_| format!(r#"{{"wasm": "{file}"}}"#)).collect();
            let json =
                format!(r#"{{"version": 1, "stages": [{}], "stdin": "null", "stdout": "null"}}"#, stages.join(", "));
            // A timeout does not count what is compiled.
            let control = RunControl::default();
            let (tell, told) = std::sync::mpsc::sync_channel::<()>(0);
            let outcome = thread::scope(|scope| {
                let given_up = control.clone();
                scope.spawn(move || {
                    if told.recv_timeout(Duration::from_secs(60)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                        given_up.cancel();
                    }
                });
                let outcome = host.run(&plan(&json), Ends::new(), &RunOptions::new().control(&control));
                drop(tell);
                outcome
            });
            assert!(outcome.success, "of {} stages: {outcome:?}", stages.len());
        }
    });
}

/// Whether an entry of `/proc` is a compiler that this process started.
fn is_our_compiler(entry: &std::fs::DirEntry) -> bool {
    let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
    let parent = read("status").lines().find_map(|line| line.strip_prefix("PPid:").map(str::trim).map(str::to_owned));
    parent.is_some_and(|parent| parent == std::process::id().to_string()) && read("cmdline").contains("compile-worker")
}
