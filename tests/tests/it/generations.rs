//! Every generation of WASI runs unmodified, with arguments and exit codes.

use stagehost_tests::{
    Place,
    guests::{built, probe, probe_unknown},
};

fn std_probes() -> [String; 2] {
    ["std-probe-p1.wasm", "std-probe-p2.wasm"].map(|name| built(name).display().to_string())
}

#[test]
fn standard_library_programs_pass_bytes_and_arguments() {
    let place = Place::new();
    for guest in std_probes() {
        place.shorthand(&format!(":cat | {guest} upper | :cat")).input("text\n").done().code(0).prints("TEXT\n");
        place.shorthand(&format!("{guest} args 'a b' '' c")).done().code(0).prints("a b\n\nc\n");
        // Bytes still pending when `main` returns arrive.
        place.shorthand(&format!("{guest} late")).done().code(0).prints("no newline, no flush");
        let binary: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        place.shorthand(&format!("{guest} pass | {guest} pass")).input(binary.clone()).done().code(0).prints(binary);
    }
}

#[test]
fn preview1_exits_with_any_code() {
    let place = Place::new();
    for code in [0, 1, 3, 100, 255] {
        place.shorthand(&format!("{} exit {code}", std_probes()[0])).done().code(code).prints("");
    }
    // Only the low byte counts, as for any program: 256 is a good end.
    let run = place.shorthand(&format!("{} exit 256", std_probes()[0])).args(["--stdout", "out"]);
    run.done().code(0).is_quiet();
    assert_eq!(place.read("out"), "");
}

#[test]
fn a_preview2_standard_library_exits_with_0_or_1() {
    let place = Place::new();
    for (code, seen) in [(0, 0), (1, 1), (3, 1)] {
        place.shorthand(&format!("{} exit {code}", std_probes()[1])).done().code(seen).prints("");
    }
}

#[test]
fn sdk_stages_exit_with_any_code() {
    let place = Place::new();
    for code in [0, 1, 3, 100, 255] {
        place.shorthand(&format!("{} copy-exit {code}", probe())).input("x").done().code(code).prints("x");
    }
}

#[test]
fn an_asynchronous_stage_passes_and_exits() {
    let place = Place::new();
    let guest = built("async-probe.wasm");
    let text = "line\n".repeat(100_000);
    let run = place.shorthand(&format!(":cat | {} | :cat", guest.display()));
    run.input(text.clone()).done().code(0).prints(text);
    place.shorthand(&format!("{} 7", guest.display())).input("x").done().code(7).prints("x");
}

#[test]
fn a_stage_for_unknown_unknown_is_a_stage_too() {
    let place = Place::new();
    let guest = probe_unknown(&place).display().to_string();
    place.shorthand(&format!("{guest} lines | {guest}")).input("a\nb").done().code(0).prints("a\nb");
    place.shorthand(&format!("{guest} args x 'y z'")).done().code(0).prints("x\ny z\n");
    for code in [3, 255] {
        place.shorthand(&format!("{guest} exit {code}")).done().code(code).prints("");
    }
    let run = place.shorthand(&format!("{guest} panic 7"));
    run.done().code(134).says(&["bad record 7", "lib.rs"]);
    place.shorthand(&format!("{guest} error")).done().code(1).says(&["the outer error", "caused by: the inner cause"]);
}

#[test]
fn a_panic_of_the_standard_library_is_a_trap_with_its_text() {
    let place = Place::new();
    for guest in std_probes() {
        let run = place.shorthand(&format!("{guest} panic"));
        run.done().code(134).says(&["trapped: panicked at", "the program gave up"]);
    }
}

#[test]
fn nothing_of_the_host_is_seen_without_a_grant() {
    let place = Place::new();
    place.write("secret", "text");
    for guest in std_probes() {
        place.shorthand(&format!("{guest} env")).env("SECRET", "1").done().code(0).prints("");
        let read = place.shorthand(&format!("{guest} read {}", place.path("secret").display())).done().code(0);
        assert!(String::from_utf8_lossy(&read.stdout).starts_with("Err("), "{read}");
    }
    place.shorthand(&format!("{} env", probe())).env("SECRET", "1").done().code(0).prints("");
}

#[test]
fn the_environment_is_what_the_pipeline_says() {
    let place = Place::new();
    let pipeline = format!(
        r#"{{"version": 1, "env": {{"A": "1", "B": "2"}},
            "stages": [{{"wasm": "{}", "args": ["env"], "env": {{"B": null, "C": "3"}}}}]}}"#,
        probe()
    );
    place.write("p.json", pipeline);
    place.stagehost(["run", "p.json", "--env", "D=4"]).done().code(0).prints("A=1\nC=3\nD=4\n");
}
