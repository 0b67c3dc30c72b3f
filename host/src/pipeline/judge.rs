//! What a run's end means: from the exits of its stages to an [`Outcome`].

use std::{sync::Arc, time::Duration};

use super::{made::MadeJoint, shared::EndError};
use crate::{
    joint::{Stop, StopReason},
    outcome::{
        ExitCode, JointReport, LimitKind, Origin, Outcome, RingReport, StageExit, StageReport, Tolerance, Verdict,
        blame, code_of,
    },
    plan::{Node, Planned, PlannedStage},
    spec::StderrSpec,
    stage::StageEnd,
};

/// Decides the outcome of a run whose stages have all ended.
pub(super) fn judge(
    plan: &Planned,
    stages: &[Arc<PlannedStage>],
    ended: Vec<StageEnd>,
    joints: Vec<MadeJoint>,
    timeout: Option<Duration>,
    stop: &Stop,
    stdout_closed: bool,
) -> Outcome {
    let copying = Tolerance::default();
    let tolerance = |index: usize| stages.get(index).map_or(&copying, |stage| &stage.tolerance);
    let exits: Vec<_> = ended.iter().enumerate().map(|(index, ended)| (&ended.exit, tolerance(index))).collect();
    let blamed = blame(&exits, stdout_closed);
    let name_of = |index: usize| stages.get(index).map_or("copy", |stage| stage.name.as_str());
    let (exit_code, origin, message, hint) = match blamed {
        Some(index) => {
            let exit = exits[index].0;
            let (code, origin) = code_of(exit);
            let of_stage = ended[index].hint.clone();
            let hint = of_stage.or_else(|| stages.get(index).and_then(|stage| hint_for(stage, exit)));
            (code, origin, say(name_of(index), exit), hint)
        }
        // An accepted code of the last stage stays the run's own.
        None => match exits.last() {
            Some((StageExit::Exit { code }, _)) => (*code, Origin::Stage, String::new(), None),
            _ => (0, Origin::Stage, String::new(), None),
        },
    };
    let joints = joint_reports(plan, stages, &ended, joints);
    let mut outcome = Outcome {
        version: 1,
        name: plan.name.clone(),
        label: None,
        success: blamed.is_none(),
        exit_code,
        origin,
        code: blamed
            .map_or("ok", |index| match exits[index].0 {
                // What has a name is an end.
                StageExit::HostError { path: Some(_), .. } => "end-failed",
                exit => exit.kind(),
            })
            .to_owned(),
        message,
        path: blamed.and_then(|index| file_of_host(exits[index].0.path()?)),
        hint,
        blamed: blamed.map(|index| name_of(index).to_owned()),
        deterministic: plan.deterministic,
        timed_out: false,
        signal: None,
        stdout_closed,
        duration_ms: 0,
        stages: if stages.is_empty() { Vec::new() } else { nest(&plan.nodes, plan, stages, &ended) },
        joints,
    };
    let unfinished = exits_of_stopped(&outcome.stages);
    if outcome.success && unfinished && stop.reason() != Some(StopReason::Satisfied) {
        // Whoever stopped it, a run that was stopped has not done what it should.
        outcome.success = false;
        (outcome.exit_code, outcome.origin) = (ExitCode::Host as u8, Origin::Host);
        outcome.message = "the run was stopped before its stages had ended".into();
        outcome.code = "cancelled".into();
    }
    stopped_from_outside(&mut outcome, plan, timeout, stop);
    outcome
}

/// Whether any of these stages was stopped.
fn exits_of_stopped(stages: &[StageReport]) -> bool {
    stages.iter().any(|stage| stage.exit == StageExit::Cancelled || exits_of_stopped(&stage.stages))
}

fn joint_reports(
    plan: &Planned,
    stages: &[Arc<PlannedStage>],
    ended: &[StageEnd],
    made: Vec<MadeJoint>,
) -> Vec<JointReport> {
    let report = |(index, (made, planned)): (usize, (MadeJoint, &crate::plan::PlannedJoint))| {
        let counters = made.ring.map(|ring| ring.counters());
        // Of a pipe only a stage in this process can tell; what it wrote counts before what it read.
        let told = || ended[index].output_bytes.or(ended[index + 1].input_bytes);
        JointReport {
            from: stages[index].name.clone(),
            to: stages[index + 1].name.clone(),
            kind: planned.kind,
            capacity: made.capacity,
            bytes: counters.as_ref().map(|counters| counters.bytes).or_else(told),
            ring: counters.map(RingReport::new),
        }
    };
    made.into_iter().zip(&plan.joints).enumerate().map(report).collect()
}

/// The stages' reports, nested as the file nests them.
fn nest(nodes: &[Node], plan: &Planned, stages: &[Arc<PlannedStage>], ended: &[StageEnd]) -> Vec<StageReport> {
    let report = |node: &Node| match node {
        Node::Stage(index) => stage_report(&stages[*index], &ended[*index]),
        Node::Group(index, nodes) => {
            let group = &plan.groups[*index];
            let inside = &ended[group.stages.clone()];
            let exits: Vec<_> = inside
                .iter()
                .zip(&stages[group.stages.clone()])
                .map(|(ended, stage)| (&ended.exit, &stage.tolerance))
                .collect();
            let blamed = blame(&exits, false);
            let exit = match blamed {
                Some(index) => exits[index].0.clone(),
                None => exits.last().map_or(StageExit::Ok, |(exit, _)| (*exit).clone()),
            };
            StageReport {
                name: group.name.clone(),
                kind: "pipeline",
                runs: group.source.clone(),
                accepted: blamed.is_none() && exit != StageExit::Cancelled,
                exit,
                input_bytes: inside.first().and_then(|first| first.input_bytes),
                output_bytes: inside.last().and_then(|last| last.output_bytes),
                peak_memory_bytes: None,
                cpu_ms: None,
                fuel: None,
                frames: Vec::new(),
                at: None,
                duration_ms: inside.iter().filter_map(|ended| ended.lifetime).max().map(millis),
                stderr: String::new(),
                notes: Vec::new(),
                remarks: Vec::new(),
                stages: nest(nodes, plan, stages, ended),
            }
        }
    };
    nodes.iter().map(report).collect()
}

fn stage_report(planned: &PlannedStage, end: &StageEnd) -> StageReport {
    StageReport {
        name: planned.name.clone(),
        kind: planned.kind(),
        runs: planned.source(),
        accepted: planned.tolerance.judge(&end.exit) == Verdict::Good,
        exit: end.exit.clone(),
        input_bytes: end.input_bytes,
        output_bytes: end.output_bytes,
        peak_memory_bytes: end.peak_memory,
        cpu_ms: end.cpu.map(millis),
        fuel: end.fuel,
        frames: end.frames.clone(),
        at: end.at,
        duration_ms: end.lifetime.map(millis),
        stderr: match planned.stderr {
            None | Some(StderrSpec::Tee | StderrSpec::Capture) => end.stderr.clone(),
            Some(StderrSpec::Inherit | StderrSpec::Null | StderrSpec::File(_)) => String::new(),
        },
        notes: end.notes.clone(),
        remarks: end.remarks.clone(),
        stages: Vec::new(),
    }
}

/// Makes a stop by a timeout, a signal or the caller what the outcome says: it is a failure, whatever the stages say.
pub(super) fn stopped_from_outside(outcome: &mut Outcome, plan: &Planned, timeout: Option<Duration>, stop: &Stop) {
    let (code, origin, message, hint) = match stop.reason() {
        // The blamed stage says it all.
        None | Some(StopReason::Failure | StopReason::Satisfied) => return,
        Some(StopReason::Timeout(group)) => {
            outcome.timed_out = true;
            let group = group.and_then(|group| plan.groups.get(group));
            let limit = group.map_or(timeout, |group| group.timeout).unwrap_or_default();
            let limit = humantime::format_duration(limit);
            let (message, hint) = match group {
                None => (
                    format!("the run took longer than its timeout of {limit} for planning and running"),
                    "raise `timeout` in the pipeline file, or --timeout".to_owned(),
                ),
                Some(group) => (
                    format!("stage `{}` took longer than its timeout of {limit} for running", group.name),
                    format!("raise `timeout` in {}", group.source),
                ),
            };
            (ExitCode::TimedOut as u8, Origin::Limit, message, Some(hint))
        }
        Some(StopReason::Signal(signal)) => {
            outcome.signal = Some(signal);
            let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
            (code, Origin::Signal, format!("stopped by signal {signal}"), None)
        }
        Some(StopReason::Caller) => (ExitCode::Host as u8, Origin::Host, "the run was cancelled".to_owned(), None),
    };
    outcome.success = false;
    (outcome.exit_code, outcome.origin, outcome.message, outcome.hint) = (code, origin, message, hint);
    outcome.path = None;
    outcome.code = match outcome.signal {
        Some(_) => "signal",
        None if outcome.timed_out => "timed-out",
        None => "cancelled",
    }
    .into();
}

/// A path, unless it is what a stream, a joint or a text is called.
fn file_of_host(name: &str) -> Option<String> {
    const OTHERS: [&str; 9] = [
        "standard input",
        "standard output",
        "standard error",
        "nothing",
        "a joint",
        "the program's reader",
        "the program's writer",
        "a text of ",
        "descriptor ",
    ];
    let is_other = OTHERS.iter().any(|other| name == *other || other.ends_with(' ') && name.starts_with(other));
    (!is_other).then(|| name.to_owned())
}

fn say(name: &str, exit: &StageExit) -> String {
    match exit {
        StageExit::HostError { message, path: Some(path) } => format!("{path}: {message}"),
        exit => format!("stage `{name}` {exit}"),
    }
}

fn hint_for(stage: &PlannedStage, exit: &StageExit) -> Option<String> {
    let field = |name: &str| Some(format!("raise `{}.limits.{name}`, or --limit {name}=…", stage.place));
    match exit {
        StageExit::Exit { code } => {
            Some(format!("if {code} is no failure of it: --ok-exit {}={code}, or \"ok_exit\": [{code}]", stage.name))
        }
        // Fixed: what toolchains make has far fewer.
        StageExit::Limit { which: LimitKind::Memories | LimitKind::Tables, .. } => None,
        StageExit::Limit { which, .. } => field(&which.to_string()),
        StageExit::StartFailed { message, .. }
            if message.contains("off here") || message.contains("threads are off") =>
        {
            Some("`stagehost check` says what to build instead".into())
        }
        StageExit::StartFailed { message, .. } if message.contains("it imports") => {
            Some("`stagehost inspect` lists what it imports".into())
        }
        _ => None,
    }
}

pub(super) fn end_failed(plan: &Planned, stages: &[Arc<PlannedStage>], failed: &EndError, stop: &Stop) -> Outcome {
    if stop.is_requested() {
        // Stopped while an end was being opened; nothing ran.
        let ended = (0..stages.len().max(1)).map(|index| StageEnd::of_host(index, StageExit::Cancelled)).collect();
        return judge(plan, stages, ended, Vec::new(), plan.timeout, stop, false);
    }
    let mut outcome = Outcome::not_started(plan.name.clone(), ExitCode::Host, String::new(), None);
    fail_end(&mut outcome, failed);
    outcome
}

pub(super) fn fail_end(outcome: &mut Outcome, failed: &EndError) {
    outcome.success = false;
    outcome.exit_code = ExitCode::Host as u8;
    outcome.origin = Origin::Host;
    outcome.message = format!("{}: {}", failed.name, failed.error);
    outcome.path = file_of_host(&failed.name);
    outcome.code = "end-failed".into();
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
