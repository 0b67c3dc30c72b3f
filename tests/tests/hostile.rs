//! Hostile guests, each with the exact end it must have, alone and between two other stages; and that none of them changes
//! what others do, or what this process holds.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use stagehost::{Ends, Host, HostOptions, Outcome, Plan, PlanOptions, Policy, RunOptions, StageExit, spec};
use stagehost_tests::{
    Place,
    hostile::{self, Hostile, Stdin, shown},
    leaks::checked,
};

/// Limits by how a guest is to end, so that no other one is near, however busy the machine is. What it may hold is the default.
fn limits(end: &str) -> &'static str {
    match end {
        "limit:cpu_time" => {
            r#"{"cpu_time": "150ms", "wall_time": "300s", "input_bytes": "16MiB", "output_bytes": "16MiB",
                "stderr_bytes": "16MiB"}"#
        }
        "limit:stall_time" => {
            r#"{"cpu_time": "30s", "stall_time": "400ms", "wall_time": "300s", "input_bytes": "16MiB",
                "output_bytes": "16MiB", "stderr_bytes": "16MiB"}"#
        }
        _ => {
            r#"{"cpu_time": "30s", "wall_time": "300s", "input_bytes": "16MiB", "output_bytes": "16MiB",
                "stderr_bytes": "16MiB"}"#
        }
    }
}

fn run(host: &Host, json: &str) -> Result<Outcome, String> {
    Ok(host.run(&planned(json)?, Ends::new(), &RunOptions::default()))
}

fn planned(json: &str) -> Result<Plan, String> {
    let spec = spec::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{json}"));
    Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all())).map_err(|error| error.to_string())
}

/// A pipeline with a guest, alone or between two others.
fn pipeline(place: &Place, guest: &Hostile, between: bool) -> String {
    let (path, grants) = (hostile::write(place, guest), guest.grants(place));
    let argument = if guest.large_argument { "A".repeat(1 << 20) } else { "x".into() };
    let limits = limits(if between { &guest.between } else { &guest.alone });
    let stage = format!(r#"{{"wasm": "{path}", "name": "guest", "args": ["{argument}"], "limits": {limits}{grants}}}"#);
    let stdin = match (between, guest.stdin) {
        (false, Stdin::Null) => r#""null""#.to_owned(),
        (false, Stdin::Text) => r#"{"text": "a line\nand another one\n"}"#.to_owned(),
        (true, _) | (false, Stdin::Zero) => r#"{"file": "/dev/zero"}"#.to_owned(),
    };
    let stages = if between {
        format!(r#"{{"wasm": "builtin:cat", "name": "before"}}, {stage}, {{"wasm": "builtin:cat", "name": "behind"}}"#)
    } else {
        stage
    };
    format!(r#"{{"version": 1, "stages": [{stages}], "stdin": {stdin}, "stdout": "null"}}"#)
}

/// Runs a guest and says how it ended, and how much may have been held for it by what was planned, in bytes.
fn ended(host: &Host, place: &Place, guest: &Hostile, between: bool) -> (String, String, u64) {
    // Reading and weighing a file hold twice the file, and 64 MiB.
    let weighing = 2 * guest.wasm.len() as u64 + (64 << 20);
    let plan = match planned(&pipeline(place, guest, between)) {
        Ok(plan) => plan,
        Err(refused) => return ("refused".to_owned(), refused, weighing),
    };
    let worst = plan.summary().worst_case_memory_bytes.expect("every stage has a limit");
    let outcome = host.run(&plan, Ends::new(), &RunOptions::default());
    let (end, detail) = match outcome.stage("guest") {
        Some(stage) => (shown(&stage.exit), format!("{} {:?}", stage.exit, outcome.message)),
        None => ("nothing".to_owned(), outcome.message),
    };
    (end, detail, worst.max(weighing))
}

/// The most memory that this process had resident since it was last asked, and what it has now, in bytes.
fn peak_and_now() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").expect("it is there");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    };
    // Begins anew.
    fs::write("/proc/self/clear_refs", "5").expect("it is ours");
    (field("VmHWM:"), field("VmRSS:"))
}

fn host() -> Host {
    let cache = std::path::absolute(env!("CARGO_TARGET_TMPDIR")).expect("a path").join("hostile-cache");
    let compiler = [stagehost_tests::binary().into_os_string(), "compile-worker".into()];
    let options = HostOptions::new().threads(2).cache(cache).compiler(compiler);
    Host::new(&options).expect("a host")
}

/// One test at a time: what this process holds is measured.
static ALONE: Mutex<()> = Mutex::new(());

fn check_all(between: bool) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let mut wrong = Vec::new();
    checked(|| {
        let host = host();
        for guest in hostile::all() {
            // What is loaded of compiled code, and what the allocator keeps.
            const SLACK: u64 = 96 << 20;
            let (_, before) = peak_and_now();
            let started = Instant::now();
            let (end, detail, planned) = ended(&host, &place, &guest, between);
            let (took, held) = (started.elapsed(), peak_and_now().0.saturating_sub(before));
            let expected = if between { &guest.between } else { &guest.alone };
            if end != *expected || held > planned + SLACK {
                wrong.push(format!(
                    "{}: {end}, not {expected}; {took:?}, {held} bytes held, {planned} planned: {detail}",
                    guest.name
                ));
            }
        }
    });
    assert!(wrong.is_empty(), "{} guests:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_ends_as_it_must_alone() {
    check_all(false);
}

#[test]
fn each_ends_as_it_must_between_others() {
    check_all(true);
}

/// The same by the binary, which compiles them anew in a process of its own and reports how each ended.
#[test]
fn each_ends_as_it_must_through_the_binary() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (next, printed, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let guests = hostile::all();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (guests, next, printed, wrong) = (&guests, &next, &printed, &wrong);
            scope.spawn(move || {
                // What a run leaves is known by its place.
                let place = Place::new();
                fs::create_dir(place.path("cache")).expect("the place is writable");
                while let Some(guest) = guests.get(next.fetch_add(1, Relaxed)) {
                    place.write("p.json", pipeline(&place, guest, false));
                    let _ = fs::remove_file(place.path("report.json"));
                    let words = ["run", "p.json", "--report", "report.json", "--stderr-prefix", "always"];
                    let run = place.stagehost(words);
                    let output = run.env("STAGEHOST_CACHE_DIR", place.path("cache")).done();
                    let end = reported(&place.read("report.json"));
                    if end != guest.alone {
                        let name = &guest.name;
                        wrong
                            .lock()
                            .expect("nobody panics")
                            .push(format!("{name}: {end}, not {}: {output}", guest.alone));
                    }
                    // Each line is the host's or the guest's, and nobody takes one for the other.
                    for line in output.error_text().split('\n').filter(|line| !line.is_empty()) {
                        let is_guests = line.starts_with("guest: ");
                        printed.fetch_add(usize::from(is_guests), Relaxed);
                        let is_hosts =
                            ["error: ", "warning: ", "hint: ", "  "].iter().any(|word| line.starts_with(word));
                        if !is_guests && (!is_hosts || line.chars().any(char::is_control)) {
                            wrong.lock().expect("nobody panics").push(format!("{}: {line:?}", guest.name));
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("nobody panics");
    assert!(printed.into_inner() > 0, "none of them prints");
    assert!(wrong.is_empty(), "{} guests:\n{}", wrong.len(), wrong.join("\n"));
}

/// How a guest ended, by a report, in the words of the table.
fn reported(report: &str) -> String {
    let report: serde_json::Value = serde_json::from_str(report).expect("a report");
    let Some(stage) = report["stages"].as_array().and_then(|stages| stages.first()) else {
        assert_eq!(report["exit_code"], 126, "{report}");
        return "refused".into();
    };
    let word = |key: &str| stage["exit"][key].as_str().unwrap_or_default().to_owned();
    match word("kind").as_str() {
        "exit" => format!("exit:{}", stage["exit"]["code"]),
        "trap" => format!("trap:{}", word("trap")),
        "limit" => format!("limit:{}", word("which")),
        kind => kind.to_owned(),
    }
}

#[test]
fn there_are_guests_of_all_generations() {
    let guests = hostile::all();
    let count = |generation: &str| guests.iter().filter(|guest| guest.name.starts_with(generation)).count();
    assert!(guests.len() >= 255 && count("p2-") >= 40 && count("p3-") >= 60, "{}", guests.len());
}

/// Whatever a guest is doing when its run's time is over, it is dropped, and nothing of it is left.
#[test]
fn each_can_be_dropped_in_whatever_it_does() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let mut wrong = Vec::new();
    checked(|| {
        let host = host();
        for (number, guest) in hostile::all().iter().enumerate().filter(|(_, guest)| guest.alone != "refused") {
            let (path, grants) = (hostile::write(&place, guest), guest.grants(&place));
            // At different moments: while it is compiled, instantiated, running, waiting.
            let timeout = [1, 3, 10, 30][number % 4];
            let json = format!(
                r#"{{"version": 1, "timeout": "{timeout}ms", "stdin": {{"file": "/dev/zero"}}, "stdout": "null",
                    "stages": [{{"wasm": "builtin:cat"}}, {{"wasm": "{path}", "name": "guest"{grants}}}, {{"wasm": "builtin:cat", "name": "behind"}}]}}"#
            );
            match run(&host, &json) {
                Ok(outcome) if outcome.timed_out || outcome.duration_ms < 30_000 => {}
                Ok(outcome) => wrong.push(format!("{}: {outcome:?}", guest.name)),
                Err(refused) if refused.contains("was over before the run could begin") => {}
                Err(refused) => wrong.push(format!("{}: {refused}", guest.name)),
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A thousand good runs beside a thousand hostile ones, at most 16 at once.
#[test]
fn good_runs_are_right_beside_hostile_ones() {
    const RUNS: usize = 1_000;
    const AT_ONCE: usize = 16;
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let guests: Vec<Hostile> = hostile::all()
        .into_iter()
        // What needs long by itself says nothing more here.
        .filter(|guest| !guest.name.contains("doubling") && guest.alone != "limit:memory" && guest.alone != "refused")
        .collect();
    let paths: Vec<_> = guests.iter().map(|guest| (hostile::write(&place, guest), guest.grants(&place))).collect();
    let host = host();
    let good = r#"{"version": 1, "stages": [{"wasm": "builtin:words"}, {"wasm": "builtin:lower"}, {"wasm": "builtin:count"}],
        "stdin": {"text": "b a B c a b"}}"#;
    let next = Arc::new(AtomicUsize::new(0));
    let right = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (host, next, paths, right) = (host.clone(), next.clone(), &paths, &right);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= 2 * RUNS {
                        return;
                    }
                    if number % 2 == 0 {
                        let (path, grants) = &paths[number / 2 % paths.len()];
                        let json = format!(
                            r#"{{"version": 1, "stages": [{{"wasm": "{path}", "limits": {{"cpu_time": "20ms", "stall_time": "50ms",
                                "output_bytes": "1MiB", "input_bytes": "1MiB", "stderr_bytes": "1MiB"}}{grants}}}],
                                "stdin": {{"file": "/dev/zero"}}, "stdout": "null"}}"#
                        );
                        let _ = run(&host, &json);
                        continue;
                    }
                    let spec = spec::parse(good.as_bytes()).expect("a good file");
                    let pipeline = Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all())).expect("a good plan");
                    let options = RunOptions::default();
                    let (outcome, output) = host.output(&pipeline, Ends::new(), &options, 1 << 10).wait();
                    assert!(outcome.success, "{outcome:?}");
                    assert_eq!(String::from_utf8_lossy(&output), "      3 b\n      2 a\n      1 c\n");
                    assert!(outcome.stages.iter().all(|stage| stage.exit == StageExit::Ok), "{outcome:?}");
                    right.fetch_add(1, Relaxed);
                }
            });
        }
    });
    assert_eq!(right.load(Relaxed), RUNS);
}
