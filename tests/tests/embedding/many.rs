//! Many runs at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stagehost::{Ends, RunOptions, Stdin, Stdout};
use stagehost_tests::leaks::checked;

use super::{host, plan};

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
