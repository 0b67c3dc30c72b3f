//! Many runs at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stagehost::{Ends, RunOptions, Stdin, Stdout};
use stagehost_tests::{Place, guests::text, leaks::checked};

use super::{CAT, MOST, host, plan};

const WORDS: &str = r#"{"wasm": "builtin:words"}"#;

/// A run takes some twenty slices of a processor, and there are two for all.
#[test]
fn all_runs_begin_before_one_of_many_slices_is_done() {
    const RUNS: usize = 16;
    checked(|| {
        let (host, plan) = (host(), plan(WORDS));
        host.prepare(&plan, |_| ()).wait().unwrap();
        let text = Bytes::from(b"some words, and some more of them\n".repeat(1 << 20));
        let start = || {
            let ends = Ends::new().stdin(Stdin::bytes(text.clone())).stdout(Stdout::null());
            host.start(&plan, ends, &RunOptions::default())
        };
        let running: Vec<_> = (0..RUNS).map(|_| start()).collect();
        let began = Instant::now();
        let snapshots = loop {
            let snapshots: Vec<_> = running.iter().map(stagehost::Running::snapshot).collect();
            let is_well_on = |read: Option<u64>| read.is_some_and(|read| read > text.len() as u64 / 2);
            if snapshots.iter().any(|run| is_well_on(run.stages[0].input_bytes)) {
                break snapshots;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "one of them gets half through");
            std::thread::yield_now();
        };
        for run in &snapshots {
            assert!(run.stages[0].input_bytes > Some(0), "it has not begun: {run:?}");
        }
        for running in running {
            assert!(running.wait().success);
        }
    });
}

/// A component of `parts` components that each wait a second at once in a call, which takes a stack for each, and one that calls them.
fn of_many_stacks(parts: usize) -> String {
    let each = |text: fn(usize) -> String| (0..parts).map(text).collect::<String>();
    let instances = each(|part| {
        format!(
            r#"(instance $s{part} (instantiate $S (with "wf" (func $wf)))) (alias export $s{part} "f" (func $f{part}))"#
        )
    });
    let lowered = each(|part| {
        format!(r#"(import "f{part}" (func $f{part} async)) (core func $c{part} (canon lower (func $f{part}) async))"#)
    });
    let imported = each(|part| format!(r#"(import "" "c{part}" (func $c{part} (result i32)))"#));
    let called = each(|part| format!("(drop (call $c{part}))"));
    let given = each(|part| format!(r#"(export "c{part}" (func $c{part}))"#));
    let passed = each(|part| format!(r#"(with "f{part}" (func $f{part}))"#));
    format!(
        r#"(component
        (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock (export "wait-for" (func async (param "how-long" u64)))))
        (alias export $clock "wait-for" (func $wf))
        (component $S
            (import "wf" (func $wf async (param "how-long" u64)))
            (core func $wfc (canon lower (func $wf)))
            (core module $m (import "" "wf" (func $wf (param i64))) (func (export "f") (call $wf (i64.const 1000000000))))
            (core instance $i (instantiate $m (with "" (instance (export "wf" (func $wfc))))))
            (func (export "f") async (canon lift (core func $i "f"))))
        {instances}
        (component $M (import "wf" (func $wf async (param "how-long" u64)))
            {lowered}
            (core func $wfc (canon lower (func $wf)))
            (core module $main (import "" "wf" (func $wf (param i64)))
                {imported}
                (func (export "run") (result i32) {called} (call $wf (i64.const 1000000000)) (i32.const 0)))
            (core instance $mi (instantiate $main (with "" (instance (export "wf" (func $wfc)) {given}))))
            (func (export "run") async (result (result)) (canon lift (core func $mi "run"))))
        (instance $mm (instantiate $M (with "wf" (func $wf)) {passed}))
        (alias export $mm "run" (func $run))
        (instance $e (export "run" (func $run)))
        (export "wasi:cli/run@0.3.0" (instance $e)))"#
    )
}

#[test]
fn what_needs_more_than_a_slot_has_takes_none_and_nothing_from_others() {
    checked(|| {
        let place = Place::new();
        let references = r#"(module (memory (export "memory") 1) (global $g (mut externref) (ref.null extern))
            (func (export "_start") (local externref) (global.set $g (local.get 0))))"#;
        let references = text(&place, "references.wasm", references).display().to_string();
        let stacks = text(&place, "stacks.wasm", &of_many_stacks(6)).display().to_string();
        let host = host();
        let of = |file: &str, count: usize| plan(&vec![format!(r#"{{"wasm": "{file}"}}"#); count].join(", "));
        let nothing = || Ends::new().stdin(Stdin::null()).stdout(Stdout::null());
        let references = of(&references, 1);
        host.prepare(&references, |_| ()).wait().unwrap();
        let outcome = host.run(&references, nothing(), &RunOptions::default());
        assert!(outcome.success, "{outcome:?}");
        // Seven stacks each, of the 2,304 that slots have.
        let (many, cat) = (of(&stacks, 340), plan(CAT));
        for plan in [&many, &cat] {
            host.prepare(plan, |_| ()).wait().unwrap();
        }
        let running = host.start(&many, nothing(), &RunOptions::default());
        let mut good = 0;
        let (done, ended) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || drop(done.send(running.wait())));
            let outcome = loop {
                let (outcome, output) =
                    host.output(&cat, Ends::new().stdin(Stdin::bytes("x")), &RunOptions::default(), MOST).wait();
                assert!(outcome.success && output == b"x", "after {good}: {outcome:?}");
                good += 1;
                if let Ok(outcome) = ended.try_recv() {
                    break outcome;
                }
            };
            assert!(outcome.success, "{}", outcome.message);
        });
        assert!(good > 1);
    });
}
