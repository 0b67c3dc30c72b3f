//! Looking at what a command's processes use, as long as there are any.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    outcome::{LimitKind, StageExit},
    plan::CommandLimits,
    process::{Leader, Tally, TreeUsage, usage},
};

/// How often what has limits is looked at.
pub(super) const WATCHED: Duration = Duration::from_millis(50);

/// What of a command's limits is over.
pub(super) fn over(limits: &CommandLimits, usage: &TreeUsage, cpu: Duration) -> Option<StageExit> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let over = |which, limit: Option<u64>, used: u64| {
        let exit = |limit| StageExit::Limit { which, limit: Some(limit), used: Some(used), asked: None };
        limit.filter(|limit| used > *limit).map(exit)
    };
    over(LimitKind::Memory, limits.memory, usage.resident)
        .or_else(|| over(LimitKind::CpuTime, limits.cpu_time.map(millis), millis(cpu)))
        .or_else(|| over(LimitKind::Processes, limits.processes, usage.processes))
}

/// Holds the limits over what a command left behind when its first process ended. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct Watch {
    task: tokio::task::JoinHandle<()>,
    note: Arc<Mutex<Option<String>>>,
}

impl Watch {
    pub(super) fn start(leader: Arc<Leader>, limits: CommandLimits, mut tally: Tally) -> Self {
        let note = Arc::new(Mutex::new(None));
        let told = note.clone();
        let task = tokio::spawn(async move {
            loop {
                let usage = usage(&leader.kin(), true);
                if usage.processes == 0 && !usage.is_partial {
                    return;
                }
                let cpu = tally.add(&usage);
                if let Some(exit) = over(&limits, &usage, cpu) {
                    let note = format!("what it left behind {exit}: killed");
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(note);
                    return kill(&leader).await;
                }
                tokio::time::sleep(WATCHED).await;
            }
        });
        Self { task, note }
    }

    /// What happened.
    pub(crate) fn note(&self) -> Option<String> {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Kills all of a command, whether or not its leader is reaped, and what appears meanwhile.
async fn kill(leader: &Leader) {
    const ROUNDS: usize = 20;
    for _ in 0..ROUNDS {
        leader.kill();
        let left = usage(&leader.kin(), true).members;
        if left.is_empty() {
            return;
        }
        left.iter().for_each(|member| member.signal(Signal::KILL));
        tokio::time::sleep(WATCHED).await;
    }
}
