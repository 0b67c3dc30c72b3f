//! The fuzzer's targets and two more that need the sandbox, driven from generated input: pipeline files, components, loading
//! components, and whole small pipelines against what they should print.
#![expect(clippy::unwrap_used, reason = "a test's helpers are part of the test")]

mod api {
    pub(crate) use stagehost::{
        inspect,
        spec::{parse, shorthand},
    };
}
#[path = "../../host/fuzz/targets.rs"]
mod targets;

use std::{fs, sync::OnceLock};

use proptest::prelude::*;
use stagehost::{Ends, Host, HostOptions, Pipeline, Plan, PlanOptions, Policy, RunOptions, Stage, StageExit, spec};
use stagehost_tests::{Place, hostile, repository};

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let cache = std::path::absolute(env!("CARGO_TARGET_TMPDIR")).unwrap().join("generated-cache");
        Host::new(&HostOptions::new().threads(2).cache(cache)).unwrap()
    })
}

/// Bytes with some of them changed, cut out or doubled.
fn damaged(whole: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0..4_u8, any::<u8>(), 1..64_usize);
    prop::collection::vec(edit, 1..8).prop_map(move |edits| {
        let mut bytes = whole.clone();
        for (at, kind, byte, length) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.drain(at..end)),
                2 => bytes.truncate(at),
                _ => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    })
}

/// Words that pipeline files are made of, in any order.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"version\"",
        "1",
        "\"stages\"",
        "\"wasm\"",
        "\"builtin:cat\"",
        "\"command\"",
        "\"limits\"",
        "\"memory\"",
        "\"64MiB\"",
        "\"none\"",
        "null",
        "\"grants\"",
        "\"dirs\"",
        "\"net\"",
        "\"a:1\"",
        "\"clock\"",
        "\"frozen\"",
        "\"2026-01-01T00:00:00Z\"",
        "\"stdin\"",
        "\"text\"",
        "\"env\"",
        "\"sandbox\"",
        "\"strict\"",
        "-1",
        "1e9",
        "\"$${x\"",
        ":cat |",
    ];
    let word = prop::sample::select(words.to_vec());
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pipeline_file_is_read_or_refused(text in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        texts(),
        damaged(fs::read(repository().join("examples/top-words.json")).unwrap()),
        damaged(fs::read(repository().join("examples/mixed.json")).unwrap()),
    ]) {
        targets::pipeline_file(&text);
    }

    #[test]
    fn any_component_is_looked_at_or_refused(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        damaged(fs::read(repository().join("stages/built/head.wasm")).unwrap()),
    ]) {
        targets::component(&bytes);
    }
}

/// Small guests of all generations, to be damaged.
fn small_guests() -> Vec<Vec<u8>> {
    let small = |guest: &hostile::Hostile| guest.wasm.len() < 4_000 && guest.alone != "refused";
    hostile::all().into_iter().filter(small).map(|guest| guest.wasm).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_damaged_guest_ends(bytes in prop::sample::select(small_guests()).prop_flat_map(damaged)) {
        let place = Place::new();
        let wasm = place.write("guest.wasm", &bytes).display().to_string();
        let json = format!(
            r#"{{"version": 1, "timeout": "60s", "stdin": {{"text": "some input\n"}}, "stdout": "null", "stages": [{{"wasm": "{wasm}",
                "limits": {{"cpu_time": "20ms", "stall_time": "40ms", "memory": "16MiB", "output_bytes": "1MiB",
                            "stderr_bytes": "1MiB"}}}}]}}"#
        );
        let spec = spec::parse(json.as_bytes()).unwrap();
        // Most are refused; those that run end in some way that is theirs.
        if let Ok(plan) = Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all())) {
            let outcome = host().run(&plan, Ends::new(), &RunOptions::default());
            let exit = &outcome.stages[0].exit;
            prop_assert!(!matches!(exit, StageExit::HostError { .. } | StageExit::Cancelled), "{outcome:?}");
        }
    }

    #[test]
    fn any_small_pipeline_prints_what_it_should(
        input in prop::collection::vec(prop_oneof!["[a-cA-C ]{0,12}", "[ -~]{0,40}"], 0..60),
        steps in prop::collection::vec((0..5_u8, 0..5_usize), 0..5),
        buffer in prop::sample::select(vec![4096_u64, 65_536]),
    ) {
        let mut text: Vec<u8> = input.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect();
        let mut builder = Pipeline::builder(Policy::allow_all()).stdin_bytes(text.clone());
        for (kind, number) in steps {
            let stage = match kind {
                0 => Stage::wasm("builtin:cat"),
                1 => {
                    text.make_ascii_lowercase();
                    Stage::wasm("builtin:lower")
                }
                2 => {
                    let lines = text.split_inclusive(|byte| *byte == b'\n').take(number);
                    text = lines.collect::<Vec<_>>().concat();
                    Stage::wasm("builtin:head").args(["-n".to_owned(), number.to_string()])
                }
                3 => {
                    let letter = char::from(b'a' + u8::try_from(number).unwrap());
                    let has = |line: &&[u8]| line.contains(&(letter as u8));
                    text = text.split_inclusive(|byte| *byte == b'\n').filter(has).collect::<Vec<_>>().concat();
                    Stage::wasm("builtin:grep").args([letter.to_string()]).ok_exit([1])
                }
                _ => Stage::command(["cat"]),
            };
            builder = builder.stage(stage.buffer(buffer));
        }
        let pipeline = builder.environment(std::env::vars_os()).build().unwrap();
        let (outcome, output) = pipeline.output(host(), 1 << 20).wait();
        prop_assert!(outcome.success, "{outcome:?}");
        prop_assert_eq!(String::from_utf8_lossy(&output), String::from_utf8_lossy(&text));
    }
}
