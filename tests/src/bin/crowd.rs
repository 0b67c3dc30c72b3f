//! A thousand runs at once in one process, for a test that gives it few rights and few descriptors.
//!
//! Prints `right: N` for as many runs as came out right, after the leak check.
#![expect(clippy::print_stdout, reason = "a program for a test prints")]

use stagehost::{Host, HostOptions, Pipeline, Policy, Stage};
use stagehost_tests::leaks::checked;

const RUNS: usize = 1000;

fn main() {
    let right = checked(|| {
        let host = Host::new(&HostOptions::default()).expect("a host");
        let running: Vec<_> = (0..RUNS)
            .map(|number| {
                let input = format!("line {number}\n").repeat(number);
                let expected = format!("{}\n", input.len());
                let pipeline = Pipeline::builder(Policy::allow_all())
                    .environment(std::env::vars_os())
                    .stdin_bytes(input)
                    .stage(Stage::wasm("builtin:cat"))
                    .stage(Stage::command(["cat"]))
                    .stage(Stage::wasm("builtin:wc").args(["-c"]))
                    .build()
                    .expect("a good pipeline");
                (
                    std::thread::spawn({
                        let host = host.clone();
                        move || pipeline.output(&host, 1000).wait()
                    }),
                    expected,
                )
            })
            .collect();
        let is_right = |(running, expected): (std::thread::JoinHandle<(stagehost::Outcome, Vec<u8>)>, String)| {
            let (outcome, output) = running.join().expect("a run does not panic");
            if !outcome.success {
                println!("{}", outcome.message);
            }
            outcome.success && output == expected.as_bytes()
        };
        running.into_iter().filter_map(|run| is_right(run).then_some(())).count()
    });
    println!("right: {right}");
}
