//! Limits hold, and say what was reached.

use std::fs;

use stagehost_tests::{
    Place,
    guests::{built, preview1, probe, text},
};

#[test]
fn a_memory_bomb_ends_at_its_limit() {
    let place = Place::new();
    let run = place.shorthand(&format!(":cat | {} alloc | :cat", probe())).args(["--limit", "memory=64MiB"]);
    let (output, peak) = peak_while_it_runs(run);
    let output = output.code(137).says(&["memory limit of 64 MiB", "in use", "asked for", "limits.memory"]).prints("");
    assert!(peak < 200 << 10, "{peak} KiB\n{output}");
}

#[test]
fn memory_is_allowed_up_to_the_limit_and_not_a_page_more() {
    let place = Place::new();
    // One page at the start; grows by N and traps if that is refused.
    let guest = |pages: u32| {
        let body = format!("(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable))");
        preview1(&place, &format!("grow{pages}.wasm"), &body).display().to_string()
    };
    // 10 MiB are 160 pages; a table of one element takes 16 bytes of them, and one page is there from the start.
    place.shorthand(&guest(158)).args(["--limit", "memory=10MiB"]).done().code(0).is_quiet();
    place.shorthand(&guest(159)).args(["--limit", "memory=10MiB"]).done().code(137).says(&["memory limit of 10 MiB"]);
}

#[test]
fn tables_count_as_memory() {
    let place = Place::new();
    let body = "(if (i32.eq (table.grow (ref.null func) (i32.const 10000000)) (i32.const -1)) (then unreachable))";
    let guest = preview1(&place, "table.wasm", body).display().to_string();
    place.shorthand(&guest).args(["--limit", "memory=64MiB"]).done().code(137).says(&["memory limit of 64 MiB"]);
    place.shorthand(&guest).args(["--limit", "memory=200MiB"]).done().code(0).is_quiet();
}

#[test]
fn memory_that_is_there_from_the_start_counts_too() {
    let place = Place::new();
    let guest = text(&place, "big.wasm", r#"(module (memory (export "memory") 2000) (func (export "_start")))"#);
    let run = place.shorthand(&guest.display().to_string());
    run.args(["--limit", "memory=64MiB"]).done().code(137).says(&["memory limit of 64 MiB"]);
    place.shorthand(&guest.display().to_string()).done().code(0).is_quiet();
}

#[test]
fn a_refused_growth_that_the_guest_survives_is_no_failure() {
    let place = Place::new();
    let guest = preview1(&place, "try.wasm", "(drop (memory.grow (i32.const 60000)))");
    place.shorthand(&guest.display().to_string()).done().code(0).is_quiet();
}

#[test]
fn a_guest_that_hoards_handles_reaches_their_bound() {
    let place = Place::new();
    let run = place.shorthand(&format!("{} handles", probe())).args(["--report", "report.json", "--timeout", "60s"]);
    run.done().code(137).says(&["reached its handles limit of 10000", "stages[0].limits.handles"]);
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert_eq!(report["stages"][0]["exit"]["which"], "handles", "{report}");
}

#[test]
fn a_component_of_too_many_instances_reaches_their_bound() {
    let place = Place::new();
    let of = |count: usize| {
        // One of them runs.
        let many = "(core instance (instantiate $m))".repeat(count - 1);
        let component = format!(
            r#"(component
            (core module $m)
            {many}
            (core module $run (func (export "run") (result i32) (i32.const 0)))
            (core instance $i (instantiate $run))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $export (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $export)))"#
        );
        let guest = text(&place, "many.wasm", &component).display().to_string();
        place.shorthand(&guest).args(["--stdin", "null"]).done()
    };
    of(64).code(0).is_quiet();
    of(65).code(137).says(&["reached its instances limit of 64", "stages[0].limits.instances"]);
}

#[test]
fn a_shadow_stack_that_overflows_is_called_that() {
    let place = Place::new();
    place.shorthand(&format!("{} recurse", probe())).done().code(134).says(&["likely a stack overflow"]);
}

#[test]
fn an_exit_code_after_a_refused_growth_is_the_guests_own() {
    let place = Place::new();
    let body = "(drop (memory.grow (i32.const 60000))) (call $exit (i32.const 3))";
    let guest = preview1(&place, "exit.wasm", body);
    place.shorthand(&guest.display().to_string()).done().code(3).says(&["exited with code 3"]);
    // A growth that was approved later says that the guest got over the refusal.
    let body = "(drop (memory.grow (i32.const 60000))) (drop (memory.grow (i32.const 1))) unreachable";
    let guest = preview1(&place, "over.wasm", body);
    place.shorthand(&guest.display().to_string()).done().code(134).says(&["unreachable"]);
}

#[test]
fn a_limit_names_one_stage_or_all() {
    let place = Place::new();
    let guest = format!("{} alloc", probe());
    let run = place.shorthand(&format!(":cat | {guest}")).args(["--limit", "probe.memory=32MiB"]);
    run.done().code(137).says(&["memory limit of 32 MiB"]);
    let run = place.shorthand(&format!(":cat | {guest}")).args(["--limit", "2.memory=16MiB"]);
    run.done().code(137).says(&["memory limit of 16 MiB"]);
    let run = place.shorthand(&format!("{} early | {guest}", probe())).args(["--limit", "probe-2.memory=48MiB"]);
    run.done().code(137).says(&["memory limit of 48 MiB"]);
}

/// The most memory a process ever had resident, in KiB.
fn peak_kib(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Starts a run and watches the host's memory until it has ended.
fn peak_while_it_runs(run: stagehost_tests::Run<'_>) -> (stagehost_tests::Output, u64) {
    let mut running = run.start();
    let (id, mut peak) = (running.id(), 0);
    running.until("the run has ended", || match peak_kib(id) {
        // It is a zombie.
        0 => true,
        now => {
            peak = peak.max(now);
            false
        }
    });
    (running.done(), peak)
}

#[test]
fn the_hosts_memory_stays_bounded_however_much_flows() {
    // The benchmark moves ten gigabytes; a leak of a tenth of what passes would show here as well.
    let place = Place::new();
    let run = place.shorthand(&format!("{} generate 2147483648 | :cat | :cat", probe())).args(["--stdout", "null"]);
    let (output, peak) = peak_while_it_runs(run);
    let output = output.code(0);
    assert!(peak > 0 && peak < 100 << 10, "{peak} KiB\n{output}");
}

#[test]
fn five_hundred_stages_run() {
    let place = Place::new();
    let input = "x".repeat(3 << 20);
    let run = place.shorthand(&vec![":cat"; 500].join(" | ")).input(input.clone());
    let (output, peak) = peak_while_it_runs(run);
    let output = output.code(0).prints(input);
    assert!(peak > 0 && peak < 500 << 10, "{peak} KiB\n{output}");
}

/// Runs a guest with one limit.
fn with_limit(place: &Place, guest: &str, input: &str, limit: &str) -> stagehost_tests::Output {
    place.shorthand(guest).input(input.to_owned()).args(["--limit", limit, "--report", "report.json"]).done()
}

#[test]
fn bytes_are_allowed_up_to_the_limit_and_not_one_more() {
    let place = Place::new();
    let input = "x".repeat(1000);
    for guest in [
        ":cat".to_owned(),
        format!("{} pass", built("std-probe-p1.wasm").display()),
        format!("{} pass", built("std-probe-p2.wasm").display()),
    ] {
        for limit in ["input_bytes", "output_bytes"] {
            with_limit(&place, &guest, &input, &format!("{limit}=1000")).code(0).prints(&input);
            let output = with_limit(&place, &guest, &input, &format!("{limit}=999")).code(153);
            // What was allowed to pass has passed; the run is a failure all the same.
            assert!(output.stdout.len() <= 999, "{output}");
            output.says(&[&format!("reached its {limit} limit of 999 B"), &format!("stages[0].limits.{limit}")]);
        }
    }
    // A line on standard error and its end: ten bytes.
    let guest = format!("{} stderr", probe());
    with_limit(&place, &guest, "", "stderr_bytes=10").code(0);
    with_limit(&place, &guest, "", "stderr_bytes=9").code(153).says(&["stderr_bytes limit of 9 B"]);
}

#[test]
fn fuel_is_allowed_up_to_the_limit_and_not_one_more() {
    let place = Place::new();
    let guest = preview1(
        &place,
        "count.wasm",
        "(local $n i32) (loop $l (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 1000))))",
    );
    let guest = guest.display().to_string();
    with_limit(&place, &guest, "", "fuel=1000000").code(0);
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    let used = report["stages"][0]["fuel"].as_u64().unwrap();
    assert!(used > 1000, "{used}");
    with_limit(&place, &guest, "", &format!("fuel={used}")).code(0);
    // It is looked at where functions and loops begin: some instructions before the end.
    with_limit(&place, &guest, "", &format!("fuel={}", used - 20)).code(152).says(&["reached its fuel limit"]);
    // Where nobody counts, nothing is reported.
    with_limit(&place, &guest, "", "memory=1MiB").code(0);
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    assert!(report["stages"][0]["fuel"].is_null());
}

#[test]
fn handles_are_allowed_up_to_the_limit() {
    let place = Place::new();
    let guest = format!("{} handles", probe());
    for limit in [16, 5_000, 100_000] {
        let output = with_limit(&place, &guest, "", &format!("handles={limit}")).code(137);
        output.says(&[&format!("reached its handles limit of {limit}")]);
    }
    place.shorthand(&guest).args(["--limit", "handles=100001"]).done().code(125).says(&["handles is 16 to 100000"]);
}

#[test]
fn the_stack_is_as_deep_as_it_is_said_to_be() {
    let place = Place::new();
    // Calls itself so often, and says how often when it comes back.
    let deep = |calls: u32| {
        let text = format!(
            r#"(module (memory (export "memory") 1)
                (func $f (param i32) (result i32) (if (result i32) (local.get 0)
                    (then (i32.add (call $f (i32.sub (local.get 0) (i32.const 1))) (i32.const 1))) (else (i32.const 0))))
                (func (export "_start") (drop (call $f (i32.const {calls})))))"#
        );
        text_guest(&place, &text)
    };
    let (shallow, middle, deepest) = (deep(1_000), deep(30_000), deep(1_000_000));
    with_limit(&place, &shallow, "", "stack=64KiB").code(0);
    with_limit(&place, &middle, "", "stack=64KiB").code(134).says(&["call stack exhausted"]);
    with_limit(&place, &middle, "", "stack=8MiB").code(0);
    with_limit(&place, &deepest, "", "stack=8MiB").code(134).says(&["call stack exhausted"]);
}

fn text_guest(place: &Place, source: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("guest-{}.wasm", NUMBER.fetch_add(1, Relaxed));
    text(place, &name, source).display().to_string()
}

#[test]
fn processor_time_is_measured_and_bounded() {
    let place = Place::new();
    let spin = format!("{} spin", probe());
    with_limit(&place, &spin, "", "cpu_time=100ms").code(152).says(&["cpu_time limit of 100ms"]);
    let report: serde_json::Value = serde_json::from_str(&place.read("report.json")).unwrap();
    let stage = &report["stages"][0];
    // Two ticks of the clock that is looked at.
    let used = stage["exit"]["used"].as_u64().unwrap();
    assert!((100..=115).contains(&used), "{stage}");
    assert!(stage["cpu_ms"].as_u64().unwrap() >= 100, "{stage}");
    // Who waits uses none: what has hardly any time may wait for ever.
    let (never, _writer) = std::io::pipe().unwrap();
    let waits = place.shorthand(&format!("{} wait", probe())).stdin(never);
    waits.args(["--limit", "cpu_time=50ms", "--timeout", "2s"]).done().code(124).says(&["timeout of 2s"]);
    // The host's own work for a guest counts as the guest's.
    let splice = place.shorthand(&format!("{} splice", probe())).args(["--stdin", "/dev/zero", "--stdout", "null"]);
    splice.args(["--limit", "cpu_time=100ms"]).done().code(152);
}

#[test]
fn wall_time_ends_a_stage_that_waits_or_works() {
    let place = Place::new();
    with_limit(&place, &format!("{} spin", probe()), "", "wall_time=200ms")
        .code(124)
        .says(&["wall_time limit of 200ms"]);
    let (never, _writer) = std::io::pipe().unwrap();
    let waits = place.shorthand(&format!("{} wait", probe())).stdin(never).args(["--limit", "wall_time=200ms"]);
    waits.done().code(124).says(&["wall_time limit of 200ms"]);
}

#[test]
fn a_stage_that_moves_nothing_is_stalled_and_one_that_waits_is_not() {
    let place = Place::new();
    with_limit(&place, &format!("{} spin", probe()), "", "stall_time=200ms")
        .code(124)
        .says(&["moved nothing for 200ms"]);
    // It waits for input that is not there.
    let (never, _writer) = std::io::pipe().unwrap();
    let waits = place.shorthand(":cat").stdin(never).args(["--limit", "stall_time=200ms", "--timeout", "2s"]);
    waits.done().code(124).says(&["timeout of 2s"]);
    // Its reader takes nothing.
    let full = place.shorthand(&format!("{} yes | sh -c 'sleep 2; head -c 10'", probe()));
    full.args(["--stdin", "null", "--limit", "1.stall_time=200ms"]).done().code(0).prints("y\ny\ny\ny\ny\n");
}

#[test]
fn more_stages_than_there_are_memory_maps_for_are_refused() {
    let place = Place::new();
    // Each takes several maps of the process's 65,530 or so for each of its memories.
    text(&place, "memories.wasm", r#"(module (memory 1) (memory 1) (memory 1) (func (export "_start")))"#);
    let stages = vec![r#"{"wasm": "memories.wasm"}"#; 10_000].join(", ");
    place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": [{stages}]}}"#));
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok());
    if most.is_some_and(|most: u64| most > 100_000) {
        return;
    }
    place.stagehost(["run", "p.json"]).done().code(125).says(&["memory maps at once", "vm.max_map_count"]);
}
