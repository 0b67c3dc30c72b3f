//! Whole runs against the shell's pipes: wall and CPU time of the process, start-up included, in interleaved pairs.
//!
//! `cargo bench --workspace --bench puts --bench pipeline` prints these and the ring's own rows. `GIB=N` sets the size of
//! the file (default 2), `PAIRS=N` the number of pairs (default 9).
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark prints and starts programs")]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use stagehost_tests::{binary, guests::probe};

/// What one run of a command took.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// CPU time of all children that were waited for, from the kernel's own accounting, in its ticks of 10 ms.
fn children_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc is there");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let fields: Vec<u64> = fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    // cutime and cstime: fields 16 and 17 of the line, 13 and 14 behind the name.
    Duration::from_millis((fields[13] + fields[14]) * 10)
}

fn run(script: &str) -> Cost {
    let (started, before) = (Instant::now(), children_cpu());
    let status = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).status().expect("a shell");
    assert!(status.success(), "{script}: {status}");
    Cost { wall: started.elapsed(), cpu: children_cpu() - before }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs two scripts in turn and prints the medians of their ratios.
fn compare(name: &str, ours: &str, theirs: &str, aims: &str) {
    let pairs = usize::try_from(number("PAIRS", 9)).expect("a small number").max(1);
    let _ = (run(ours), run(theirs));
    let costs: Vec<_> = (0..pairs).map(|_| (run(ours), run(theirs))).collect();
    // A command too short for the kernel's ticks has no CPU time to divide by.
    let ratio = |pick: fn(&Cost) -> Duration| {
        let ratios = costs
            .iter()
            .filter(|(_, theirs)| !pick(theirs).is_zero())
            .map(|(ours, theirs)| pick(ours).as_secs_f64() / pick(theirs).as_secs_f64());
        let ratios: Vec<f64> = ratios.collect();
        if ratios.len() < pairs { "    -".to_owned() } else { format!("{:5.2}", median(ratios)) }
    };
    let seconds =
        |pick: fn(&Cost) -> Duration| median(costs.iter().map(|(ours, _)| pick(ours).as_secs_f64()).collect());
    println!(
        "{name:46} wall {} ({:.2} s)  CPU {} ({:.2} s)  aim: {aims}",
        ratio(|cost| cost.wall),
        seconds(|cost| cost.wall),
        ratio(|cost| cost.cpu),
        seconds(|cost| cost.cpu)
    );
}

/// Fills a file with lines.
fn fill(path: &Path, bytes: u64) {
    let mut file = fs::File::create(path).expect("a file");
    let block = b"the quick brown fox jumps over the lazy dog, again and again\n".repeat(1 << 14);
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(&block[..n]).expect("room on the disk");
        left -= n as u64;
    }
}

/// The most memory the binary had resident while a script ran, in MiB.
fn peak(script: &str) -> String {
    let timed = format!("/usr/bin/env bash -c '{script}'");
    let output = Command::new("python3")
        .args(["-c", "import resource, subprocess, sys; subprocess.run(sys.argv[1], shell=True, check=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)", &timed])
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "?".into(),
    }
}

fn main() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let gib = number("GIB", 2);
    let file = directory.path().join("data");
    fill(&file, gib << 30);
    let (file, stagehost, probe) = (file.display(), binary().display().to_string(), probe());
    let cache = directory.path().join("cache");
    let ours = |stages: &str| {
        format!("STAGEHOST_CACHE_DIR={} {stagehost} run -c '{stages}' --stdin {file} --stdout null", cache.display())
    };
    println!(
        "\nwhole processes over {gib} GiB in the page cache; ratio of medians to the other side, our seconds in parentheses"
    );
    compare(
        "three pass-through stages / cat | cat | cat",
        &ours(":cat | :cat | :cat"),
        &format!("cat < {file} | cat | cat > /dev/null"),
        "0.60 and 0.60",
    );
    compare("one pass-through stage / cat", &ours(":cat"), &format!("cat < {file} > /dev/null"), "none");
    compare("lower / tr A-Z a-z", &ours(":lower"), &format!("tr A-Z a-z < {file} > /dev/null"), "none");
    compare(
        "grep -c fox / grep -c fox",
        &ours(":grep -c fox"),
        &format!("grep -c fox < {file} | cat > /dev/null"),
        "none",
    );
    compare(
        "grep -c of a word that is nowhere / the same",
        &format!("{} || test $? = 1", ours(":grep -c wolf")),
        &format!("grep -c wolf < {file} | cat > /dev/null"),
        "none",
    );
    compare("start-up: cat of nothing / cat", &ours(":head -n 0"), "cat < /dev/null", "none");
    let has_wasmtime = Command::new("wasmtime").arg("--version").output().is_ok();
    if has_wasmtime {
        let wasm = format!("wasmtime run -W component-model-async=y -S p3 {probe}");
        compare(
            "three pass-through stages / three wasmtime run",
            &ours(&format!("{probe} | {probe} | {probe}")),
            &format!("{wasm} < {file} | {wasm} | {wasm} > /dev/null"),
            "0.25 of the wall time",
        );
    } else {
        println!("three piped `wasmtime run`: that program is not installed");
    }
    let generate = format!("{stagehost} run -c \"{probe} generate 10737418240 | :cat | :cat\" --stdout null");
    println!("10 GiB through three stages: {} MiB resident at most (aim: under 100)", peak(&generate));
    let many = vec![":cat"; 500].join(" | ");
    let many = format!("head -c 50000000 /dev/zero | {stagehost} run -c \"{many}\" --stdout null");
    println!("500 stages in one pipeline: {} MiB resident at most (aim: under 500)", peak(&many));
}
