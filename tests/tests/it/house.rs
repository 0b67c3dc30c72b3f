//! Rules of the house that no lint knows.

use std::{
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
        "host/src/cli/memory.rs",
        "host/src/cli/started.rs",
        "host/src/joint/descriptor.rs",
        "host/src/process/guard.rs",
        "host/src/process/spawn.rs",
        "host/src/process/usage.rs",
        "host/src/process/sessions.rs",
        "host/src/process/wall.rs",
        "host/src/process/wall/filters.rs",
        "host/src/sandbox/artifact.rs",
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
        let makes = text.contains(concat!("Store::", "new("));
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
        let inside = path.starts_with("host/src") && !path.starts_with("host/src/cli") && !path.ends_with("cli.rs");
        if inside && !path.ends_with("main.rs") {
            let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            for word in ["println!", "eprintln!", "std::env::var", "process::exit"] {
                assert!(!code.contains(word), "{} has {word}", path.display());
            }
        }
    }
}

#[test]
fn security_names_tests_that_exist() {
    let text = std::fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let sources: Vec<_> = sources().into_iter().filter(|(path, _)| path.starts_with("tests/tests")).collect();
    let mut named = 0;
    for name in text.split('`').filter(|name| name.contains("::")) {
        let Some((theme, function)) = name.split_once("::") else { continue };
        if !function.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()) || theme == "sandbox" {
            continue;
        }
        let is_there = |(path, text): &(std::path::PathBuf, String)| {
            path.file_stem().is_some_and(|stem| stem == theme) && text.contains(&format!("fn {function}("))
        };
        if theme.starts_with(char::is_uppercase) {
            continue;
        }
        assert!(sources.iter().any(is_there), "SECURITY.md names `{name}`, which is no test");
        named += 1;
    }
    assert!(named > 30, "{named}");
}
