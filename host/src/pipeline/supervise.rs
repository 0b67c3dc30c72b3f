//! Supervision: starts the stages first to last, waits for them in the order they end, tells each joint how its writer ended,
//! and stops the rest when it must.

use std::sync::Arc;

use stagehost_ring::{Capacity, Cause, Options, ring};

use super::{
    control::Commands,
    ends::{FirstInput, LastOutput, Names, Stderr},
    going::{Going, Lost},
    leftovers,
    made::MadeJoint,
    shared::Shared,
};
use crate::{
    event::Event,
    joint::{DescriptorSink, DescriptorSource, Fate, JointKind, Sink, Source, Stop, StopReason},
    outcome::{StageExit, Verdict},
    plan::{Planned, PlannedJoint, PlannedStage, Work},
    sandbox::{CodeBudget, GuestSpec, RunTurns},
    spec::{OnFailure, Upstream},
    stage::{
        ChildInput, ChildOutput, ChildStderr, CommandStage, FunctionStage, Gauges, InProcess, Reading, StageEnd,
        Surroundings, WasmStage,
    },
};

/// The stages of a run.
pub(super) struct Stages<'a> {
    pub(super) shared: &'a Shared,
    pub(super) plan: &'a Planned,
    pub(super) stages: &'a [Arc<PlannedStage>],
    pub(super) around: &'a Surroundings,
    pub(super) commands: &'a Commands,
    pub(super) turns: &'a RunTurns,
    pub(super) names: &'a Names,
    pub(super) code: &'a Arc<CodeBudget>,
    pub(super) gauges: &'a Gauges,
    pub(super) stop: &'a Stop,
}

/// What a joint gives the stage that reads it.
enum Incoming {
    Inside(Source),
    Child(ChildInput),
}

/// What a joint gives the stage that writes it.
enum Outgoing {
    Inside(Sink),
    Child(ChildOutput),
}

type Results = (Vec<StageEnd>, Vec<MadeJoint>, Option<Source>, Option<Sink>);

impl Stages<'_> {
    /// Runs the stages and returns how they ended, with what is left of the ends. Nothing that they started runs then.
    pub(super) async fn run(self, stdin: FirstInput, stdout: LastOutput, stderr: Vec<Stderr>) -> Results {
        let mut running = Going::default();
        let mut joints: Vec<MadeJoint> = Vec::with_capacity(self.plan.joints.len());
        let mut ended: Vec<Option<StageEnd>> = self.stages.iter().map(|_| None).collect();
        let mut incoming = Some(match stdin {
            FirstInput::Inside(source) => Incoming::Inside(source),
            FirstInput::Child(input) => Incoming::Child(input),
        });
        let mut last = Some(match stdout {
            LastOutput::Inside(sink) => Outgoing::Inside(sink),
            LastOutput::Child(output) => Outgoing::Child(output),
        });
        let mut unused_sink = None;
        for (index, (planned, stderr)) in self.stages.iter().zip(stderr).enumerate() {
            let joint = match self.plan.joints.get(index) {
                Some(joint) => self.joint(joint, planned, &self.stages[index + 1]).map(Some),
                None => Ok(None),
            };
            let started = match (joint, incoming.take()) {
                // After a stop nothing is started.
                _ if self.stop.is_requested() => {
                    if let Some(Outgoing::Inside(sink)) = last.take_if(|_| index + 1 == self.stages.len()) {
                        unused_sink = Some(sink);
                    }
                    joints.push(MadeJoint::default());
                    Err(StageExit::Cancelled)
                }
                (Ok(joint), Some(input)) => {
                    let output = match joint {
                        Some((made, output, next)) => {
                            joints.push(made);
                            incoming = Some(next);
                            Some(output)
                        }
                        None => last.take(),
                    };
                    match output {
                        Some(output) => self.start(index, input, output, stderr, &mut running).await,
                        None => Err(StageExit::Cancelled),
                    }
                }
                (Err(error), _) => {
                    Err(StageExit::HostError { message: error.to_string(), path: Some("a joint".into()) })
                }
                (Ok(_), None) => Err(StageExit::Cancelled),
            };
            if let Err(exit) = started {
                if exit != StageExit::Cancelled {
                    self.tell(index, &exit);
                    self.stop(StopReason::Failure, index);
                }
                self.gauges[index].end(Reading::default());
                ended[index] = Some(StageEnd::of_host(index, exit));
            }
        }
        joints.truncate(self.plan.joints.len());
        let (left_source, left_sink) = self.supervise(&mut running, &mut ended, &joints).await;
        let lost = || StageExit::HostError { message: "the host failed inside the stage".into(), path: None };
        let mut ended: Vec<_> = ended
            .into_iter()
            .enumerate()
            .map(|(index, ended)| ended.unwrap_or_else(|| StageEnd::of_host(index, lost())))
            .collect();
        leftovers::end(&mut ended, self.stages, self.around, self.stop).await;
        (ended, joints, left_source, left_sink.or(unused_sink))
    }

    /// Makes the joint between two stages: what the host keeps of it, and what it gives each of them.
    fn joint(
        &self,
        joint: &PlannedJoint,
        up: &PlannedStage,
        down: &PlannedStage,
    ) -> std::io::Result<(MadeJoint, Outgoing, Incoming)> {
        match joint.kind {
            JointKind::Ring => {
                let capacity = Capacity::at_least(usize::try_from(joint.capacity).unwrap_or(usize::MAX));
                let (writer, reader) = ring(&self.shared.pool, Options { capacity, ..Options::default() });
                let made =
                    MadeJoint { capacity: Some(joint.capacity), ring: Some(writer.monitor()), ..MadeJoint::default() };
                Ok((made, Outgoing::Inside(Sink::Ring(writer)), Incoming::Inside(Source::Ring(reader))))
            }
            JointKind::Pipe => {
                let pipe = self.shared.pipes.pipe(joint.capacity)?;
                let output = if up.is_command() {
                    let kept = Some(pipe.kept.clone());
                    Outgoing::Child(ChildOutput { file: pipe.write, drain: None, kept, end: None })
                } else {
                    Outgoing::Inside(Sink::Descriptor(DescriptorSink::owned(pipe.write)?))
                };
                let input = if down.is_command() {
                    Incoming::Child(ChildInput { file: pipe.read, feed: None })
                } else {
                    let fate: Arc<Fate> = pipe.kept.fate.clone();
                    Incoming::Inside(Source::Pipe(DescriptorSource::owned(pipe.read)?, fate))
                };
                let made = MadeJoint { capacity: Some(pipe.capacity), ring: None, kept: Some(pipe.kept) };
                Ok((made, output, input))
            }
        }
    }

    /// Starts one stage.
    async fn start(
        &self,
        index: usize,
        input: Incoming,
        output: Outgoing,
        stderr: Stderr,
        running: &mut Going,
    ) -> Result<(), StageExit> {
        let planned = &self.stages[index];
        let input_name = (index == 0).then(|| self.names.input.clone());
        let output_name = (index + 1 == self.stages.len()).then(|| self.names.output.clone());
        let mixed = || StageExit::HostError { message: "a joint of the wrong kind".into(), path: None };
        if let Work::Command(work) = &planned.work {
            let (Incoming::Child(stdin), Outgoing::Child(stdout), Stderr::Child(stderr)) = (input, output, stderr)
            else {
                return Err(mixed());
            };
            let (planned, around, gauges) = (planned.clone(), self.around.clone(), self.gauges.clone());
            let stage = CommandStage { index, planned, stdin, stdout, stderr, input_name, output_name, around, gauges };
            let command = tokio::select! {
                biased;
                started = stage.start(work) => started?,
                // A directory or program on a file system that does not answer.
                () = self.stop.requested() => return Err(StageExit::Cancelled),
            };
            self.commands.add(&self.stages[index].name, command.leader());
            let (planned, stop) = (self.stages[index].clone(), self.stop.clone());
            running.add(async move {
                match &planned.work {
                    Work::Command(work) => command.run(work, stop).await,
                    Work::Wasm(_) | Work::Function(_) => StageEnd::default(),
                }
            });
            return Ok(());
        }
        let (Incoming::Inside(source), Outgoing::Inside(sink)) = (input, output) else { return Err(mixed()) };
        let inside = InProcess {
            index,
            source: Some(source).into(),
            sink: Some(sink).into(),
            tell_aborts: self.plan.on_failure == OnFailure::Drain,
            input_name,
            output_name,
            gauges: self.gauges.clone(),
        };
        match &planned.work {
            Work::Wasm(work) => {
                let stderr = match stderr {
                    Stderr::Inside(sink) => sink,
                    Stderr::Child(ChildStderr { .. }) => return Err(mixed()),
                };
                let sandbox = self.shared.sandbox().map_err(|message| StageExit::HostError { message, path: None })?;
                let spec = GuestSpec {
                    name: planned.name.clone(),
                    args: work.args.clone(),
                    env: work.env.clone(),
                    limits: work.limits,
                    rights: work.rights.clone(),
                    dumps: self.around.dumps.clone(),
                    deterministic: self.plan.deterministic,
                    linger: self.plan.linger,
                    sees_terminals: work.terminal,
                };
                let (code, budget) = (work.code(), self.code.clone());
                let (wall_time, place) = (planned.wall_time, planned.place.clone());
                let (asked, untold) = (work.asked.clone(), work.untold.clone());
                let reads_text = work.inspection.section.text;
                let ready = work.ready.get(&sandbox, spec.engine(), &work.limits);
                let stage = WasmStage {
                    inside,
                    spec,
                    code,
                    ready,
                    budget,
                    wall_time,
                    stderr,
                    place,
                    asked,
                    untold,
                    reads_text,
                };
                let stage = stage.run(sandbox, self.turns.clone(), self.stop.clone());
                if self.stages.len() == 1 { running.add_last(stage) } else { running.add(stage) }
            }
            Work::Function(function) => {
                let (wall_time, kill_after) = (planned.wall_time, self.plan.kill_after);
                let stage = FunctionStage { inside, function: function.clone(), wall_time, kill_after };
                running.add(stage.run(self.stop.clone()));
            }
            Work::Command(_) => return Err(mixed()),
        }
        self.around.events.send(|| Event::Started { stage: planned.name.clone(), pid: None });
        Ok(())
    }

    /// Stops the run because of a stage.
    fn stop(&self, reason: StopReason, index: usize) {
        if self.stop.request(reason) {
            let cause =
                if reason == StopReason::Failure { "a stage failed" } else { "the last stage has what it wanted" };
            let stage = Some(self.stages[index].name.clone());
            self.around.events.send(|| Event::Stopped { cause: cause.into(), stage });
        }
    }

    fn tell(&self, index: usize, exit: &StageExit) {
        let stage = self.stages[index].name.clone();
        if let StageExit::Limit { which, limit, used, .. } = exit {
            self.around.events.send(|| Event::Limit {
                stage: stage.clone(),
                which: *which,
                limit: *limit,
                used: *used,
            });
        }
        self.around.events.send(|| Event::Exited { stage, exit: exit.clone() });
    }

    /// Waits for the stages, and tells each joint how its writer ended.
    async fn supervise(
        &self,
        running: &mut Going,
        ended: &mut [Option<StageEnd>],
        joints: &[MadeJoint],
    ) -> (Option<Source>, Option<Sink>) {
        let (mut left_source, mut left_sink) = (None, None);
        // Write ends of pipes whose readers must not see an end: kept until nobody reads any more.
        let mut held = Vec::new();
        loop {
            let joined = tokio::select! {
                biased;
                joined = running.next() => joined,
                () = leftovers::reap_orphans(self.around) => continue,
            };
            let Some(joined) = joined else { break };
            // A panic of the host inside a stage ends that stage only; its halves were dropped, which aborted its ring.
            let Ok(mut end) = joined.map_err(|Lost| ()) else {
                self.stop.request(StopReason::Failure);
                continue;
            };
            let (index, source, sink) = (end.index, end.source.take(), end.sink.take());
            let planned = &self.stages[index];
            let reader_left = matches!(&sink, Some(Sink::Ring(writer)) if writer.is_broken()) || end.broken;
            end.exit = planned.tolerance.excuse(end.exit, reader_left);
            self.tell(index, &end.exit);
            let verdict = planned.tolerance.judge(&end.exit);
            // The stop comes first: what follows may end the input of stages that must not take it for an end.
            if verdict == Verdict::Bad && self.plan.on_failure == OnFailure::Cancel {
                self.stop(StopReason::Failure, index);
            }
            if index == 0 {
                left_source = source;
            } else {
                drop(source);
            }
            let cause = || Cause::new(format!("stage `{}` {}", planned.name, end.exit));
            let well = matches!(verdict, Verdict::Good | Verdict::BrokenPipe);
            match (sink, joints.get(index).and_then(|joint| joint.kept.as_ref())) {
                // A broken pipe's reader is gone; nothing can look complete to it.
                (Some(Sink::Ring(writer)), _) if well => writer.finish(),
                (Some(Sink::Ring(writer)), _) => writer.abort(cause()),
                (sink, Some(kept)) if well => {
                    kept.fate.finish();
                    kept.let_go();
                    drop(sink);
                }
                (sink, Some(kept)) if self.plan.on_failure == OnFailure::Drain && !self.stop.is_from_outside() => {
                    kept.fate.abort(cause());
                    kept.let_go();
                    drop(sink);
                }
                (sink, Some(kept)) => {
                    kept.fate.abort(cause());
                    held.push(sink);
                }
                (sink, None) => left_sink = sink,
            }
            if verdict == Verdict::Good && index + 1 == self.stages.len() && self.plan.upstream == Upstream::Stop {
                self.stop(StopReason::Satisfied, index);
            }
            self.gauges[index].end(end.reading());
            ended[index] = Some(end);
        }
        if self.stop.is_requested() {
            // What ended stages left behind must not see an end either.
            leftovers::kill(ended.iter().flatten(), self.stages);
        }
        drop(held);
        for joint in joints {
            if let Some(kept) = &joint.kept {
                kept.let_go();
            }
        }
        (left_source, left_sink)
    }
}
