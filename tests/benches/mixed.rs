//! Pipelines that mix programs, functions and sandboxed stages: go-pipe's six benchmarks as ours, and whole commands against the
//! shell, in interleaved pairs.
//!
//! `cargo bench --workspace --bench mixed` prints them. `PAIRS=N` sets the number of pairs (default 9), `GIB=N` how much the
//! shell's and our `cat`s carry (default 4).
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints and starts programs")]

use std::{
    io::{BufWriter, Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use stagehost::{
    Ends, Host, HostOptions, Pipeline, PipelineBuilder, Policy, RunOptions, Stage, Stdin, Stdout, function,
};
use stagehost_tests::{binary, cache, guests::probe};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn pipeline() -> PipelineBuilder {
    Pipeline::builder(Policy::allow_all()).environment(std::env::vars_os()).stdin_null().stdout_null()
}

fn cat() -> Stage {
    Stage::command(["cat"])
}

fn copy(name: impl Into<String>) -> Stage {
    Stage::blocking(name, |input, output| {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match input.read(&mut buffer)? {
                0 => return Ok(()),
                n => output.write_all(&buffer[..n])?,
            }
        }
    })
}

/// Writes the lines 1 to `last`, each with a write of its own or through a buffer.
fn lines(last: u32, buffer: usize) -> Stage {
    Stage::blocking("lines", move |_, output| {
        let mut output: Box<dyn Write> =
            if buffer == 0 { Box::new(output) } else { Box::new(BufWriter::with_capacity(buffer, output)) };
        for line in 1..=last {
            // One write, as `println` of a bare writer would not be.
            output.write_all(format!("{line}\n").as_bytes())?;
        }
        Ok(output.flush()?)
    })
}

fn count(expected: u32) -> Stage {
    Stage::blocking("count", move |input, _| {
        let mut buffer = vec![0; 64 << 10];
        let mut lines = 0;
        loop {
            match input.read(&mut buffer)? {
                0 if lines == expected => return Ok(()),
                0 => return Err(function::Error::msg(format!("{lines} lines arrived"))),
                n => lines += u32::try_from(buffer[..n].iter().filter(|byte| **byte == b'\n').count()).expect("few"),
            }
        }
    })
}

/// A source, five `cat`s with functions between them, and a function that counts.
fn more_data(last: u32, buffer: usize) -> PipelineBuilder {
    let mut builder = pipeline().stage(lines(last, buffer));
    for index in 0..4 {
        builder = builder.stage(cat()).stage(copy(format!("copy-{index}")));
    }
    builder.stage(cat()).stage(count(last))
}

fn row(host: &Host, name: &str, theirs: f64, build: impl Fn() -> PipelineBuilder) {
    let once = || {
        let pipeline = build().build().expect("a good pipeline");
        let started = Instant::now();
        let outcome = pipeline.run(host);
        assert!(outcome.success, "{}", outcome.message);
        started.elapsed().as_secs_f64() * 1000.0
    };
    once();
    let times: Vec<f64> = (0..20).map(|_| once()).collect();
    let best = times.iter().copied().fold(f64::INFINITY, f64::min);
    println!(
        "{name:22} best {best:8.3} ms, median {:8.3} ms   (go-pipe on a machine like it, best of 8: {theirs} ms)",
        median(times)
    );
}

/// A program alone in a pipeline, and the same program started and waited for by the standard library, in turn.
fn against_spawning(host: &Host, name: &str) {
    let pipeline = pipeline().stage(Stage::command(["true"])).build().expect("a good pipeline");
    let plan = pipeline.plan();
    let ours = || {
        let started = Instant::now();
        let outcome = host.run(plan, Ends::new().stdin(Stdin::null()).stdout(Stdout::null()), &RunOptions::default());
        assert!(outcome.success, "{}", outcome.message);
        started.elapsed().as_secs_f64() * 1000.0
    };
    let theirs = || {
        let started = Instant::now();
        let status = Command::new("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("it is started").success());
        started.elapsed().as_secs_f64() * 1000.0
    };
    let _ = (ours(), theirs());
    let pairs: Vec<_> = (0..300).map(|_| (ours(), theirs())).collect();
    let (mine, other) =
        (median(pairs.iter().map(|pair| pair.0).collect()), median(pairs.iter().map(|pair| pair.1).collect()));
    let ratio = median(pairs.iter().map(|(ours, theirs)| ours / theirs).collect());
    println!(
        "{:46} wall {ratio:5.2} ({mine:.3} ms against {other:.3} ms)   aim: 1.1",
        format!("a program, {name}, against std::process")
    );
}

fn shell(script: &str) -> Duration {
    let started = Instant::now();
    let status = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).status().expect("a shell");
    assert!(status.success(), "{script}: {status}");
    started.elapsed()
}

/// Runs two scripts in turn and prints the median of their ratios.
fn compare(name: &str, ours: &str, theirs: &str, aim: &str) {
    let _ = (shell(ours), shell(theirs));
    let pairs: Vec<_> =
        (0..number("PAIRS", 9)).map(|_| (shell(ours).as_secs_f64(), shell(theirs).as_secs_f64())).collect();
    let ratio = median(pairs.iter().map(|(ours, theirs)| ours / theirs).collect());
    let (ours, theirs) =
        (median(pairs.iter().map(|pair| pair.0).collect()), median(pairs.iter().map(|pair| pair.1).collect()));
    println!("{name:46} wall {ratio:5.2} ({ours:.2} s against {theirs:.2} s)   aim: {aim}");
}

/// Gigabytes a second through two stages with a `cat` between them.
fn throughput(host: &Host, name: &str, build: impl Fn(u64) -> (Stage, Stage)) {
    const BYTES: u64 = 4 << 30;
    let once = || {
        let (from, to) = build(BYTES);
        let pipeline = pipeline().stage(from).stage(cat()).stage(to).build().expect("a good pipeline");
        let started = Instant::now();
        let outcome = pipeline.run(host);
        assert!(outcome.success, "{}", outcome.message);
        assert_eq!(outcome.stages[2].input_bytes, Some(BYTES));
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let speed = BYTES as f64 / started.elapsed().as_secs_f64() / 1e9;
        speed
    };
    once();
    let speeds: Vec<f64> = (0..number("PAIRS", 9)).map(|_| once()).collect();
    let best = speeds.iter().copied().fold(0.0, f64::max);
    println!("{name:46} best {best:.2}, median {:.2} GB/s   aim: 2.5", median(speeds));
}

fn main() {
    let options = HostOptions::new().cache(cache());
    let host = Host::new(&options).expect("a host");
    println!("\ngo-pipe's six benchmarks, one host, a run each");
    row(&host, "SingleProgram", 1.16, || pipeline().stage(Stage::command(["true"])));
    against_spawning(&host, "two threads");
    against_spawning(&Host::new(&HostOptions::new().threads(0)).expect("a host"), "no threads");
    row(&host, "TenPrograms", 8.9, || {
        (0..9).fold(pipeline().stage(Stage::command(["echo", "hello world"])), |builder, _| builder.stage(cat()))
    });
    row(&host, "TenFunctions", 0.123, || {
        let first = pipeline().stage(Stage::blocking("text", function::text("hello world\n")));
        (0..9).fold(first, |builder, index| builder.stage(copy(format!("copy-{index}"))))
    });
    row(&host, "TenMixedStages", 5.5, || {
        let first = pipeline().stage(Stage::command(["echo", "hello world"])).stage(copy("copy"));
        (0..4).fold(first, |builder, index| builder.stage(cat()).stage(copy(format!("copy-{index}"))))
    });
    row(&host, "MoreDataUnbuffered", 60.0, || more_data(100_000, 0));
    row(&host, "MoreDataBuffered", 89.0, || more_data(1_000_000, 4096));
    println!("\nthrough a program between two stages of ours");
    throughput(&host, "wasm | cat | wasm", |bytes| {
        let from = Stage::wasm(probe()).name("from").args(["generate".to_owned(), bytes.to_string()]);
        (from, Stage::wasm("builtin:wc").args(["-c"]))
    });
    throughput(&host, "function | cat | function", |bytes| {
        let from = Stage::blocking("from", move |_, output| {
            let block = vec![b'x'; 128 << 10];
            for _ in 0..bytes / (128 << 10) {
                output.write_all(&block)?;
            }
            Ok(())
        });
        let to = Stage::blocking("to", |input, _| {
            let mut buffer = vec![0; 256 << 10];
            while input.read(&mut buffer)? > 0 {}
            Ok(())
        });
        (from, to)
    });
    drop(host);
    println!("\nwhole commands against the shell; ratio of times in interleaved pairs");
    let stagehost = binary().display().to_string();
    let gib = number("GIB", 4);
    compare(
        &format!("head -c {gib}G /dev/zero | cat | cat | cat"),
        &format!("{stagehost} run -c 'head -c {gib}G /dev/zero | cat | cat | cat' --stdout null"),
        &format!("sh -c 'head -c {gib}G /dev/zero | cat | cat | cat > /dev/null'"),
        "0.75",
    );
    let many = |command: &str| format!("i=0; while [ $i -lt 200 ]; do {command}; i=$((i+1)); done");
    let of = |text: &str| (many(&format!("{stagehost} run -c '{text}'")), many(&format!("sh -c '{text}'")));
    let (ours, shells) = of("/bin/true | /bin/true | /bin/true");
    compare("200 x true | true | true (the program /bin/true)", &ours, &shells, "2");
    let (ours, shells) = of("true | true | true");
    compare("200 x true | true | true (the shell's own true)", &ours, &shells, "none: no program starts");
}
