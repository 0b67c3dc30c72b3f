//! What a host does with plans.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::{
    collect::{self, Collecting},
    host::{Counted, Host},
    options::RunOptions,
    prepare::{Preparing, Progress, prepare},
    run::Run,
    running::Running,
    shared::RunState,
};
use crate::{
    ends::Ends,
    event::{self, EventStream, Events},
    outcome::Outcome,
    plan::{Plan, Planned},
    process::Spawner,
    stage::Gauge,
};

impl Host {
    /// Loads, compiles and links what a plan needs, so that its runs find it ready; the plan keeps it as long as it lives. `tell` is called
    /// on a thread of the host with how far that has come. Never blocks: what it gives is to be awaited, or
    /// [waited for](Preparing::wait).
    ///
    /// A run of a plan that was not prepared does the same for itself.
    pub fn prepare(&self, plan: &Plan, tell: impl FnMut(&Progress) + Send + 'static) -> Preparing {
        let (mut sender, ended) = oneshot::channel();
        let (shared, plan) = (self.0.shared.clone(), plan.clone());
        let turns = shared.turns.of_run(None, 1);
        let counted = self.0.active.add(None);
        self.0.runtime.spawn(async move {
            let _counted = counted;
            let prepared = tokio::select! {
                biased;
                () = sender.closed() => return,
                prepared = prepare(&shared, &plan, &turns, tell) => prepared,
            };
            // Nobody may be left to hear of it.
            let _ = sender.send(prepared);
        });
        Preparing { host: self.clone(), ended }
    }

    /// Runs a plan to its end and blocks this thread until then, as [`Running::wait`] does. Where all stages are programs and this thread
    /// belongs to no runtime, it starts and awaits them itself.
    pub fn run(&self, plan: &Plan, ends: Ends, options: &RunOptions) -> Outcome {
        let events = Events::observed(options.on_event.clone());
        match self.0.runtime.for_caller() {
            Some(runtime) if plan.0.has_only_commands() => {
                let New { run, state, counted } = self.new_run(plan, options, events, Arc::new(Spawner::new(true)));
                let running = Running { host: self.clone(), state, first_events: None, ended: None };
                let here = runtime.block_on(AssertUnwindSafe(run.finished(&plan.0, ends, counted)).catch_unwind());
                running.outcome(here.ok())
            }
            _ => self.begin(plan, ends, options, events, None).wait(),
        }
    }

    /// Starts a run of a plan. Never blocks.
    pub fn start(&self, plan: &Plan, ends: Ends, options: &RunOptions) -> Running {
        let (events, first_events) = Events::with_streams(options.on_event.clone(), plan.0.stages.len());
        self.begin(plan, ends, options, events, Some(first_events))
    }

    /// Starts a run of a plan and keeps what its last stage writes, in the place of any other output. More than `most` bytes are refused,
    /// which fails the run. Never blocks.
    pub fn output(&self, plan: &Plan, ends: Ends, options: &RunOptions, most: usize) -> Collecting {
        let (ends, bytes) = collect::into_memory(ends, most);
        let events = Events::observed(options.on_event.clone());
        Collecting { running: self.begin(plan, ends, options, events, None), bytes }
    }

    fn begin(
        &self,
        plan: &Plan,
        ends: Ends,
        options: &RunOptions,
        events: Events,
        first_events: Option<EventStream>,
    ) -> Running {
        let New { run, state, counted } = self.new_run(plan, options, events, self.0.shared.spawner.clone());
        let (sender, ended) = oneshot::channel();
        // On a worker, so that it shares a thread with the stages it waits for. It ends by itself, also when the
        // `Running` is dropped: what it started has to be cleaned up.
        let plan = plan.clone();
        // Boxed: a task this large would be moved several times.
        self.0.runtime.spawn(Box::pin(async move {
            // Nobody may be left to hear of it.
            let _ = sender.send(run.finished(&plan.0, ends, counted).await);
        }));
        Running { host: self.clone(), state, first_events, ended: Some(ended) }
    }

    fn new_run(&self, plan: &Plan, options: &RunOptions, events: Events, spawner: Arc<Spawner>) -> New {
        let attached = options.control.attach();
        let state = Arc::new(RunState {
            control: options.control.clone(),
            stop: attached.stop.clone(),
            commands: attached.commands.clone(),
            events,
            plan: plan.clone(),
            label: options.label.clone(),
            group: options.group.clone(),
            started: Instant::now(),
            has_begun: AtomicBool::new(false),
            gauges: plan.0.stages.iter().map(|_| Gauge::default()).collect(),
        });
        let turns = self.0.shared.turns.of_run(options.group.as_deref(), options.weight);
        let counted = self.0.active.add(Some(&state));
        // Asked after it was counted: who drains the host sees it, or it sees that.
        let is_late = self.0.shared.admission.is_closed();
        let (shared, options) = (self.0.shared.clone(), options.clone());
        let run = Run { shared, options, state: state.clone(), attached, turns, is_late, spawner };
        New { run, state, counted }
    }
}

/// A run that nobody has polled yet.
struct New {
    run: Run,
    state: Arc<RunState>,
    counted: Counted,
}

impl Run {
    /// Runs, tells those who watch that it is over, and is counted no more.
    async fn finished(self, plan: &Planned, ends: Ends, counted: Counted) -> Outcome {
        let over = event::Over(self.state.events.clone());
        let outcome = self.run(plan, ends).await;
        drop(over);
        drop(counted);
        outcome
    }
}
