//! Supervision: starts the stages first to last, waits for them in the order they end, tells each joint how its writer ended,
//! and stops the rest when it must.

use std::sync::Arc;

use stagehost_ring::Cause;

use super::{
    control::Commands,
    ends::Names,
    going::{Going, Lost},
    leftovers,
    made::MadeJoint,
    shared::Shared,
    wiring::{Descriptors, Halves, Wiring, join},
};
use crate::{
    event::Event,
    joint::{Sink, Source, Stop, StopReason},
    outcome::{StageExit, Verdict},
    plan::{CommandWork, Planned, PlannedStage, WasmWork},
    sandbox::{CodeBudget, GuestSpec, RunTurns},
    spec::{OnFailure, Upstream},
    stage::{CommandStage, FunctionStage, Gauges, InProcess, Reading, StageEnd, Surroundings, WasmStage},
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

type Results = (Vec<StageEnd>, Vec<MadeJoint>, Option<Source>, Option<Sink>);

impl Stages<'_> {
    /// Runs the stages in these wirings and returns how they ended, with what is left of the ends. Nothing that they started runs then.
    pub(super) async fn run(self, mut wirings: Vec<Wiring<'_>>) -> Results {
        let mut running = Going::default();
        let mut joints: Vec<MadeJoint> = Vec::with_capacity(self.plan.joints.len());
        let mut ended: Vec<Option<StageEnd>> = self.stages.iter().map(|_| None).collect();
        for (index, joint) in self.plan.joints.iter().enumerate() {
            let made = match wirings.get_disjoint_mut([index, index + 1]) {
                Ok([up, down]) if !self.stop.is_requested() => join(joint, up, down, self.shared),
                _ => Ok(MadeJoint::default()),
            };
            joints.push(made.unwrap_or_else(|error| {
                let exit = StageExit::HostError { message: error.to_string(), path: Some("a joint".into()) };
                self.not_started(index, exit, &mut ended);
                MadeJoint::default()
            }));
        }
        let mut unused_sink = None;
        for (index, wiring) in wirings.into_iter().enumerate() {
            // After a stop nothing is started.
            let started = if self.stop.is_requested() {
                unused_sink = wiring.into_sink().filter(|_| index + 1 == self.stages.len());
                Err(StageExit::Cancelled)
            } else {
                self.start(index, wiring, &mut running).await
            };
            if let Err(exit) = started
                && ended[index].is_none()
            {
                self.not_started(index, exit, &mut ended);
            }
        }
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

    /// Keeps how a stage ended that never began.
    fn not_started(&self, index: usize, exit: StageExit, ended: &mut [Option<StageEnd>]) {
        if exit != StageExit::Cancelled {
            self.tell(index, &exit);
            self.stop(StopReason::Failure, index);
        }
        self.gauges[index].end(Reading::default());
        ended[index] = Some(StageEnd::of_host(index, exit));
    }

    /// Starts one stage.
    async fn start(&self, index: usize, wiring: Wiring<'_>, running: &mut Going) -> Result<(), StageExit> {
        match wiring {
            Wiring::Command(work, given) => return self.start_command(index, work, given, running).await,
            Wiring::Wasm(work, Halves { source, sink, stderr }) => {
                self.start_wasm(index, work, self.inside(index, source, sink), stderr, running)?;
            }
            Wiring::Function(function, Halves { source, sink, .. }) => {
                let (wall_time, kill_after) = (self.stages[index].wall_time, self.plan.kill_after);
                let inside = self.inside(index, source, sink);
                let threads = self.shared.threads.clone();
                let stage = FunctionStage { inside, function: function.clone(), threads, wall_time, kill_after };
                running.add_here(stage.run(self.stop.clone()));
            }
        }
        self.around.events.send(|| Event::Started { stage: self.stages[index].name.clone(), pid: None });
        Ok(())
    }

    /// What the first stage's input and the last one's output are called.
    fn names_of(&self, index: usize) -> (Option<String>, Option<String>) {
        let input = (index == 0).then(|| self.names.input.clone());
        (input, (index + 1 == self.stages.len()).then(|| self.names.output.clone()))
    }

    fn inside(&self, index: usize, source: Source, sink: Sink) -> InProcess {
        let (input_name, output_name) = self.names_of(index);
        InProcess {
            index,
            source: Some(source).into(),
            sink: Some(sink).into(),
            tell_aborts: self.plan.on_failure == OnFailure::Drain,
            input_name,
            output_name,
            gauges: self.gauges.clone(),
        }
    }

    async fn start_command(
        &self,
        index: usize,
        work: &Arc<CommandWork>,
        given: Descriptors,
        running: &mut Going,
    ) -> Result<(), StageExit> {
        let failed = |error: std::io::Error| StageExit::HostError { message: error.to_string(), path: None };
        let (stdin, stdout, stderr) = given.filled().map_err(failed)?;
        let (input_name, output_name) = self.names_of(index);
        let (planned, around, gauges) = (self.stages[index].clone(), self.around.clone(), self.gauges.clone());
        let stage = CommandStage { index, planned, stdin, stdout, stderr, input_name, output_name, around, gauges };
        let command = tokio::select! {
            biased;
            started = stage.start(work) => started?,
            // A directory or program on a file system that does not answer.
            () = self.stop.requested() => return Err(StageExit::Cancelled),
        };
        self.commands.add(&self.stages[index].name, command.leader());
        let (work, stop) = (work.clone(), self.stop.clone());
        let is_watched = work.limits.are_watched();
        let stage = async move { command.run(&work, stop).await };
        // To look at all processes takes a while, and many look at them often.
        if is_watched {
            running.add(stage)
        } else {
            running.add_here(stage)
        }
        Ok(())
    }

    fn start_wasm(
        &self,
        index: usize,
        work: &WasmWork,
        inside: InProcess,
        stderr: Sink,
        running: &mut Going,
    ) -> Result<(), StageExit> {
        let planned = &self.stages[index];
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
        let ready = work.ready.get(&sandbox, spec.engine(), &work.limits);
        let stage = WasmStage {
            inside,
            spec,
            code: work.code(),
            ready,
            budget: self.code.clone(),
            wall_time: planned.wall_time,
            stderr,
            place: planned.place.clone(),
            asked: work.asked.clone(),
            untold: work.untold.clone(),
            reads_text: work.inspection.section.text,
        };
        let stage = stage.run(sandbox, self.turns.clone(), self.stop.clone());
        if self.stages.len() == 1 {
            running.add_here(stage)
        } else {
            running.add(stage)
        }
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
                (Some(sink), None) => left_sink = Some(sink),
                // It has ended already: see `OutputPort::finish_ring`.
                (None, None) => {}
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
