//! Limits hold, and say what was reached.

use std::fs;

use stagehost_tests::{
    Place,
    guests::{preview1, probe, text},
};

#[test]
fn a_memory_bomb_ends_at_its_limit() {
    let place = Place::new();
    let run = place.shorthand(&format!(":cat | {} alloc | :cat", probe())).args(["--limit", "memory=64MiB"]);
    let (output, peak) = peak_while_it_runs(run, &place);
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
    let many = "(core instance (instantiate $m))".repeat(70);
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
    let guest = text(&place, "many.wasm", &component);
    place
        .shorthand(&guest.display().to_string())
        .done()
        .code(137)
        .says(&["reached its instances limit of 64", "stages[0].limits.instances"]);
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

/// Starts a run with a report and watches the host's memory until the report is written: its first byte is the last thing
/// of a run.
fn peak_while_it_runs(run: stagehost_tests::Run<'_>, place: &Place) -> (stagehost_tests::Output, u64) {
    let mut running = run.args(["--report", "report.json"]).start();
    let (id, report) = (running.id(), place.path("report.json"));
    running.until("the report is opened", || report.exists());
    let mut peak = 0;
    while fs::metadata(&report).is_ok_and(|report| report.len() == 0) {
        match peak_kib(id) {
            0 => break,
            now => peak = peak.max(now),
        }
        std::thread::yield_now();
    }
    (running.done(), peak)
}

#[test]
fn the_hosts_memory_stays_bounded_however_much_flows() {
    // The benchmark moves ten gigabytes; a leak of a tenth of what passes would show here as well.
    let place = Place::new();
    let run = place.shorthand(&format!("{} generate 2147483648 | :cat | :cat", probe())).args(["--stdout", "null"]);
    let (output, peak) = peak_while_it_runs(run, &place);
    let output = output.code(0);
    assert!(peak > 0 && peak < 100 << 10, "{peak} KiB\n{output}");
}

#[test]
fn five_hundred_stages_run() {
    let place = Place::new();
    let input = "x".repeat(3 << 20);
    let run = place.shorthand(&vec![":cat"; 500].join(" | ")).input(input.clone());
    let (output, peak) = peak_while_it_runs(run, &place);
    let output = output.code(0).prints(input);
    assert!(peak > 0 && peak < 500 << 10, "{peak} KiB\n{output}");
}
