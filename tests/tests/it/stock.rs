//! The stock stages do what the Unix tools of their names do, with any bytes.

use std::fs;

use sha2::{Digest, Sha256};
use stagehost_tests::{Place, guests::stock_directory, repository};

/// Runs stages and a shell pipeline over the same input and compares their outputs.
fn same(stages: &str, shell: &str, input: &[u8]) {
    let place = Place::new();
    place.write("in", input);
    let expected = place.shell(&format!("({shell}) < in")).done();
    let output = place.shorthand(stages).args(["--stdin", "in"]).done();
    assert_eq!(output.stdout, expected.stdout, "{stages} against {shell}\n{output}");
    assert_eq!(output.status.code(), expected.status.code(), "{stages} against {shell}\n{output}");
}

fn binary() -> Vec<u8> {
    // Bytes of every value, with line breaks and letters often enough to matter.
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..200_000)
        .map(|_| match next() {
            0..20 => b'\n',
            20..120 => b'a' + next() % 26,
            byte => byte,
        })
        .collect()
}

#[test]
fn they_agree_with_the_tools() {
    let text = fs::read(repository().join("README.md")).unwrap();
    for input in [&text[..], b"", b"one", b"\n\n", &binary()] {
        same(":cat", "cat", input);
        same(":head -n 3", "head -n 3", input);
        same(":head -c 1000", "head -c 1000", input);
        same(":head -5", "head -5", input);
        same(":head -n 1k", "head -n 1k", input);
        same(":head -c 2kB", "head -c 2kB", input);
        same(":lower", "tr A-Z a-z", input);
        same(":wc -l", "wc -l", input);
        same(":wc -c", "wc -c", input);
        same(":grep -F the", "grep -a -F the", input);
        same(":grep -v e", "grep -a -v e", input);
        same(":grep -c -i T", "grep -a -c -i T", input);
        same(":words", "tr -cs A-Za-z '\\n' | grep -a .; true", input);
    }
    // In the C locale `wc` takes only printable ASCII for words; ours takes any byte that is no white space.
    let ascii: Vec<u8> = text.iter().copied().filter(u8::is_ascii).collect();
    same(":wc", "cat | wc", &ascii);
    same(":grep -o '[a-z]*ing'", "grep -a -o '[a-z]*ing'", &text);
    same(":replace -F the THE", "sed s/the/THE/g", &text);
    same(":replace '(s)(t)' '$2$1'", "sed -E 's/(s)(t)/\\2\\1/g'", &text);
}

#[test]
fn the_example_counts_words_as_the_shell_does() {
    let place = Place::new();
    let example = repository().join("examples/top-words.json");
    let text = fs::read(repository().join("README.md")).unwrap();
    place.write("in", text);
    // Ties are in byte order; the shell's second key does the same.
    let shell = "tr -cs A-Za-z '\\n' < in | tr A-Z a-z | grep . | sort | uniq -c | sort -k1,1nr -k2,2 | head";
    let expected = place.shell(shell).done().code(0);
    let output = place.stagehost(["run"]).arg(example).args(["--stdin", "in"]).done();
    output.code(0).prints(expected.stdout);
}

#[test]
fn wrong_arguments_are_told() {
    let place = Place::new();
    place.shorthand(":grep").done().code(2).says(&["grep: a pattern is missing"]);
    place.shorthand(":grep '('").done().code(2).says(&["grep: regex parse error"]);
    place.shorthand(":head --x").done().code(2).says(&["--x"]);
    place.shorthand(":head -n x").done().code(2).says(&["cannot parse"]);
    place.shorthand(":replace '(a)(p)' '$2x$1'").done().code(2).says(&["replace: ", "no group \"2x\"", "write ${2}x"]);
    place.shorthand(":replace '(a)(p)' '${2}x$1'").input("ap").done().code(0).prints("pxa");
    place.shorthand(":cat x").done().code(2).says(&["cat: it takes no arguments"]);
    place.shorthand(":head -n -5").done().code(2).says(&["head: ", "not supported", "the program `head` has it"]);
    place.shorthand(":replace a").done().code(2).says(&["two arguments are needed"]);
}

/// The digest of everything that goes into a stock stage, as `scripts/build-guests.sh` takes it.
fn source_digest(stage: &str) -> String {
    let script = format!(
        "find stages/{stage} stages/small_memory.rs guest-sdk/src guest-sdk/wit guest-sdk/Cargo.toml -type f -print0 | \
         LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1"
    );
    let place = Place::new();
    let run = place.shell(&format!("cd '{}' && {script}", repository().display()));
    String::from_utf8(run.done().code(0).stdout).unwrap().trim().to_owned()
}

#[test]
fn built_stages_are_what_their_sources_say() {
    let manifest = fs::read_to_string(stock_directory().join("built/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let stages = manifest["stages"].as_object().unwrap();
    for stage in stagehost::stock::STOCK {
        let entry = &stages[stage.name];
        let component: String = Sha256::digest(stage.wasm).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(entry["component"], component, "{} is not what the manifest says", stage.name);
        let sources = source_digest(stage.name);
        assert_eq!(entry["sources"], sources, "{} is stale; run scripts/build-guests.sh stock", stage.name);
    }
    assert_eq!(stages.len(), stagehost::stock::STOCK.len());
}

#[test]
fn every_stage_says_what_it_is() {
    let place = Place::new();
    for stage in stagehost::stock::STOCK {
        let help = place.shorthand(&format!(":{} --help", stage.name)).args(["--stdin", "null"]).done().code(0);
        let text = help.stdout_text();
        assert!(text.starts_with(&format!("usage: {}", stage.name)), "{text}");
        for arg in stagehost::inspect(stage.wasm).unwrap().section.args {
            assert!(text.contains(&arg.name) && text.contains(&arg.help), "{} is not in\n{text}", arg.name);
        }
        let inspection = stagehost::inspect(stage.wasm).unwrap();
        assert_eq!(inspection.section.name.as_deref(), Some(stage.name));
        assert!(inspection.section.summary.is_some());
        assert_eq!(inspection.shape, stagehost::Shape::ComponentP3);
    }
}
