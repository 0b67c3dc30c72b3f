//! `stagehost stages` and `stagehost schema`.

use std::io::{self, Write};

use stagehost::{Policy, inspect, spec, stock};

use crate::failure::Failure;

pub(crate) fn stages() -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    for stage in stock::STOCK {
        let section = inspect(stage.wasm).map(|inspection| inspection.section).unwrap_or_default();
        writeln!(out, "{:8} {}", stage.name, section.summary.unwrap_or_default())?;
        for arg in section.args {
            writeln!(out, "           {:12} {}", arg.name, arg.help)?;
        }
    }
    Ok(0)
}

pub(crate) fn schema(of: &str) -> Result<u8, Failure> {
    let schema = if of == "policy" { Policy::json_schema() } else { spec::schema() };
    let json = serde_json::to_string_pretty(&schema).map_err(io::Error::other)?;
    writeln!(io::stdout(), "{json}")?;
    Ok(0)
}
