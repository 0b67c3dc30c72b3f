//! What a run's end means: from the exits of its stages to an [`Outcome`].

use std::sync::Arc;

use stagehost_ring::Monitor;

use super::{EndError, Ended, millis};
use crate::{
    joint::{Stop, StopReason},
    outcome::{ExitCode, LimitKind, Origin, Outcome, RingReport, StageExit, StageReport, Verdict, blame, code_of},
    plan::{Plan, PlannedStage},
    spec::StderrSpec,
};

/// Decides the outcome of a run whose stages have all ended.
pub(super) fn judge(
    plan: &Plan,
    stages: &[Arc<PlannedStage>],
    ended: Vec<Ended>,
    rings: Vec<(usize, Monitor)>,
    stop: &Stop,
    stdout_closed: bool,
) -> Outcome {
    let tolerance = |index: usize| stages.get(index).map(|stage| stage.tolerance.clone()).unwrap_or_default();
    let exits: Vec<_> =
        ended.iter().enumerate().map(|(index, ended)| (ended.end.exit.clone(), tolerance(index))).collect();
    let blamed = blame(&exits, stdout_closed);
    let name_of = |index: usize| stages.get(index).map_or("copy", |stage| stage.name.as_str());
    let (exit_code, origin, message, hint) = match blamed {
        Some(index) => {
            let exit = &exits[index].0;
            let (code, origin) = code_of(exit);
            (code, origin, say(name_of(index), exit), hint_for(index, exit))
        }
        // An accepted code of the last stage stays the run's own.
        None => match exits.last() {
            Some((StageExit::Exit { code }, _)) => (*code, Origin::Stage, String::new(), None),
            _ => (0, Origin::Stage, String::new(), None),
        },
    };
    let mut outcome = Outcome {
        version: 1,
        name: plan.name.clone(),
        success: blamed.is_none(),
        exit_code,
        origin,
        message,
        hint,
        blamed,
        timed_out: false,
        signal: None,
        stdout_closed,
        duration_ms: 0,
        stages: ended
            .into_iter()
            .zip(stages)
            .map(|(Ended { end, .. }, planned)| StageReport {
                name: planned.name.clone(),
                wasm: planned.source.clone(),
                accepted: planned.tolerance.judge(&end.exit) == Verdict::Good,
                exit: end.exit,
                input_bytes: end.input_bytes,
                output_bytes: end.output_bytes,
                peak_memory_bytes: end.peak_memory,
                duration_ms: end.lifetime.map(millis),
                stderr: match planned.stderr {
                    None | Some(StderrSpec::Tee | StderrSpec::Capture) => end.stderr,
                    Some(StderrSpec::Inherit | StderrSpec::Null | StderrSpec::File(_)) => String::new(),
                },
            })
            .collect(),
        rings: rings.into_iter().map(|(capacity, monitor)| RingReport::new(capacity, monitor.counters())).collect(),
    };
    stopped_from_outside(&mut outcome, plan, stop);
    outcome
}

/// Makes a stop by a timeout, a signal or the caller what the outcome says: it is a failure, whatever the stages say.
pub(super) fn stopped_from_outside(outcome: &mut Outcome, plan: &Plan, stop: &Stop) {
    let (code, origin, message, hint) = match stop.reason() {
        // The blamed stage says it all.
        None | Some(StopReason::Failure) => return,
        Some(StopReason::Timeout) => {
            outcome.timed_out = true;
            let limit = humantime::format_duration(plan.timeout.unwrap_or_default());
            let hint = "raise `timeout` in the pipeline file, or --timeout".to_owned();
            (
                ExitCode::TimedOut as u8,
                Origin::Limit,
                format!("the run took longer than its timeout of {limit}"),
                Some(hint),
            )
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
}

fn say(name: &str, exit: &StageExit) -> String {
    match exit {
        StageExit::HostError { message, path: Some(path) } => format!("{path}: {message}"),
        exit => format!("stage `{name}` {exit}"),
    }
}

fn hint_for(index: usize, exit: &StageExit) -> Option<String> {
    match exit {
        StageExit::Limit { which: LimitKind::Memory, .. } => {
            Some(format!("raise `stages[{index}].limits.memory`, or --limit memory=…"))
        }
        StageExit::StartFailed { message } if message.contains("it imports") => {
            Some("`stagehost inspect` lists what it imports".into())
        }
        _ => None,
    }
}

pub(super) fn end_failed(plan: &Plan, failed: &EndError, stop: &Stop) -> Outcome {
    if stop.is_requested() {
        // Stopped while an end was being opened; nothing ran.
        return judge(plan, &[], vec![Ended::host(0, StageExit::Cancelled, 0, 0)], Vec::new(), stop, false);
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
}
