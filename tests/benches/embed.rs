//! Runs inside one process: one plan, made and prepared once, run again and again on one processor, each time with a fresh instance.
//!
//! `RUNS` runs of each row (default 2,000) in each of `ROUNDS` rounds (default 7); medians.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and takes its sizes from the environment"
)]

use std::time::{Duration, Instant};

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
        let rate = median((0..rounds).map(a_round).collect());
        let each = Duration::from_secs_f64(1.0 / rate);
        println!("{name:<40} {rate:>10.0} a second, {:.1} µs each", each.as_secs_f64() * 1e6);
    }
}
