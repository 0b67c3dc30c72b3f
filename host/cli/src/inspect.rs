//! `stagehost inspect`.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::anyhow;
use stagehost::{ExitCode, Inspection, NotAStage, Shape, spec::to_text, stock};

use crate::{args::InspectArgs, failure::Failure, render::Lines};

pub(crate) fn inspect(args: &InspectArgs) -> Result<u8, Failure> {
    let wasm = to_text(&args.wasm);
    let bytes = match wasm.strip_prefix("builtin:") {
        Some(name) => match stock::find(name) {
            Some(stage) => stage.wasm.to_vec(),
            None => {
                let known = stock::STOCK.iter().map(|stage| stage.name).collect::<Vec<_>>().join(", ");
                return Err(Failure::new(ExitCode::NotFound, anyhow!("there is no stock stage {name:?}"))
                    .hint(Some(format!("there are: {known}"))));
            }
        },
        None => {
            let read = stagehost::read_component(Path::new(&args.wasm));
            read.map_err(|error| {
                let missing = error.kind() == io::ErrorKind::NotFound;
                let code = if missing { ExitCode::NotFound } else { ExitCode::Refused };
                Failure::new(code, anyhow::Error::from(error).context(wasm.clone()))
            })?
        }
    };
    let inspection = stagehost::inspect(&bytes).map_err(|refused| {
        let hint = refused.hint.clone();
        Failure::new(ExitCode::Refused, anyhow!("{wasm}: {refused}")).hint(hint)
    })?;
    let refused = stagehost::validate(&bytes, Some(PATIENCE)).err();
    if args.json {
        let mut json = serde_json::to_value(&inspection).map_err(io::Error::other)?;
        json["refused"] = refused.map(|refused| refused.message).into();
        let json = serde_json::to_string_pretty(&json).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{json}")?;
    } else {
        write!(io::stdout(), "{}", text(&wasm, &inspection, refused.as_ref()))?;
    }
    Ok(0)
}

/// How long checking a file may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn text(wasm: &str, inspection: &Inspection, refused: Option<&NotAStage>) -> String {
    let mut text = Lines::default();
    let shape = match inspection.shape {
        Shape::ComponentP3 => "a WASI 0.3 command component: the fast path",
        Shape::ComponentP2 => "a WASI 0.2 command component",
        Shape::ModuleP1 => "a preview1 command module",
    };
    let section = &inspection.section;
    text.add(format_args!("{wasm} is {shape}"));
    if let Some(name) = &section.name {
        text.add(format_args!("name: {name} {}", section.version.as_deref().unwrap_or_default()));
    }
    if let Some(summary) = &section.summary {
        text.add(format_args!("summary: {summary}"));
    }
    for arg in &section.args {
        text.add(format_args!("  {:14} {}", arg.name, arg.help));
    }
    if !section.ok_exit.is_empty() {
        text.add(format_args!("exit codes that are no failure, besides 0: {:?}", section.ok_exit));
    }
    if !section.limits.is_empty() {
        let limits: Vec<_> = section.limits.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        text.add(format_args!("suggested limits: {}", limits.join(", ")));
    }
    for asked in section.grants.lines() {
        text.add(format_args!("asks for: {asked}"));
    }
    for (what, names) in [("imports", &inspection.imports), ("exports", &inspection.exports)] {
        text.add(format_args!("{what}:"));
        for name in names {
            let missing = inspection.not_offered.iter().find(|missing| what == "imports" && missing.import == *name);
            let note = match missing.map(|missing| &missing.nearest) {
                None => String::new(),
                Some(None) => "  (not offered here)".into(),
                Some(Some(nearest)) => format!("  (not offered here; {nearest} is)"),
            };
            text.add(format_args!("  {name}{note}"));
        }
    }
    if let Some(refused) = refused {
        text.add(format_args!("it cannot run here: {}", refused.message));
        if let Some(hint) = &refused.hint {
            text.add(format_args!("  {hint}"));
        }
    }
    text.0
}
