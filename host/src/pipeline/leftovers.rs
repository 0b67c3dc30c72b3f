//! What commands leave behind: their standard error still open, processes of their group still running.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    joint::Stop,
    plan::{PlannedStage, Work},
    process::{Cgroup, Leader, Member, members, name_of, orphans},
    spec::Leftovers,
    stage::{StageEnd, Surroundings},
};

/// How long what was killed may take to let go of what it held.
const KILLED: Duration = Duration::from_millis(200);

fn keeps(stages: &[Arc<PlannedStage>], index: usize) -> bool {
    match &stages[index].work {
        Work::Command(work) => work.leftovers == Leftovers::Keep,
        Work::Wasm(_) | Work::Function(_) => false,
    }
}

/// Kills what ended stages left behind in their groups. Leaders that have ended are zombies still, so their groups are theirs.
pub(super) fn kill<'a>(ended: impl Iterator<Item = &'a StageEnd>, stages: &[Arc<PlannedStage>]) {
    for end in ended.filter(|ended| !keeps(stages, ended.index)) {
        if let Some(leader) = &end.leader {
            leader.kill();
        }
    }
}

/// Reaps adopted orphans from time to time, where this process adopts them. Never returns where it does not.
pub(super) async fn reap_orphans(around: &Surroundings) {
    const NOW_AND_THEN: Duration = Duration::from_secs(1);
    if !around.adopts_orphans {
        return std::future::pending().await;
    }
    tokio::time::sleep(NOW_AND_THEN).await;
    orphans();
}

/// Ends what commands left behind, once it has lingered long enough, and reaps their leaders. All stages have ended.
pub(super) async fn end(ended: &mut [StageEnd], stages: &[Arc<PlannedStage>], around: &Surroundings, stop: &Stop) {
    if ended.iter().all(|ended| ended.leader.is_none()) {
        return;
    }
    let mut deadline = Instant::now() + around.linger;
    if stop.is_requested() {
        kill(ended.iter(), stages);
        deadline = Instant::now() + KILLED;
    }
    let outside = async {
        stop.requested_from_outside().await;
        tokio::time::sleep(KILLED).await;
    };
    let waiting = async {
        for ended in ended.iter_mut() {
            if let Some(log) = &mut ended.log {
                log.ended().await;
            }
        }
    };
    tokio::select! {
        biased;
        () = waiting => {}
        () = tokio::time::sleep_until(deadline.into()) => {}
        () = outside => {}
    }
    reap(ended, stages, deadline, stop).await;
    adopted(ended, stages, around, deadline, stop).await;
    for end in ended.iter_mut() {
        end.notes.extend(end.watch.take().and_then(|watch| watch.note()));
        let Some(mut log) = end.log.take() else { continue };
        if log.is_open() && !keeps(stages, end.index) {
            let _ = tokio::time::timeout(KILLED, log.ended()).await;
        }
        if log.is_open() {
            end.notes.push("a process that it left behind still holds its standard error open".into());
        }
        end.stderr = log.text();
    }
}

async fn reap(ended: &mut [StageEnd], stages: &[Arc<PlannedStage>], deadline: Instant, stop: &Stop) {
    let mut groups = Vec::new();
    for end in ended.iter_mut() {
        let Some(leader) = &end.leader else { continue };
        let has_members = leader.reap();
        let keeps = keeps(stages, end.index);
        if has_members && !keeps {
            groups.push((end.index, leader.clone()));
        } else {
            leader.forget();
        }
        if let Some(cgroup) = end.cgroup.take() {
            if keeps {
                cgroup.leave();
                continue;
            }
            wait_for_cgroup(&cgroup, deadline, stop).await;
            if cgroup.population() > 0 {
                end.notes.push(format!("{} left behind in its cgroup, killed", processes(cgroup.population())));
            }
            // Killing takes a moment, and so does the removal that waits for it.
            let _ = tokio::task::spawn_blocking(move || drop(cgroup)).await;
        }
    }
    if groups.is_empty() {
        return;
    }
    let kins: Vec<_> = groups.iter().map(|(_, leader)| leader.kin()).collect();
    let found = loop {
        let found = members(&kins);
        if found.iter().all(Vec::is_empty) || is_over(deadline, stop) {
            break found;
        }
        wait_for(&found.into_iter().flatten().collect::<Vec<_>>(), deadline, Some(stop)).await;
    };
    for ((index, leader), left) in groups.into_iter().zip(&found) {
        if left.is_empty() {
            leader.forget();
            continue;
        }
        let names: Vec<_> =
            left.iter().map(|member| format!("{} ({})", name_of(member.pid), member.pid.as_raw_nonzero())).collect();
        kill_members(left, &leader).await;
        leader.forget();
        let note = format!("{} left behind, killed: {}", processes(left.len()), names.join(", "));
        ended[index].notes.push(note);
    }
}

/// Ends what this process adopted, where commands have no groups of their own by which it would be found.
async fn adopted(
    ended: &mut [StageEnd],
    stages: &[Arc<PlannedStage>],
    around: &Surroundings,
    deadline: Instant,
    stop: &Stop,
) {
    if !around.adopts_orphans || around.own_groups || (0..stages.len()).any(|index| keeps(stages, index)) {
        return;
    }
    let mut left = orphans();
    while !left.is_empty() && !is_over(deadline, stop) {
        wait_for(&left, deadline, Some(stop)).await;
        left = orphans();
    }
    if left.is_empty() {
        return;
    }
    let names: Vec<_> =
        left.iter().map(|member| format!("{} ({})", name_of(member.pid), member.pid.as_raw_nonzero())).collect();
    if let Some(last) = ended.iter_mut().rev().find(|ended| ended.leader.is_some()) {
        last.notes.push(format!(
            "{} left behind by this or another stage, killed: {}",
            processes(left.len()),
            names.join(", ")
        ));
    }
    const ROUNDS: usize = 20;
    for _ in 0..ROUNDS {
        for member in &left {
            member.signal(Signal::KILL);
        }
        wait_for(&left, Instant::now() + KILLED, None).await;
        left = orphans();
        if left.is_empty() {
            return;
        }
    }
}

fn processes(count: usize) -> String {
    if count == 1 { "a process".into() } else { format!("{count} processes") }
}

/// Whether what lingers has had its time: the deadline, or a stop from outside, which somebody waits for.
fn is_over(deadline: Instant, stop: &Stop) -> bool {
    stop.is_from_outside() || Instant::now() >= deadline
}

/// Waits until none of these processes lives, or the deadline, or a stop from outside.
async fn wait_for(members: &[Member], deadline: Instant, stop: Option<&Stop>) {
    const LOOK: Duration = Duration::from_millis(10);
    let is_over = || stop.map_or_else(|| Instant::now() >= deadline, |stop| is_over(deadline, stop));
    while members.iter().any(|member| member.is_alive()) && !is_over() {
        tokio::time::sleep(LOOK.min(deadline.saturating_duration_since(Instant::now()))).await;
    }
}

async fn wait_for_cgroup(cgroup: &Cgroup, deadline: Instant, stop: &Stop) {
    const LOOK: Duration = Duration::from_millis(10);
    while cgroup.population() > 0 && !is_over(deadline, stop) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Kills what is left of a command, and what appears meanwhile.
async fn kill_members(found: &[Member], leader: &Leader) {
    const ROUNDS: usize = 20;
    let mut left = found.to_vec();
    for _ in 0..ROUNDS {
        for member in &left {
            member.signal(Signal::KILL);
        }
        wait_for(&left, Instant::now() + KILLED, None).await;
        left = members(&[leader.kin()]).concat();
        if left.is_empty() {
            return;
        }
    }
}
