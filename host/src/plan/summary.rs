//! A plan, for people and tools.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    ends::Outlet,
    planned::{Plan, Planned, PlannedJoint, PlannedStage},
    work::Work,
};
use crate::{
    digest::hex,
    joint::{JointKind, Output},
    sandbox::{Limits, Shape, compile_time},
    spec::{ClockSpec, LimitsSpec, OnTrap, RandomSpec, Sandboxing},
};

/// A [`Plan`] as `stagehost plan` shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlanSummary {
    /// The pipeline's name.
    pub name: Option<String>,
    /// What the first stage reads.
    pub stdin: String,
    /// What takes the last stage's output.
    pub stdout: String,
    /// The run's timeout in milliseconds; null: none.
    pub timeout_ms: Option<u64>,
    /// What all stages, rings and pipes may hold together at most, and the files of their components, in bytes; null: a stage has no limit.
    pub worst_case_memory_bytes: Option<u64>,
    /// The files of components, each once, which the host keeps as long as the run goes on, in bytes. Stock stages have none.
    pub component_files_bytes: u64,
    /// The stages, first to last; those of nested pipelines stand among them.
    pub stages: Vec<StageSummary>,
}

/// A planned stage as `stagehost plan` shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StageSummary {
    /// The stage's name. A stage of a nested pipeline has that one's name before it.
    pub name: String,
    /// `wasm`, `command` or `function`.
    pub kind: &'static str,
    /// What it runs: the component as the file names it, or the program's path.
    pub runs: String,
    /// The digest of the component, SHA-256 in hexadecimal.
    pub sha256: Option<String>,
    /// How the component is run.
    pub shape: Option<Shape>,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// The variables that the pipeline gives it. A command inherits the host's too.
    pub env: BTreeMap<String, String>,
    /// The directory a command runs in; null: the host's own.
    pub dir: Option<String>,
    /// Its limits.
    pub limits: LimitsSummary,
    /// The rights granted to it. A sandboxed stage has no others; a command without a sandbox has those of whoever runs the host.
    pub grants: Vec<String>,
    /// The rights that the component asks for and is not granted.
    pub asks: Vec<String>,
    /// The clock that a sandboxed stage sees, if it is not the machine's.
    pub clock: Option<String>,
    /// The random numbers that it gets, if they are not the machine's.
    pub random: Option<String>,
    /// The wall around a command.
    pub sandbox: Option<Sandboxing>,
    /// What this kernel lacks for it.
    pub sandbox_lacks: Vec<String>,
    /// What a trap means for its output.
    pub on_trap: OnTrap,
    /// The limits that differ from the defaults, by their names in the file.
    pub limits_set: Vec<String>,
    /// The limits that its component suggests and does not get.
    pub suggested: Vec<String>,
    /// Exit codes that are no failure, besides 0.
    pub ok_exit: Vec<u8>,
    /// What connects it to the next stage; null for the last.
    pub joint: Option<JointSummary>,
}

/// A stage's limits; null: none.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct LimitsSummary {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// What the host may hold for the stage besides its own memory, in bytes.
    pub host_allowance_bytes: Option<u64>,
    /// The call stack in bytes.
    pub stack_bytes: Option<u64>,
    /// Processor time in milliseconds.
    pub cpu_time_ms: Option<u64>,
    /// Time in milliseconds.
    pub wall_time_ms: Option<u64>,
    /// Time without a byte in or out, in milliseconds.
    pub stall_time_ms: Option<u64>,
    /// Instructions.
    pub fuel: Option<u64>,
    /// Bytes of standard input.
    pub input_bytes: Option<u64>,
    /// Bytes of standard output.
    pub output_bytes: Option<u64>,
    /// Bytes of standard error.
    pub stderr_bytes: Option<u64>,
    /// Handles, resources and streams at once.
    pub handles: Option<u64>,
    /// Core instances.
    pub instances: Option<u64>,
    /// The component's file in bytes.
    pub component_size_bytes: Option<u64>,
    /// Processor time of the compilation in milliseconds.
    pub compile_time_ms: Option<u64>,
    /// Memory of the compilation in bytes.
    pub compile_memory_bytes: Option<u64>,
    /// Processes.
    pub processes: Option<u64>,
    /// Open files of each process, or of a wasm stage with directories or network.
    pub open_files: Option<u64>,
    /// The largest file in bytes.
    pub file_size_bytes: Option<u64>,
}

/// A joint as `stagehost plan` shows it.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct JointSummary {
    /// A ring or a pipe.
    pub kind: JointKind,
    /// The capacity it is to have, in bytes. A pipe gets less where the user's quota is used up.
    pub bytes: u64,
}

impl LimitsSummary {
    /// The limits that differ from others, by their names in the file.
    fn differences(&self, others: &Self) -> Vec<String> {
        let map = |limits: &Self| match serde_json::to_value(limits) {
            Ok(serde_json::Value::Object(map)) => map,
            _ => serde_json::Map::new(),
        };
        let others = map(others);
        let name = |key: &str| {
            let is_name = |name: &str| LimitsSpec::names().any(|known| known == name);
            let plain = ["_bytes", "_ms"].iter().filter_map(|unit| key.strip_suffix(unit)).find(|plain| is_name(plain));
            plain.or(is_name(key).then_some(key)).map(str::to_owned)
        };
        let differing = map(self).into_iter().filter(|(key, value)| others.get(key) != Some(value));
        differing.filter_map(|(key, _)| name(&key)).collect()
    }

    fn of(limits: &Limits) -> Self {
        Self {
            memory_bytes: limits.memory,
            host_allowance_bytes: Some(limits.allowance()),
            stack_bytes: Some(limits.stack as u64),
            cpu_time_ms: limits.cpu_time.map(millis),
            stall_time_ms: limits.stall_time.map(millis),
            fuel: limits.fuel,
            input_bytes: limits.input_bytes,
            output_bytes: limits.output_bytes,
            stderr_bytes: limits.stderr_bytes,
            handles: Some(limits.handles as u64),
            open_files: Some(limits.open_files as u64),
            instances: Some(limits.instances as u64),
            component_size_bytes: Some(limits.component_size),
            compile_time_ms: limits.compile_time.map(millis),
            compile_memory_bytes: limits.compile_memory,
            ..Self::default()
        }
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Planned {
    /// The files of components, each once, in bytes.
    fn component_files(&self) -> u64 {
        let file = |stage: &PlannedStage| match &stage.work {
            Work::Wasm(wasm) if wasm.path.is_some() => Some((wasm.digest, wasm.bytes.len() as u64)),
            Work::Wasm(_) | Work::Command(_) | Work::Function(_) => None,
        };
        let files: BTreeMap<_, _> = self.stages.iter().filter_map(|stage| file(stage)).collect();
        files.values().sum()
    }

    /// What all stages, rings and pipes may hold together at most, and the files of their components, in bytes; `None`: a stage has no
    /// limit.
    pub(crate) fn worst_case_memory(&self) -> Option<u64> {
        let worst = |(index, stage): (usize, &std::sync::Arc<PlannedStage>)| {
            let joint = self.joints.get(index).map_or(0, |joint| joint.capacity);
            let (memory, allowance) = match &stage.work {
                Work::Wasm(wasm) => (wasm.limits.memory, wasm.limits.allowance()),
                Work::Command(command) => (command.limits.memory, 0),
                Work::Function(_) => (None, 0),
            };
            memory.map(|memory| memory.saturating_add(allowance).saturating_add(joint))
        };
        let begin = self.component_files().saturating_add(self.given);
        self.stages.iter().enumerate().map(worst).try_fold(begin, |sum, bytes| Some(sum.saturating_add(bytes?)))
    }
}

impl Plan {
    /// The plan for tools and people.
    pub fn summary(&self) -> PlanSummary {
        self.0.summary()
    }
}

impl Planned {
    fn summary(&self) -> PlanSummary {
        let stages: Vec<_> =
            self.stages.iter().enumerate().map(|(index, stage)| stage.summary(self.joints.get(index))).collect();
        let handed_over = |stage: Option<&std::sync::Arc<PlannedStage>>, is_file: bool| {
            if stage.is_some_and(|stage| stage.is_command()) && is_file { " (handed over as it is)" } else { "" }
        };
        let given = matches!(self.stdin, super::Input::Inherit | super::Input::File(..));
        let taken =
            matches!(self.stdout, Outlet::Place(Output::Inherit | Output::Descriptor(_) | Output::InPlace { .. }));
        PlanSummary {
            name: self.name.clone(),
            stdin: format!("{}{}", self.stdin, handed_over(self.stages.first(), given)),
            stdout: format!("{}{}", self.stdout_name, handed_over(self.stages.last(), taken)),
            timeout_ms: self.timeout.map(millis),
            worst_case_memory_bytes: self.worst_case_memory(),
            component_files_bytes: self.component_files(),
            stages,
        }
    }
}

impl PlannedStage {
    fn summary(&self, joint: Option<&PlannedJoint>) -> StageSummary {
        let wall_time_ms = self.wall_time.map(millis);
        let (sha256, shape, args, env, dir, limits) = match &self.work {
            Work::Wasm(wasm) => {
                let limits = LimitsSummary { wall_time_ms, ..LimitsSummary::of(&wasm.limits) };
                let args = wasm.args.iter().skip(1).cloned().collect();
                (
                    Some(hex(&wasm.digest)),
                    Some(wasm.inspection.shape),
                    args,
                    wasm.env.iter().cloned().collect(),
                    None,
                    limits,
                )
            }
            Work::Command(command) => {
                let limits = LimitsSummary {
                    memory_bytes: command.limits.memory,
                    cpu_time_ms: command.limits.cpu_time.map(millis),
                    wall_time_ms,
                    processes: command.limits.processes,
                    open_files: command.limits.rlimits.open_files.map(|(files, _)| files),
                    file_size_bytes: command.limits.rlimits.file_size,
                    ..LimitsSummary::default()
                };
                let args = command.arguments.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
                let dir = command.directory.as_ref().map(|dir| dir.display().to_string());
                (command.digest.map(|digest| hex(&digest)), None, args, command.variables.clone(), dir, limits)
            }
            Work::Function(_) => {
                let limits = LimitsSummary { wall_time_ms, ..LimitsSummary::default() };
                (None, None, Vec::new(), BTreeMap::new(), None, limits)
            }
        };
        let (grants, asks, clock, random, sandbox) = match &self.work {
            Work::Wasm(wasm) => {
                let rights = &wasm.rights;
                let clock = (rights.clock != ClockSpec::Real).then(|| rights.clock.to_string());
                let random = (rights.random != RandomSpec::Real).then(|| rights.random.to_string());
                (wasm.granted.clone(), wasm.asked.clone(), clock, random, None)
            }
            Work::Command(command) => match &command.wall {
                Some((wall, _)) => (wall.lines(), Vec::new(), None, None, Some(wall.mode())),
                None => (Vec::new(), Vec::new(), None, None, None),
            },
            Work::Function(_) => (Vec::new(), Vec::new(), None, None, None),
        };
        let (usual, suggested) = match &self.work {
            Work::Wasm(wasm) => {
                let compile_time = Some(compile_time(wasm.bytes.len() as u64));
                (LimitsSummary::of(&Limits { compile_time, ..Limits::default() }), wasm.suggested.clone())
            }
            Work::Command(_) | Work::Function(_) => (LimitsSummary::default(), Vec::new()),
        };
        let lacks = match &self.work {
            Work::Command(command) => command.wall.iter().flat_map(|(_, missing)| missing.iter().cloned()).collect(),
            Work::Wasm(_) | Work::Function(_) => Vec::new(),
        };
        StageSummary {
            name: self.name.clone(),
            kind: self.kind(),
            runs: self.source(),
            sha256,
            shape,
            args,
            env,
            dir,
            limits,
            grants,
            asks,
            clock,
            random,
            sandbox,
            sandbox_lacks: lacks,
            on_trap: self.tolerance.on_trap,
            limits_set: limits.differences(&usual),
            suggested,
            ok_exit: self.tolerance.ok_exit.clone(),
            joint: joint.map(|joint| JointSummary { kind: joint.kind, bytes: joint.capacity }),
        }
    }
}
