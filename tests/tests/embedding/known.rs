//! What plans know of files from plans before them.

use std::{
    fs,
    time::{Duration, Instant},
};

use stagehost::{Ends, KnownFiles, Plan, PlanOptions, Policy, RunOptions, spec};
use stagehost_tests::{Place, guests::text};

use super::host;

#[test]
fn what_is_known_of_a_file_is_used_as_long_as_it_is_that_file() {
    let place = Place::new();
    let module = |code: u32| {
        format!(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
        )
    };
    let known = KnownFiles::default();
    let plan = |policy: Policy| {
        let spec = spec::parse(br#"{"version": 1, "stdin": "null", "stages": [{"wasm": "a.wasm"}]}"#).unwrap();
        Plan::new(&spec, &PlanOptions::at(place.path(""), policy).known_files(&known)).unwrap()
    };
    let host = host();
    let run = |policy: Policy| host.run(&plan(policy), Ends::new(), &RunOptions::new()).exit_code;
    text(&place, "a.wasm", &module(7));
    // A file that was changed a moment ago may change again within the same tick of its clock: it is not known yet.
    let began = Instant::now();
    while known.reused() == 0 {
        assert_eq!(run(Policy::allow_all()), 7);
        assert!(began.elapsed() < Duration::from_secs(60), "it is never known");
    }
    // Written over, as long as before; and another in its place.
    text(&place, "a.wasm", &module(8));
    assert_eq!(run(Policy::allow_all()), 8);
    text(&place, "b.wasm", &module(9));
    fs::rename(place.path("b.wasm"), place.path("a.wasm")).unwrap();
    assert_eq!(run(Policy::allow_all()), 9);
    // A policy may want everything looked at.
    let began = Instant::now();
    let before = known.reused();
    while known.reused() == before {
        assert_eq!(run(Policy::allow_all()), 9);
        assert!(began.elapsed() < Duration::from_secs(60), "it is never known");
    }
    let before = known.reused();
    assert_eq!(run(Policy::allow_all().recheck(true)), 9);
    assert_eq!(known.reused(), before);
}
