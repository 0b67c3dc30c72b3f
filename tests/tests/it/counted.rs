//! What the host does for a stage on files is the stage's: its processor time is what the process used, for every call of the three
//! generations, and no call takes threads.

use std::fs;

use stagehost_tests::{
    Place,
    file_calls::{preview1_calls, wasi_0_2_calls, wasi_0_3_calls},
    guests::text,
    repository,
};

/// What a stage is to use, in milliseconds, besides what starting one takes.
const MEASURED: u64 = 250;

/// Runs a guest that calls one function for ever, until its processor time is used up: what the whole process used more than for a
/// guest that ends at once must not be more than a quarter above what was counted.
fn check(place: &Place, name: &str, guest: &str) {
    let file = text(place, &format!("{name}.wasm"), guest);
    fs::write(
        place.path("pipeline.json"),
        format!(
            r#"{{"version": 1, "stages": [{{"wasm": "{}", "limits": {{"wall_time": "100s"}},
            "grants": {{"dirs": [{{"host": "dir", "guest": "/", "access": "write"}}]}}}}]}}"#,
            file.display()
        ),
    )
    .unwrap();
    let used = |limit: u64| {
        // Whatever the one before was in the middle of.
        let _ = fs::remove_dir_all(place.path("dir"));
        fs::create_dir(place.path("dir")).unwrap();
        fs::write(place.path("dir/f"), vec![0; 100_000]).unwrap();
        let script = format!(
            "TIMEFORMAT='used %3U %3S'; time $STAGEHOST run pipeline.json --limit cpu_time={limit}ms --report report.json; exit $?"
        );
        let output = place.shell(&script).done().code(152);
        let line = output.error_text().lines().find_map(|line| line.strip_prefix("used ")).unwrap().to_owned();
        let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
        let counted = report["stages"][0]["cpu_ms"].as_u64().unwrap();
        let used: f64 = line.split(' ').map(|time| time.parse::<f64>().unwrap()).sum();
        (counted as f64, used * 1000.0)
    };
    // The first one compiles it.
    used(1);
    // The best of some: what other programs do to caches is not ours.
    let ratios = (0..4).map(|_| {
        let ((least, start), (most, all)) = (used(5), used(5 + MEASURED));
        (most - least) / (all - start)
    });
    let mut seen = Vec::new();
    for ratio in ratios {
        if (0.8..=1.2).contains(&ratio) {
            return;
        }
        seen.push(ratio);
    }
    panic!("{name}: {seen:.2?} of what was used were counted");
}

#[test]
fn every_call_of_preview1_on_files_is_counted() {
    let place = Place::new();
    for (name, guest) in preview1_calls() {
        check(&place, name, &guest);
    }
}

#[test]
fn every_call_of_wasi_0_2_on_files_is_counted() {
    let place = Place::new();
    for (name, guest) in wasi_0_2_calls() {
        check(&place, &format!("{name}-0.2"), &guest);
    }
}

#[test]
fn every_call_of_wasi_0_3_on_files_is_counted() {
    let place = Place::new();
    for (name, guest) in wasi_0_3_calls() {
        check(&place, &format!("{name}-0.3"), &guest);
    }
}

/// One of `tests/grants`, in a pipeline with grants.
fn granted(place: &Place, name: &str, grants: &str) {
    let source = fs::read_to_string(repository().join("tests/grants").join(format!("{name}.wat"))).unwrap();
    let file = text(place, &format!("{name}.wasm"), &source);
    let json = format!(
        r#"{{"version": 1, "stages": [{{"wasm": "{}", "grants": {grants}}}], "stdin": "null"}}"#,
        file.display()
    );
    place.write("pipeline.json", json);
}

#[test]
fn thousands_of_operations_at_once_take_no_threads_and_no_descriptors() {
    let place = Place::new();
    fs::create_dir(place.path("dir")).unwrap();
    granted(&place, "p3-syncs", r#"{"dirs": [{"host": "dir", "guest": "/"}]}"#);
    let mut run = place.stagehost(["run", "pipeline.json"]).start();
    let (mut threads, mut descriptors) = (0, 0);
    let (tasks, fds) = (format!("/proc/{}/task", run.id()), format!("/proc/{}/fd", run.id()));
    run.until("it has ended", || {
        let count = |of: &str| fs::read_dir(of).map_or(0, Iterator::count);
        let now = count(&fds);
        threads = threads.max(count(&tasks));
        descriptors = descriptors.max(now);
        // A zombie has none.
        now == 0
    });
    run.done().code(0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    assert!(threads < processors + 16 && descriptors < 64, "{threads} threads, {descriptors} descriptors");
}

#[test]
fn what_the_host_holds_while_it_waits_for_datagrams_counts_to_memory() {
    let place = Place::new();
    granted(&place, "p3-receives", r#"{"net": ["udp:127.0.0.1:9"]}"#);
    // 64 KiB for each, beside the guest's own four pages of as much.
    let run = |memory: &str| place.stagehost(["run", "pipeline.json", "--limit", memory]).done();
    run("memory=4MiB").code(60);
    run("memory=8MiB").code(124);
}
