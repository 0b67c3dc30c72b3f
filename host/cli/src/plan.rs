//! `stagehost check` and `stagehost plan`.

use std::io::{self, Write};

use stagehost::{
    ExitCode, JointKind, PlanSummary, StageSummary,
    spec::{OnTrap, Sandboxing, Size},
};

use crate::{
    args::{CheckArgs, PlanArgs},
    failure::Failure,
    load,
    render::{self, Lines},
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
        write!(io::stdout(), "{}", text(&summary, args.verbose))?;
    }
    Ok(0)
}

fn text(plan: &PlanSummary, all: bool) -> String {
    let mut text = Lines::default();
    text.add(format_args!("{}", plan.stdin));
    for stage in &plan.stages {
        text.add("  │");
        text.add(runs(stage));
        if !stage.args.is_empty() {
            text.add(format_args!("  args: {:?}", stage.args));
        }
        if !stage.env.is_empty() {
            text.add(format_args!("  env: {}", stage.env.keys().cloned().collect::<Vec<_>>().join(", ")));
        }
        if let Some(dir) = &stage.dir {
            text.add(format_args!("  dir: {dir}"));
        }
        let shown = limits(stage, all);
        if !shown.is_empty() {
            text.add(format_args!("  {shown}"));
        }
        if all || !stage.ok_exit.is_empty() {
            text.add(format_args!("  ok exit codes: {}", codes(&stage.ok_exit)));
        }
        if !stage.suggested.is_empty() {
            let suggested = stage.suggested.join("; ");
            text.add(format_args!("  suggests more than the defaults: {suggested} (say so in `limits` to give it)"));
        }
        rights(stage, all, &mut text);
        if let Some(joint) = stage.joint {
            let kind = match joint.kind {
                JointKind::Ring => "ring",
                JointKind::Pipe => "pipe",
            };
            text.add(format_args!("  │ {kind} of {}", Size(joint.bytes)));
        }
    }
    text.add("  │");
    text.add(&plan.stdout);
    if let Some(timeout) = plan.timeout_ms {
        text.add(format_args!("timeout: {timeout} ms"));
    }
    let worst = plan.worst_case_memory_bytes.map_or_else(|| "no limit".to_owned(), |bytes| Size(bytes).to_string());
    let allowances: u64 = plan.stages.iter().filter_map(|stage| stage.limits.host_allowance_bytes).sum();
    let of_it = match allowances.saturating_add(plan.component_files_bytes) {
        0 => String::new(),
        bytes => format!(" ({} of it what the host may hold for sandboxed stages)", Size(bytes)),
    };
    text.add(format_args!("worst-case memory: {worst}{of_it}"));
    text.0
}

/// What a stage may reach.
fn rights(stage: &StageSummary, all: bool, text: &mut Lines) {
    match (stage.kind, stage.sandbox, stage.grants.is_empty()) {
        ("wasm", _, true) if !all => {}
        ("command", None, _) if !all => {}
        ("wasm", _, true) => text.add(format_args!("  grants: none")),
        ("command", None, _) => text.add(format_args!("  grants: every right of whoever runs this (no sandbox)")),
        ("command", Some(mode), _) => {
            let mode = if mode == Sandboxing::Strict { "strict" } else { "best-effort" };
            let lacks = stage.sandbox_lacks.iter().map(|lack| format!("; {lack}")).collect::<String>();
            let grants = stage.grants.iter().map(|grant| format!("; {grant}")).collect::<String>();
            text.add(format_args!("  sandbox: {mode}: programs and libraries of the system{grants}{lacks}"));
        }
        ("function", ..) => {}
        _ => text.add(format_args!("  grants: {}", stage.grants.join("; "))),
    }
    if !stage.asks.is_empty() {
        text.add(format_args!("  asks for, and is not granted: {}", stage.asks.join("; ")));
    }
    if let Some(clock) = &stage.clock {
        text.add(format_args!("  clock: {clock}"));
    }
    if let Some(random) = &stage.random {
        text.add(format_args!("  random numbers: {random}"));
    }
    if stage.on_trap == OnTrap::Finish {
        text.add(format_args!("  on a trap: what was written stands"));
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
