//! `stagehost check` and `stagehost plan`.

use std::io::{self, Write};

use stagehost::{PlanSummary, spec::Size};

use super::{
    Failure,
    args::{PipelineArgs, PlanArgs},
    load, render,
};

pub(crate) fn check(args: &PipelineArgs) -> Result<u8, Failure> {
    let planned = load::plan(args)?;
    let summary = planned.plan.summary();
    let stages = summary.stages.len();
    writeln!(io::stdout(), "good: {stages} stage{}", if stages == 1 { "" } else { "s" })?;
    Ok(0)
}

pub(crate) fn plan(args: &PlanArgs) -> Result<u8, Failure> {
    let summary = load::plan(&args.pipeline)?.plan.summary();
    if args.json {
        let json = serde_json::to_string_pretty(&summary).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{json}")?;
    } else {
        write!(io::stdout(), "{}", render::safe(&text(&summary)))?;
    }
    Ok(0)
}

fn text(plan: &PlanSummary) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "no limit".to_owned(), |bytes| Size(bytes).to_string());
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", plan.stdin);
    for stage in &plan.stages {
        let _ = writeln!(text, "  │");
        let shape = match stage.shape {
            stagehost::Shape::ComponentP3 => "WASI 0.3 component",
            stagehost::Shape::ComponentP2 => "WASI 0.2 component",
            stagehost::Shape::ModuleP1 => "preview1 module",
        };
        let _ = writeln!(text, "{}: {} ({shape}, sha256 {}…)", stage.name, stage.wasm, &stage.sha256[..12]);
        if !stage.args.get(1..).unwrap_or_default().is_empty() {
            let _ = writeln!(text, "  args: {:?}", &stage.args[1..]);
        }
        if !stage.env.is_empty() {
            let _ = writeln!(text, "  env: {}", stage.env.keys().cloned().collect::<Vec<_>>().join(", "));
        }
        let _ = writeln!(text, "  memory: {}; ok exit codes: {}", size(stage.memory_bytes), codes(&stage.ok_exit));
        if let Some(ring) = stage.ring_bytes {
            let _ = writeln!(text, "  │ ring of {}", Size(ring));
        }
    }
    let _ = writeln!(text, "  │\n{}", plan.stdout);
    if let Some(timeout) = plan.timeout_ms {
        let _ = writeln!(text, "timeout: {timeout} ms");
    }
    let _ = writeln!(
        text,
        "worst-case memory: {} ({} of it the host's allowance for each stage)",
        size(plan.worst_case_memory_bytes),
        Size(plan.host_allowance_bytes)
    );
    text
}

fn codes(codes: &[u8]) -> String {
    std::iter::once("0".to_owned()).chain(codes.iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ")
}
