//! Many runs in one process: one after the other, idle beside each other, and all at once.
//!
//! `RUNS` runs one after the other (default 20,000), `IDLE` stages that wait for input (default 10,000, in pipelines of ten), `PIPELINES`
//! pipelines at once (default 1,000) of `WORK` bytes of text to split into words each (default 16 MiB). What is to stay the same is
//! asserted.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and takes its sizes from the environment"
)]

use std::{
    fs,
    time::{Duration, Instant},
};

use bytes::Bytes;
use stagehost::{Ends, Host, HostOptions, Outcome, Plan, PlanOptions, Policy, RunOptions, Stdin, Stdout, spec};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn plan(stage: &str, stages: usize) -> Plan {
    let stages = vec![format!(r#"{{"wasm": "builtin:{stage}"}}"#); stages].join(", ");
    let spec = spec::parse(format!(r#"{{"version": 1, "stages": [{stages}]}}"#).as_bytes()).expect("a good file");
    Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all())).expect("a good plan")
}

/// What this process holds.
#[derive(Clone, Copy)]
struct Held {
    /// In bytes.
    resident: usize,
    threads: usize,
    descriptors: usize,
    maps: usize,
}

impl Held {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("it is there");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            line.split_whitespace().next().and_then(|number| number.parse::<usize>().ok()).expect("a number")
        };
        Self {
            resident: field("VmRSS:") << 10,
            threads: field("Threads:"),
            descriptors: fs::read_dir("/proc/self/fd").expect("it is there").count(),
            maps: fs::read_to_string("/proc/self/maps").expect("it is there").lines().count(),
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { resident, threads, descriptors, maps } = self;
        let resident = resident >> 20;
        write!(f, "{resident} MiB resident, {threads} threads, {descriptors} descriptors, {maps} maps")
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        one_after_the_other(&host()).await;
        idle(&host()).await;
        at_once(&host()).await;
    });
}

fn host() -> Host {
    Host::new(&HostOptions::new()).expect("a host")
}

async fn one_after_the_other(host: &Host) {
    let runs = number("RUNS", 20_000);
    let plan = plan("cat", 1);
    host.prepare(&plan, |_| ()).await.expect("it is prepared");
    let input = Bytes::from(vec![b'x'; 100]);
    let run = async || {
        let ends = Ends::new().stdin(Stdin::bytes(input.clone()));
        let (outcome, output) = host.output(&plan, ends, &RunOptions::default(), 1 << 20).await;
        assert!(outcome.success && output == input, "{outcome:?}");
    };
    for _ in 0..1_000 {
        run().await;
    }
    let first = Held::now();
    let started = Instant::now();
    for _ in 0..runs {
        run().await;
    }
    let each = started.elapsed() / u32::try_from(runs.max(1)).unwrap_or(u32::MAX);
    let last = Held::now();
    println!("\none after the other, after the first thousand: {first}\n  after {runs} more: {last}; {each:.0?} each");
    assert!(last.resident < first.resident + (16 << 20) && last.threads <= first.threads + 1, "it grew");
    assert!(last.descriptors <= first.descriptors && last.maps < first.maps + 64, "it grew");
}

async fn idle(host: &Host) {
    const STAGES: usize = 10;
    let pipelines = number("IDLE", 10_000) / STAGES;
    let plan = plan("cat", STAGES);
    host.prepare(&plan, |_| ()).await.expect("it is prepared");
    let before = Held::now();
    let started = Instant::now();
    let runs: Vec<_> = (0..pipelines)
        .map(|_| {
            let (sender, stdin) = Stdin::channel(1);
            let ends = Ends::new().stdin(stdin).stdout(Stdout::null());
            (host.start(&plan, ends, &RunOptions::default()), sender)
        })
        .collect();
    // One byte each, so that each stage has read and waits for more.
    for (_, sender) in &runs {
        sender.send(Bytes::from_static(b"x")).await.expect("somebody reads");
    }
    let is_idle = |(running, _): &(stagehost::Running, _)| {
        let snapshot = running.snapshot();
        snapshot.stages.len() == STAGES && snapshot.stages.iter().all(|stage| stage.input_bytes == Some(1))
    };
    let (mut next, limit) = (0, Instant::now() + Duration::from_secs(120));
    while next < runs.len() {
        assert!(Instant::now() < limit, "{next} pipelines of {pipelines} got their byte");
        match is_idle(&runs[next]) {
            true => next += 1,
            false => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    let (held, took) = (Held::now(), started.elapsed());
    let stages = pipelines * STAGES;
    let each = held.resident.saturating_sub(before.resident) / stages.max(1);
    println!(
        "{stages} idle stages: {held}; {} KiB and {:.1} maps each, after {took:.1?}",
        each >> 10,
        held.maps.saturating_sub(before.maps) as f64 / stages.max(1) as f64
    );
    for (running, sender) in runs {
        sender.finish();
        let outcome = running.await;
        assert!(outcome.success, "{outcome:?}");
    }
    println!("  after they ended: {}", Held::now());
}

async fn at_once(host: &Host) {
    let (pipelines, work) = (number("PIPELINES", 1_000), number("WORK", 16 << 20));
    let plan = plan("words", 1);
    host.prepare(&plan, |_| ()).await.expect("it is prepared");
    let text = Bytes::from(b"some words of a text, and some more of them\n".repeat(work / 44));
    let run = || {
        let ends = Ends::new().stdin(Stdin::bytes(text.clone())).stdout(Stdout::null());
        host.start(&plan, ends, &RunOptions::default())
    };
    let started = Instant::now();
    let alone = run().await;
    assert!(alone.success, "{alone:?}");
    let alone = started.elapsed();
    let started = Instant::now();
    let running: Vec<_> = (0..pipelines).map(|_| run()).collect();
    let mut waiting = tokio::task::JoinSet::new();
    for running in running {
        waiting.spawn(async move {
            let outcome: Outcome = running.await;
            assert!(outcome.success, "{outcome:?}");
            started.elapsed()
        });
    }
    let mut ends = waiting.join_all().await;
    ends.sort();
    if let (Some(first), Some(last)) = (ends.first(), ends.last()) {
        println!(
            "{pipelines} at once, of {alone:.0?} each if alone: first after {first:.2?}, median {:.2?}, last {last:.2?}: {:.2} times the first",
            ends[ends.len() / 2],
            last.as_secs_f64() / first.as_secs_f64()
        );
    }
}
