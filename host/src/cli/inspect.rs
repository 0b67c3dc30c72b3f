//! `stagehost inspect`.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::anyhow;
use stagehost::{ExitCode, Inspection, NotAStage, Shape, spec::to_text, stock};

use super::{Failure, args::InspectArgs, render};

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
    let refused = stagehost::validate(&bytes).err();
    if args.json {
        let mut json = serde_json::to_value(&inspection).map_err(io::Error::other)?;
        json["refused"] = refused.map(|refused| refused.message).into();
        let json = serde_json::to_string_pretty(&json).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{json}")?;
    } else {
        write!(io::stdout(), "{}", render::safe(&text(&wasm, &inspection, refused.as_ref())))?;
    }
    Ok(0)
}

fn text(wasm: &str, inspection: &Inspection, refused: Option<&NotAStage>) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let shape = match inspection.shape {
        Shape::ComponentP3 => "a WASI 0.3 command component: the fast path",
        Shape::ComponentP2 => "a WASI 0.2 command component",
        Shape::ModuleP1 => "a preview1 command module",
    };
    let section = &inspection.section;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{wasm} is {shape}");
    if let Some(name) = &section.name {
        let _ = writeln!(text, "name: {name} {}", section.version.as_deref().unwrap_or_default());
    }
    if let Some(summary) = &section.summary {
        let _ = writeln!(text, "summary: {summary}");
    }
    for arg in &section.args {
        let _ = writeln!(text, "  {:14} {}", arg.name, arg.help);
    }
    if !section.ok_exit.is_empty() {
        let _ = writeln!(text, "exit codes that are no failure, besides 0: {:?}", section.ok_exit);
    }
    if !section.limits.is_empty() {
        let limits: Vec<_> = section.limits.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let _ = writeln!(text, "suggested limits: {}", limits.join(", "));
    }
    for asked in section.grants.lines() {
        let _ = writeln!(text, "asks for: {asked}");
    }
    for (what, names) in [("imports", &inspection.imports), ("exports", &inspection.exports)] {
        let _ = writeln!(text, "{what}:");
        for name in names {
            let missing = inspection.not_offered.iter().find(|missing| what == "imports" && missing.import == *name);
            let note = match missing.map(|missing| &missing.nearest) {
                None => String::new(),
                Some(None) => "  (not offered here)".into(),
                Some(Some(nearest)) => format!("  (not offered here; {nearest} is)"),
            };
            let _ = writeln!(text, "  {name}{note}");
        }
    }
    if let Some(refused) = refused {
        let _ = writeln!(text, "it cannot run here: {}", refused.message);
        if let Some(hint) = &refused.hint {
            let _ = writeln!(text, "  {hint}");
        }
    }
    text
}
