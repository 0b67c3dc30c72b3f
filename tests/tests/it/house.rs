//! Rules of the house that no lint knows.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use stagehost_tests::repository;

/// Every Rust source file of the repository.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, found);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(repository()).unwrap().to_owned(), text));
            }
        }
    }
    let mut found = Vec::new();
    walk(repository(), &mut found);
    assert!(found.len() > 40, "the walk found the sources");
    found
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} has no `//!`", path.display());
    }
}

#[test]
fn unsafe_stays_in_its_places() {
    let allowed = [
        "host/ring/src/shared.rs",
        "host/ring/src/sync.rs",
        "host/ring/src/writer.rs",
        "host/ring/src/reader.rs",
        "host/cli/src/memory.rs",
        "host/cli/src/started.rs",
        "host/src/joint/descriptor.rs",
        "host/src/process/guard.rs",
        "host/src/process/signals.rs",
        "host/src/process/spawn.rs",
        "host/src/process/usage.rs",
        "host/src/process/sessions.rs",
        "host/src/process/wall.rs",
        "host/src/process/wall/filters.rs",
        "host/src/sandbox/code/artifact.rs",
        "host/src/sandbox/stacks.rs",
        "guest-sdk/src/raw.rs",
        "tests/guests/probe/src/lib.rs",
    ];
    for (path, text) in sources() {
        let path = path.display().to_string();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found =
            code.filter(|line| line.contains("unsafe ") && !line.contains("#[unsafe(") && !line.contains("\"")).count();
        assert!(found == 0 || allowed.contains(&path.as_str()), "{path} has `unsafe`");
    }
}

#[test]
fn one_function_makes_a_store() {
    for (path, text) in sources() {
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let makes = product.contains(concat!("Store::", "new("));
        assert_eq!(makes, path.ends_with("host/src/sandbox/store.rs"), "{}", path.display());
    }
}

#[test]
fn one_file_spawns_processes() {
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("host/src")) {
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let spawns = product.contains(concat!("libc::", "clone(")) || product.contains(concat!("Command::", "new("));
        assert_eq!(spawns, path.ends_with("process/spawn.rs"), "{}", path.display());
    }
}

#[test]
fn files_stay_readable() {
    for (path, text) in sources().into_iter().filter(|(path, _)| path.iter().any(|part| part == "src")) {
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines; which second question crept in?", path.display());
    }
}

/// What the README shows between a line that starts with `fence` and the fence's end.
fn shown(readme: &str, fence: &str) -> String {
    let (_, rest) = readme.split_once(fence).unwrap();
    rest.split_once("```").unwrap().0.trim_start_matches('\n').to_owned()
}

#[test]
fn the_readme_shows_its_examples_real_output() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let place = stagehost_tests::Place::new();
    let run = place.stagehost(["run"]).arg(repository().join("examples/top-words.json")).input(readme.clone());
    run.done().code(0).prints(shown(&readme, "```text"));
    place.write("p.json", shown(&readme, "```json"));
    place.stagehost(["run", "p.json"]).input(readme.clone()).done().code(0).prints(shown(&readme, "```text"));
}

#[test]
fn every_flag_the_readme_names_exists() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let place = stagehost_tests::Place::new();
    let help = place.stagehost(["run", "--help"]).done().code(0);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for flag in ["--stdin", "--stdout", "--report", "--report-fd"] {
        assert!(readme.contains(flag) && help.contains(flag), "{flag}");
    }
}

#[test]
fn every_theme_is_in_the_test_binary() {
    let main = include_str!("main.rs");
    for entry in fs::read_dir(repository().join("tests/tests/it")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.is_file() && name != "main" {
            assert!(main.contains(&format!("mod {name};")), "{name}.rs is not in main.rs");
        }
    }
}

#[test]
fn only_the_command_line_prints_reads_the_environment_or_exits() {
    for (path, text) in sources() {
        let inside = path.starts_with("host/src");
        if inside {
            let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            for word in ["println!", "eprintln!", "std::env::var", "process::exit"] {
                assert!(!code.contains(word), "{} has {word}", path.display());
            }
        }
    }
}

/// Whether a source has a test of that name that runs: not one that is ignored, or any other function.
fn has_test(text: &str, function: &str) -> bool {
    let Some((before, _)) = text.split_once(&format!("fn {function}(")) else { return false };
    let around: Vec<_> =
        before.trim_end().lines().rev().map(str::trim).take_while(|line| !line.is_empty() && *line != "}").collect();
    around.contains(&"#[test]") && !around.iter().any(|line| line.starts_with("#[ignore") || line.starts_with("#[cfg"))
}

/// Whether there is a test of that path: `theme::name`, or `a::module::tests::name` for a unit test of the host's.
fn is_test(sources: &[(PathBuf, String)], name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").unwrap();
    // A test of the host's own, beside what it tests or in a file of its own; or one of a theme.
    let unit = module.strip_suffix("::tests").map(|module| format!("host/src/{}", module.replace("::", "/")));
    sources.iter().any(|(path, text)| {
        let path = path.with_extension("").display().to_string();
        let is_meant = match &unit {
            Some(unit) => path == *unit || path == format!("{unit}/tests"),
            None => {
                let module = module.replace("::", "/");
                let is_file = |end: &str| path.ends_with(&format!("/{module}{end}"));
                path.starts_with("tests/tests/") && (is_file("") || is_file("/main"))
            }
        };
        is_meant && has_test(text, function)
    })
}

#[test]
fn security_names_tests_and_mutants_that_exist() {
    let text = fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let sources = sources();
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut named = Vec::new();
    for name in text.split('`').filter(|name| name.contains("::")) {
        if !name.split("::").all(|part| !part.is_empty() && part.chars().all(is_word)) {
            continue;
        }
        assert!(is_test(&sources, name), "SECURITY.md names `{name}`, which is no test that runs");
        named.push(name);
    }
    assert!(named.len() > 60, "{}", named.len());

    let known: BTreeSet<_> = text.split('`').filter_map(|name| name.strip_prefix('~').map(str::to_owned)).collect();
    let mut there = BTreeSet::from(["name".to_owned()]);
    for entry in fs::read_dir(repository().join("tests/mutants")).unwrap() {
        let path = entry.unwrap().path();
        let patch = fs::read_to_string(&path).unwrap();
        let tests: Vec<_> = patch.lines().filter_map(|line| line.strip_prefix("Test: ")).collect();
        assert!(!tests.is_empty(), "{} names no test", path.display());
        for test in tests {
            let (target, name) = test.split_once(' ').unwrap();
            let name =
                if matches!(target, "it" | "lib" | "parity") { name.to_owned() } else { format!("{target}::{name}") };
            assert!(is_test(&sources, &name), "{} names {test}, which is no test that runs", path.display());
            // Whoever reads of the mutant finds the test beside it.
            assert!(named.contains(&name.as_str()), "SECURITY.md does not name {name}");
        }
        there.insert(path.file_stem().unwrap().to_string_lossy().into_owned());
    }
    assert_eq!(known, there, "the mutants that SECURITY.md names, and those that there are");
}

/// The tests that are named are those of the command that the README names: all of the workspace, none left out.
#[test]
fn the_default_test_command_runs_all_tests() {
    let script = fs::read_to_string(repository().join("scripts/test.sh")).unwrap();
    assert!(script.contains("cargo test --release --locked --workspace \"$@\""), "{script}");
    for manifest in ["Cargo.toml", "host/Cargo.toml", "host/ring/Cargo.toml", "tests/Cargo.toml"] {
        let text = fs::read_to_string(repository().join(manifest)).unwrap();
        for word in ["autotests", "[[test]]", "test = false"] {
            assert!(!text.contains(word), "{manifest} has {word}");
        }
    }
    for (path, text) in sources() {
        let ignores = text.lines().any(|line| line.trim().starts_with(concat!("#[", "ignore")));
        assert!(!ignores, "{} has a test that is ignored", path.display());
    }
}
