//! Runs inside one process: one plan, made and prepared once, run again and again on one processor, each time with a fresh instance.
//!
//! `RUNS` runs of each row (default 2,000) in each of `ROUNDS` rounds (default 7); medians. Where Python finds its package `extism`
//! (`EXTISM_PYTHON` names another interpreter), each row of one stage stands beside a plugin there that does the same, in turn with ours.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and takes its sizes from the environment"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use stagehost::{Ends, Host, HostOptions, Plan, PlanOptions, Policy, RunOptions, Stdin, spec};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn plan(stages: usize) -> Plan {
    let stages = vec![r#"{"wasm": "builtin:cat"}"#; stages].join(", ");
    let spec = spec::parse(format!(r#"{{"version": 1, "stages": [{stages}]}}"#).as_bytes()).expect("a good file");
    Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all())).expect("a good plan")
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// A plugin of extism's that copies its input to its output, eight bytes at a time, as those do that are made with its kits.
const PLUGIN: &str = r#"(module
    (import "extism:host/env" "input_length" (func $length (result i64)))
    (import "extism:host/env" "input_load_u64" (func $load (param i64) (result i64)))
    (import "extism:host/env" "alloc" (func $alloc (param i64) (result i64)))
    (import "extism:host/env" "store_u64" (func $store (param i64 i64)))
    (import "extism:host/env" "output_set" (func $output (param i64 i64)))
    (func (export "run") (result i32) (local $n i64) (local $to i64) (local $i i64)
        (local.set $n (call $length))
        (local.set $to (call $alloc (i64.add (local.get $n) (i64.const 8))))
        (loop $more
            (call $store (i64.add (local.get $to) (local.get $i)) (call $load (local.get $i)))
            (br_if $more (i64.lt_u (local.tee $i (i64.add (local.get $i) (i64.const 8))) (local.get $n))))
        (call $output (local.get $to) (local.get $n))
        (i32.const 0)))"#;

/// How to call that plugin, if extism is there.
struct Extism {
    python: String,
    plugin: PathBuf,
}

impl Extism {
    fn find(place: &Path) -> Option<Self> {
        let python = std::env::var("EXTISM_PYTHON").unwrap_or_else(|_| "python3".into());
        let is_there =
            Command::new(&python).args(["-c", "import extism"]).output().is_ok_and(|ran| ran.status.success());
        let plugin = place.join("copies.wasm");
        std::fs::write(&plugin, wat::parse_str(PLUGIN).expect("a good text")).expect("a new file");
        is_there.then_some(Self { python, plugin })
    }

    /// Calls a second.
    fn rate(&self, bytes: usize, calls: usize, mode: &str) -> f64 {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/calls_extism.py");
        let ran = Command::new(&self.python)
            .arg(script)
            .arg(&self.plugin)
            .args([bytes.to_string(), calls.to_string(), mode.to_owned()])
            .output()
            .expect("it is started");
        let said = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
        said.parse().unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&ran.stderr)))
    }
}

fn main() {
    let (runs, rounds) = (number("RUNS", 2_000), number("ROUNDS", 7));
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one).expect("a processor");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let host = Host::new(&HostOptions::new().runtime(runtime.handle().clone())).expect("a host");
    println!(
        "\nruns a second of one prepared plan on one processor, each a fresh instance; medians (aims: 12,000, 11,000, 4,000, 5,000)"
    );
    let place = tempfile::tempdir().expect("a directory");
    let extism = Extism::find(place.path());
    if extism.is_none() {
        println!("(extism is not there: its rows are left out)");
    }
    for (stages, bytes, name) in [
        (1, 100, "one stage, 100 B"),
        (1, 1 << 10, "one stage, 1 KiB"),
        (1, 1 << 20, "one stage, 1 MiB"),
        (3, 100, "three stages, 100 B"),
    ] {
        let plan = plan(stages);
        let input = bytes::Bytes::from(vec![b'x'; bytes]);
        let options = RunOptions::default();
        let each = |count: usize| {
            let (host, plan, input, options) = (&host, &plan, &input, &options);
            async move {
                for _ in 0..count {
                    let ends = Ends::new().stdin(Stdin::bytes(input.clone()));
                    let (outcome, output) = host.output(plan, ends, options, 2 << 20).await;
                    assert!(outcome.success && output.len() == input.len(), "{outcome:?}");
                }
            }
        };
        runtime.block_on(host.prepare(&plan, |_| ())).expect("it is prepared");
        let runs = if bytes > 1 << 16 { runs / 4 } else { runs };
        runtime.block_on(each(runs / 10));
        let a_round = |_| {
            let started = Instant::now();
            runtime.block_on(each(runs));
            runs as f64 / started.elapsed().as_secs_f64()
        };
        let mut rates = [const { Vec::new() }; 4];
        for round in 0..rounds {
            rates[0].push(a_round(round));
            // In turn with theirs, on the same processor.
            if let Some(extism) = extism.as_ref().filter(|_| stages == 1) {
                rates[1].push(extism.rate(bytes, (runs / 100).max(1), "fresh"));
                rates[2].push(extism.rate(bytes, (runs / 20).max(1), "compiled"));
                rates[3].push(extism.rate(bytes, runs, "reused"));
            }
        }
        let against = |index: usize, which: &str| {
            let theirs = rates[index].iter().copied();
            let ratios: Vec<_> = rates[0].iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
            if ratios.is_empty() { String::new() } else { format!("; {:.2} times extism's {which}", median(ratios)) }
        };
        let compared = against(1, "fresh plugin") + &against(2, "plugin of compiled code") + &against(3, "reused one");
        let best = rates[0].iter().copied().fold(0.0, f64::max);
        let rate = median(rates[0].clone());
        let each = Duration::from_secs_f64(1.0 / rate);
        println!(
            "{name:<24} {rate:>8.0} a second, {:.1} µs each (best round {best:.0}){compared}",
            each.as_secs_f64() * 1e6
        );
    }
    let plan = plan(3);
    let (sender, stdin) = Stdin::channel(1);
    let running = host.start(&plan, Ends::new().stdin(stdin), &RunOptions::default());
    let started = Instant::now();
    for _ in 0..runs {
        std::hint::black_box(running.snapshot());
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / runs as f64;
    println!("a snapshot of a run of three stages: {each:.1} µs");
    drop((sender, running));
}
