//! `stagehost check` and `stagehost plan`.

use std::io::{self, Write};

use stagehost::{
    ExitCode, JointKind, PlanSummary, StageSummary,
    spec::{OnTrap, Sandboxing, Size},
};

use super::{
    Failure,
    args::{CheckArgs, PlanArgs},
    load, render,
};

pub(crate) fn check(args: &CheckArgs) -> Result<u8, Failure> {
    let (stages, wrong) = load::check(&args.pipeline)?;
    if args.json {
        let error = |wrong: &load::Wrong| {
            serde_json::json!({ "place": wrong.place, "message": wrong.message, "hint": wrong.hint, "exit_code": wrong.exit_code,
            "code": wrong.code, "path": wrong.path })
        };
        let errors: Vec<_> = wrong.iter().map(error).collect();
        let json = serde_json::json!({ "good": wrong.is_empty(), "stages": stages, "errors": errors });
        let json = serde_json::to_string_pretty(&json).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{json}")?;
    } else if wrong.is_empty() {
        let stages = stages.unwrap_or_default();
        writeln!(io::stdout(), "good: {stages} stage{}", if stages == 1 { "" } else { "s" })?;
    } else {
        for wrong in &wrong {
            render::failure(&wrong.failure());
        }
        if wrong.len() > 1 {
            render::failure(&Failure::new(ExitCode::BadPipeline, anyhow::anyhow!("{} errors", wrong.len())));
        }
    }
    Ok(wrong.first().map_or(0, |wrong| wrong.exit_code))
}

pub(crate) fn plan(args: &PlanArgs) -> Result<u8, Failure> {
    let plan = load::plan(&args.pipeline)?;
    plan.validate().map_err(load::refused)?;
    let summary = plan.summary();
    if args.json {
        let json = serde_json::to_string_pretty(&summary).map_err(io::Error::other)?;
        writeln!(io::stdout(), "{json}")?;
    } else {
        write!(io::stdout(), "{}", render::safe(&text(&summary, args.verbose)))?;
    }
    Ok(0)
}

fn text(plan: &PlanSummary, all: bool) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", plan.stdin);
    for stage in &plan.stages {
        let _ = writeln!(text, "  │\n{}", runs(stage));
        if !stage.args.is_empty() {
            let _ = writeln!(text, "  args: {:?}", stage.args);
        }
        if !stage.env.is_empty() {
            let _ = writeln!(text, "  env: {}", stage.env.keys().cloned().collect::<Vec<_>>().join(", "));
        }
        if let Some(dir) = &stage.dir {
            let _ = writeln!(text, "  dir: {dir}");
        }
        let shown = limits(stage, all);
        if !shown.is_empty() {
            let _ = writeln!(text, "  {shown}");
        }
        if all || !stage.ok_exit.is_empty() {
            let _ = writeln!(text, "  ok exit codes: {}", codes(&stage.ok_exit));
        }
        if !stage.suggested.is_empty() {
            let _ = writeln!(
                text,
                "  suggests more than the defaults: {} (say so in `limits` to give it)",
                stage.suggested.join("; ")
            );
        }
        rights(stage, all, &mut text);
        if let Some(joint) = stage.joint {
            let kind = match joint.kind {
                JointKind::Ring => "ring",
                JointKind::Pipe => "pipe",
            };
            let _ = writeln!(text, "  │ {kind} of {}", Size(joint.bytes));
        }
    }
    let _ = writeln!(text, "  │\n{}", plan.stdout);
    if let Some(timeout) = plan.timeout_ms {
        let _ = writeln!(text, "timeout: {timeout} ms");
    }
    let worst = plan.worst_case_memory_bytes.map_or_else(|| "no limit".to_owned(), |bytes| Size(bytes).to_string());
    let _ = write!(text, "worst-case memory: {worst}");
    let allowances: u64 = plan.stages.iter().filter_map(|stage| stage.limits.host_allowance_bytes).sum();
    if allowances > 0 {
        let _ = write!(text, " ({} of it what the host may hold for sandboxed stages)", Size(allowances));
    }
    text.push('\n');
    text
}

/// What a stage may reach.
fn rights(stage: &StageSummary, all: bool, text: &mut String) {
    use std::fmt::Write;
    // Writing to a string cannot fail.
    let _ = match (stage.kind, stage.sandbox, stage.grants.is_empty()) {
        ("wasm", _, true) if !all => Ok(()),
        ("command", None, _) if !all => Ok(()),
        ("wasm", _, true) => writeln!(text, "  grants: none"),
        ("command", None, _) => writeln!(text, "  grants: every right of whoever runs this (no sandbox)"),
        ("command", Some(mode), _) => {
            let mode = if mode == Sandboxing::Strict { "strict" } else { "best-effort" };
            let lacks = stage.sandbox_lacks.iter().map(|lack| format!("; {lack}")).collect::<String>();
            let grants = stage.grants.iter().map(|grant| format!("; {grant}")).collect::<String>();
            writeln!(text, "  sandbox: {mode}: programs and libraries of the system{grants}{lacks}")
        }
        ("function", ..) => Ok(()),
        _ => writeln!(text, "  grants: {}", stage.grants.join("; ")),
    };
    if !stage.asks.is_empty() {
        let _ = writeln!(text, "  asks for, and is not granted: {}", stage.asks.join("; "));
    }
    if let Some(clock) = &stage.clock {
        let _ = writeln!(text, "  clock: {clock}");
    }
    if let Some(random) = &stage.random {
        let _ = writeln!(text, "  random numbers: {random}");
    }
    if stage.on_trap == OnTrap::Finish {
        let _ = writeln!(text, "  on a trap: what was written stands");
    }
}

/// What a stage is, in a line.
fn runs(stage: &StageSummary) -> String {
    let shape = stage.shape.map(|shape| match shape {
        stagehost::Shape::ComponentP3 => "WASI 0.3 component",
        stagehost::Shape::ComponentP2 => "WASI 0.2 component",
        stagehost::Shape::ModuleP1 => "preview1 module",
    });
    match (shape, &stage.sha256) {
        (Some(shape), Some(sha256)) => format!("{}: {} ({shape}, sha256 {}…)", stage.name, stage.runs, &sha256[..12]),
        _ => format!("{}: {} ({})", stage.name, stage.runs, stage.kind),
    }
}

fn limits(stage: &StageSummary, all: bool) -> String {
    let limits = &stage.limits;
    let is_shown = |shown: &String| {
        let name = shown.split_once(':').map_or("", |(name, _)| name);
        all || stage.limits_set.iter().any(|set| set == name)
    };
    let size = |name: &str, bytes: Option<u64>| bytes.map(|bytes| format!("{name}: {}", Size(bytes)));
    let time = |name: &str, ms: Option<u64>| ms.map(|ms| format!("{name}: {ms} ms"));
    let count = |name: &str, count: Option<u64>| count.map(|count| format!("{name}: {count}"));
    let memory = size("memory", limits.memory_bytes).unwrap_or_else(|| "memory: no limit".into());
    [
        Some(memory),
        size("stack", limits.stack_bytes),
        time("cpu_time", limits.cpu_time_ms),
        time("wall_time", limits.wall_time_ms),
        time("stall_time", limits.stall_time_ms),
        count("fuel", limits.fuel),
        size("input_bytes", limits.input_bytes),
        size("output_bytes", limits.output_bytes),
        size("stderr_bytes", limits.stderr_bytes),
        count("handles", limits.handles),
        count("instances", limits.instances),
        size("component_size", limits.component_size_bytes),
        time("compile_time", limits.compile_time_ms),
        size("compile_memory", limits.compile_memory_bytes),
        count("processes", limits.processes),
        count("open_files", limits.open_files),
        size("file_size", limits.file_size_bytes),
    ]
    .into_iter()
    .flatten()
    .filter(is_shown)
    .collect::<Vec<_>>()
    .join("; ")
}

fn codes(codes: &[u8]) -> String {
    std::iter::once("0".to_owned()).chain(codes.iter().map(ToString::to_string)).collect::<Vec<_>>().join(", ")
}
