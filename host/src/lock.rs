//! What a pipeline's components were when they were last looked at: a file beside the pipeline.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Plan, Requests,
    plan::Work,
    shown,
    spec::{SpecError, to_text},
};

/// The name of the file.
pub const LOCK_FILE: &str = "stagehost.lock";

/// The components of pipelines: what each was, imported and asked for. Stock stages are part of this program and not in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Lock {
    /// The version of the file's format: 1.
    pub version: u32,
    /// The components by their paths, relative to the lock's directory where they are below it.
    pub components: BTreeMap<String, LockedComponent>,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LockedComponent {
    /// The file's digest, SHA-256 in hexadecimal.
    pub sha256: String,
    /// What it imports.
    pub imports: Vec<String>,
    /// The rights that it asks for.
    pub grants: Requests,
}

impl Default for Lock {
    fn default() -> Self {
        Self { version: 1, components: BTreeMap::new() }
    }
}

impl Lock {
    /// The lock of a plan's components, for a file in `directory`.
    pub fn of(plan: &Plan, directory: &Path) -> Self {
        let mut lock = Self::default();
        for stage in &plan.0.stages {
            if let Work::Wasm(wasm) = &stage.work
                && let Some(path) = &wasm.path
            {
                let component = LockedComponent {
                    sha256: crate::digest::hex(&wasm.digest),
                    imports: wasm.inspection.imports.clone(),
                    grants: wasm.inspection.section.grants.clone(),
                };
                lock.components.insert(name_of(path, directory), component);
            }
        }
        lock
    }

    /// Reads a lock's text.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, SpecError> {
        let lock: Self = crate::spec::read_json(text)?;
        if lock.version != 1 {
            return Err(SpecError::new("version", format!("version {} is not known", lock.version)));
        }
        Ok(lock)
    }

    /// The lock as text.
    pub fn text(&self) -> String {
        // It has string keys only.
        serde_json::to_string_pretty(self).map(|text| text + "\n").unwrap_or_default()
    }

    /// Takes over what another lock says, of pipelines in the same directory.
    pub fn update(&mut self, other: Self) {
        self.components.extend(other.components);
    }

    /// The components that another lock has and this one has not, with the beginnings of their digests.
    pub fn added<'a>(&self, now: &'a Self) -> Vec<(&'a str, &'a str)> {
        let new = now.components.iter().filter(|(path, _)| !self.components.contains_key(*path));
        new.map(|(path, component)| (path.as_str(), short(&component.sha256))).collect()
    }

    /// What has changed since this lock was written, for people; `None`: nothing. Components that are new are not among it.
    pub fn changes(&self, now: &Self) -> Option<String> {
        let mut known = now.clone();
        known.components.retain(|path, _| self.components.contains_key(path));
        self.difference(&known)
    }

    /// What has changed since this lock was written, for people; `None`: nothing.
    pub fn difference(&self, now: &Self) -> Option<String> {
        let mut text = String::new();
        for (path, component) in &now.components {
            let Some(locked) = self.components.get(path) else {
                add(&mut text, format_args!("{path}: not in the lock"));
                continue;
            };
            if locked.sha256 != component.sha256 {
                let (before, now) = (short(&locked.sha256), short(&component.sha256));
                add(&mut text, format_args!("{path}: sha256 {before} → {now}"));
            }
            let list = |imports: &[String]| imports.iter().cloned().collect();
            changes(&mut text, path, "import", &list(&locked.imports), &list(&component.imports));
            let asked = |grants: &Requests| grants.lines().into_iter().collect();
            changes(&mut text, path, "asks for", &asked(&locked.grants), &asked(&component.grants));
        }
        (!text.is_empty()).then_some(text)
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Adds a line for people.
fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&shown::line(&line.to_string()));
    text.push('\n');
}

fn changes(
    text: &mut String,
    path: &str,
    what: &str,
    before: &std::collections::BTreeSet<String>,
    now: &std::collections::BTreeSet<String>,
) {
    for (sign, items) in [("+", now.difference(before)), ("-", before.difference(now))] {
        for item in items {
            add(text, format_args!("{path}: {sign} {what} {item}"));
        }
    }
}

/// A component's path as the pipeline names it, relative to the lock's directory where it is below it: wherever links lead.
fn name_of(path: &Path, directory: &Path) -> String {
    let whole = |path: &Path| -> PathBuf {
        let path = if path == Path::new("") { Path::new(".") } else { path };
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut plain = PathBuf::new();
        for part in path.components() {
            match part {
                Component::ParentDir => drop(plain.pop()),
                Component::CurDir => {}
                part => plain.push(part),
            }
        }
        plain
    };
    let path = whole(path);
    to_text(path.strip_prefix(whole(directory)).unwrap_or(&path))
}
