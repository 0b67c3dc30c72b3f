//! What can be seen of runs while they go on.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use serde::{Serialize, Serializer};

use super::shared::RunState;
use crate::{
    joint::Moved,
    stage::{Gauge, Phase},
};

/// What can be seen of all runs of a host.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct HostSnapshot {
    /// The runs that go on or wait for room, in the order they were started.
    pub runs: Vec<RunSnapshot>,
    /// How many of them wait for room.
    pub queued: usize,
    /// What those that have room may hold at worst, in bytes, as their plans say; null: the host has no
    /// [`total_memory`](crate::HostOptions::total_memory).
    pub memory_bytes: Option<u64>,
    /// Whether the host takes no more runs: it is being [drained](crate::Host::drain).
    pub is_draining: bool,
}

/// What can be seen of a run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RunSnapshot {
    /// The pipeline's name.
    pub name: Option<String>,
    /// What the run is called by who started it.
    pub label: Option<String>,
    /// Whose run it is.
    pub group: Option<String>,
    /// How far it is.
    pub state: RunPhase,
    /// Since when, in seconds where it is written out.
    #[serde(serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Its stages, first to last, those of nested pipelines among them.
    pub stages: Vec<StageSnapshot>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunPhase {
    /// It waits for room.
    Queued,
    /// Its stages run.
    Running,
    /// It is being stopped.
    Stopping,
}

/// What can be seen of a stage.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StageSnapshot {
    /// The stage's name, with those of the pipelines around it before it.
    pub name: String,
    /// `wasm`, `command` or `function`.
    pub kind: &'static str,
    /// How far it is.
    pub state: StagePhase,
    /// Bytes handed to it; null: not known, as for what a command reads by itself.
    pub input_bytes: Option<u64>,
    /// Bytes taken from it; null: not known.
    pub output_bytes: Option<u64>,
    /// How long it has waited for input in all, in seconds where it is written out; null: not known, as for a command.
    #[serde(serialize_with = "maybe_seconds")]
    pub waited_for_input: Option<Duration>,
    /// The same for room in its output.
    #[serde(serialize_with = "maybe_seconds")]
    pub waited_for_output: Option<Duration>,
    /// What it waits for now.
    pub waits_for: Option<WaitsFor>,
    /// The most memory it was seen to hold so far, in bytes; null: not measured.
    pub peak_memory_bytes: Option<u64>,
    /// The processor time it has used so far, in seconds where it is written out: of a sandboxed stage up to its last turn, of a command
    /// that runs what its own process used, and not what that started; null: not measured.
    #[serde(serialize_with = "maybe_seconds")]
    pub cpu: Option<Duration>,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StagePhase {
    /// Nothing was done for it yet.
    Waiting,
    /// Its component is loaded or compiled, or its program is started.
    Starting,
    /// It runs.
    Running,
    /// It has ended.
    Ended,
}

/// What a stage waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WaitsFor {
    /// Bytes of its input.
    Input,
    /// Room in its output.
    Output,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[expect(clippy::ref_option, reason = "serde hands over a reference to the field")]
fn maybe_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

impl RunState {
    pub(super) fn snapshot(&self) -> RunSnapshot {
        let plan = &self.plan.0;
        let state = match (self.stop.is_requested(), self.has_begun.load(Relaxed)) {
            (true, _) => RunPhase::Stopping,
            (false, true) => RunPhase::Running,
            (false, false) => RunPhase::Queued,
        };
        let stages = plan.stages.iter().zip(&*self.gauges);
        RunSnapshot {
            name: plan.name.clone(),
            label: self.label.clone(),
            group: self.group.clone(),
            state,
            elapsed: self.started.elapsed(),
            stages: stages.map(|(stage, gauge)| StageSnapshot::of(&stage.name, stage.kind(), gauge)).collect(),
        }
    }
}

impl StageSnapshot {
    fn of(name: &str, kind: &'static str, gauge: &Gauge) -> Self {
        let state = match gauge.phase() {
            Phase::Waiting => StagePhase::Waiting,
            Phase::Starting => StagePhase::Starting,
            Phase::Running => StagePhase::Running,
            Phase::Ended => StagePhase::Ended,
        };
        let reading = gauge.read();
        // What a command waits for is between it and the kernel.
        let waited = |moved: Option<Moved>| moved.filter(|_| kind != "command").map(|moved| moved.waited);
        let waits = |moved: Option<Moved>| moved.is_some_and(|moved| moved.waits);
        Self {
            name: name.to_owned(),
            kind,
            state,
            input_bytes: reading.input.map(|moved| moved.bytes),
            output_bytes: reading.output.map(|moved| moved.bytes),
            waited_for_input: waited(reading.input),
            waited_for_output: waited(reading.output),
            waits_for: match (waits(reading.input), waits(reading.output)) {
                _ if state == StagePhase::Ended => None,
                (_, true) => Some(WaitsFor::Output),
                (true, false) => Some(WaitsFor::Input),
                (false, false) => None,
            },
            peak_memory_bytes: reading.memory,
            cpu: reading.cpu,
        }
    }
}
