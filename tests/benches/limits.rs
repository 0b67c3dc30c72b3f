//! What limits cost, and what hostile runs cost others.
//!
//! `cargo bench --workspace --bench limits` prints both. `PAIRS=N` sets the number of interleaved pairs (default 9), `RUNS=N` the good
//! runs of the second part (default 1000).
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints and reads its settings")]

use std::{
    fs,
    io::Write,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use stagehost::{Ends, Host, HostOptions, Plan, PlanOptions, Policy, RunOptions, spec};
use stagehost_tests::{Place, guests, hostile};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn host(directory: &Path) -> Host {
    let cache = std::path::absolute(directory.join("cache")).expect("a path");
    Host::new(&HostOptions::new().cache(cache).threads(2)).expect("a host")
}

fn plan(json: &str) -> Plan {
    let spec = spec::parse(json.as_bytes()).expect("a good file");
    Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all())).expect("a good plan")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Every limit at a value that is not reached.
const ALL: &str = r#"{"memory": "256MiB", "cpu_time": "1h", "wall_time": "1h", "stall_time": "1h", "input_bytes": "1TB",
    "output_bytes": "1TB", "stderr_bytes": "1GB"}"#;
/// As few as there can be.
const NONE: &str = r#"{"memory": "none", "stderr_bytes": "none"}"#;
/// The same, and fuel, which counts instructions and is off unless it is asked for.
const ALL_AND_FUEL: &str = r#"{"memory": "256MiB", "cpu_time": "1h", "wall_time": "1h", "stall_time": "1h", "input_bytes": "1TB",
    "output_bytes": "1TB", "stderr_bytes": "1GB", "fuel": 1000000000000000}"#;

/// Counts lines by looking at each byte alone: nothing lies between one look of the host's and the next but a few instructions.
const BYTE_BY_BYTE: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start") (local $at i32) (local $end i32) (local $lines i32)
        (i32.store (i32.const 0) (i32.const 1024))
        (i32.store (i32.const 4) (i32.const 65536))
        (loop $chunk
            (i32.store (i32.const 8) (i32.const 0))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
            (if (i32.load (i32.const 8)) (then
                (local.set $at (i32.const 1024))
                (local.set $end (i32.add (local.get $at) (i32.load (i32.const 8))))
                (loop $byte
                    (local.set $lines (i32.add (local.get $lines) (i32.eq (i32.load8_u (local.get $at)) (i32.const 10))))
                    (local.set $at (i32.add (local.get $at) (i32.const 1)))
                    (br_if $byte (i32.lt_u (local.get $at) (local.get $end))))
                (br $chunk))))
        (i32.store (i32.const 12) (local.get $lines))))"#;

fn cost(host: &Host, name: &str, stages: &str, file: &Path, limits: &str) {
    let run = |limits: &str| {
        let json = format!(
            r#"{{"version": 1, "limits": {limits}, "stages": [{stages}], "stdin": {{"file": "{}"}}, "stdout": "null"}}"#,
            file.display()
        );
        let plan = plan(&json);
        let started = Instant::now();
        let outcome = host.run(&plan, Ends::new(), &RunOptions::default());
        assert!(outcome.success, "{outcome:?}");
        started.elapsed().as_secs_f64()
    };
    let _ = (run(limits), run(NONE));
    let pairs: Vec<_> = (0..number("PAIRS", 9)).map(|_| (run(limits), run(NONE))).collect();
    let ratio = median(pairs.iter().map(|(with, without)| with / without).collect());
    println!("{name:54} {ratio:5.2} of the time without ({:.2} s)", median(pairs.iter().map(|pair| pair.0).collect()));
}

/// Good runs, eight at a time, beside `hostile` ones, eight at a time; the median time of a good one.
fn beside(host: &Host, good: &str, hostile: &[String], runs: usize) -> Duration {
    const EACH: usize = 8;
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let times = Mutex::new(Vec::with_capacity(runs));
    let bad = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..if hostile.is_empty() { 0 } else { EACH } {
            let (over, bad) = (&over, &bad);
            scope.spawn(move || {
                let mut next = number;
                while !over.load(Relaxed) {
                    let _ = host.run(&plan(&hostile[next % hostile.len()]), Ends::new(), &RunOptions::default());
                    bad.fetch_add(1, Relaxed);
                    next += EACH;
                }
            });
        }
        let workers: Vec<_> = (0..EACH)
            .map(|_| {
                let (next, times) = (&next, &times);
                scope.spawn(move || {
                    while next.fetch_add(1, Relaxed) < runs {
                        let plan = plan(good);
                        let started = Instant::now();
                        let options = RunOptions::default();
                        let (outcome, output) = host.output(&plan, Ends::new(), &options, 1 << 20).wait();
                        times.lock().expect("nobody panics with it").push(started.elapsed().as_secs_f64());
                        assert!(outcome.success && output.ends_with(b"dog\n"), "{outcome:?}");
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|worker| worker.join().expect("a good run is right"));
        over.store(true, Relaxed);
    });
    let median = median(times.into_inner().expect("nobody panics with it"));
    if !hostile.is_empty() {
        println!("  beside {} hostile runs", bad.load(Relaxed));
    }
    Duration::from_secs_f64(median)
}

/// A good run of one stage beside one hostile run of so many that never end; the median times alone and beside it.
fn beside_stages(host: &Host, good: &str, spinning: &str, stages: usize) -> (f64, f64) {
    let time = || {
        let started = Instant::now();
        let outcome = host.run(&plan(good), Ends::new(), &RunOptions::default());
        assert!(outcome.success, "{outcome:?}");
        started.elapsed().as_secs_f64()
    };
    let times = || median((0..number("PAIRS", 9)).map(|_| time()).collect());
    let alone = times();
    let all = vec![spinning; stages].join(", ");
    let hostile = format!(r#"{{"version": 1, "stages": [{all}], "stdin": "null", "stdout": "null"}}"#);
    let hostile = host.start(&plan(&hostile), Ends::new(), &RunOptions::default());
    // Its stages have begun by then.
    std::thread::sleep(Duration::from_millis(300));
    let beside = times();
    hostile.cancel();
    drop(hostile.wait());
    (alone, beside)
}

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let host = host(directory.path());
    let file = directory.path().join("data");
    let line = b"the quick brown fox jumps over the lazy dog, again and again\n".repeat(1 << 14);
    let mut data = fs::File::create(&file).expect("a file");
    for _ in 0..1024 {
        data.write_all(&line).expect("room on the disk");
    }
    println!("\nall limits on against none, over 1 GiB; medians of ratios (aim: at most 1.10)");
    let pass = [r#"{"wasm": "builtin:cat"}"#; 3].join(", ");
    let top = ["words", "lower", "count"].map(|name| format!(r#"{{"wasm": "builtin:{name}"}}"#)).join(", ");
    let place = Place::new();
    let bytes = format!(r#"{{"wasm": "{}"}}"#, guests::text(&place, "byte-by-byte.wasm", BYTE_BY_BYTE).display());
    let rows = [
        ("three pass-through stages", pass.as_str()),
        ("the count of each word: words, lower, count", top.as_str()),
        ("the count of all words: wc", r#"{"wasm": "builtin:wc"}"#),
        ("a loop over single bytes (no aim)", bytes.as_str()),
    ];
    for (limits, which) in [(ALL, ""), (ALL_AND_FUEL, ", and fuel")] {
        for (name, stages) in rows {
            cost(&host, &format!("{name}{which}"), stages, &file, limits);
        }
    }

    let hostile: Vec<_> = hostile::all()
        .iter()
        .filter(|guest| guest.alone != "refused" && guest.alone != "limit:memory" && !guest.name.starts_with("dir-"))
        .map(|guest| {
            let wasm = hostile::write(&place, guest);
            format!(
                r#"{{"version": 1, "stages": [{{"wasm": "{wasm}", "limits": {{"cpu_time": "50ms", "stall_time": "100ms",
                    "output_bytes": "1MiB", "input_bytes": "1MiB", "stderr_bytes": "1MiB"}}}}],
                    "stdin": {{"file": "/dev/zero"}}, "stdout": "null"}}"#
            )
        })
        .collect();
    // What they are compiled from is known from then on, as in a service that has run for a while.
    hostile.iter().for_each(|json| drop(host.run(&plan(json), Ends::new(), &RunOptions::default())));
    let text = "the quick brown fox jumps over the lazy dog\\n".repeat(2_000);
    let good = format!(
        r#"{{"version": 1, "stages": [{{"wasm": "builtin:lower"}}, {{"wasm": "builtin:grep", "args": ["fox"]}}, {{"wasm": "builtin:cat"}}],
            "stdin": {{"text": "{text}"}}}}"#
    );
    let runs = number("RUNS", 1000);
    println!("\ngood runs on two threads, eight at a time (aim: beside eight hostile ones the median at most doubles)");
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let alone = beside(&host, &good, &[], runs / 3);
        let among = beside(&host, &good, &hostile, runs / 3);
        ratios.push(among.as_secs_f64() / alone.as_secs_f64());
        println!("  median alone {alone:.2?}, beside hostile ones {among:.2?}");
    }
    println!("median of the ratios: {:.2}", median(ratios));

    println!(
        "\na good run of one stage on two threads beside one hostile run (aim: at most 2 times alone, and a slice of 5 ms)"
    );
    let short = directory.path().join("short");
    fs::write(&short, line.repeat(32)).expect("room on the disk");
    let counting = format!(
        r#"{{"version": 1, "stages": [{bytes}], "stdin": {{"file": "{}"}}, "stdout": "null"}}"#,
        short.display()
    );
    let spinning = guests::preview1(&place, "spinning.wasm", "(loop $spin (br $spin))");
    let spinning = format!(r#"{{"wasm": "{}"}}"#, spinning.display());
    for stages in [1, 20, 300] {
        let (alone, beside) = beside_stages(&host, &counting, &spinning, stages);
        let ratio = (beside - 0.005) / alone;
        println!("  {stages:3} stages: {:.1} ms alone, {:.1} ms beside them: {ratio:.2}", alone * 1e3, beside * 1e3);
    }
}
