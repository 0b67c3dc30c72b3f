//! Process trees, as `/proc` shows them.

use std::{fs, sync::OnceLock, time::Duration};

use procfs::{
    ProcError,
    process::{Process, Stat},
};
use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal},
    time::{ClockId, clock_gettime},
};

use super::children;

/// A process that was seen, told from a later one of the same id by when it started (in clock ticks since the system did; 0: it was not
/// looked at).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Member {
    pub(crate) pid: Pid,
    started: u64,
}

/// Since when the system runs, by the clock that processes' beginnings are told by.
pub(super) fn clock() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

impl Member {
    fn of(stat: &Stat) -> Option<Self> {
        Some(Self { pid: Pid::from_raw(stat.pid)?, started: stat.starttime })
    }

    /// One of this id, whenever it started.
    pub(super) fn any(pid: Pid) -> Self {
        Self { pid, started: 0 }
    }

    /// A child that was started between two readings of [the clock](clock). When that was is what `/proc` will say, and is not looked up
    /// there: that takes longer than the child needs to begin.
    pub(super) fn born(pid: Pid, before: Duration, after: Duration) -> Self {
        /// Whether the kernel counts as is counted here; not known before it was asked once.
        static AGREES: OnceLock<bool> = OnceLock::new();
        let ticks = |time: Duration| time.as_nanos() / (1_000_000_000 / u128::from(clock_ticks_per_second()));
        let started = u64::try_from(ticks(before)).ok().filter(|_| ticks(before) == ticks(after));
        match (started, AGREES.get()) {
            (Some(started), Some(true)) => Self { pid, started },
            (started, known) => {
                let now = Self::now(pid);
                if let (Some(started), None, Some(now)) = (started, known, now) {
                    let _ = AGREES.set(now.started == started);
                }
                now.unwrap_or(Self::any(pid))
            }
        }
    }

    /// The process that has this id now.
    pub(super) fn now(pid: Pid) -> Option<Self> {
        Self::of(&stat(pid)?)
    }

    /// The process that a thread belongs to.
    pub(super) fn of_thread(thread: i32) -> Option<Self> {
        Self::now(Pid::from_raw(Process::new(thread).and_then(|process| process.status()).ok()?.tgid)?)
    }

    pub(super) fn from_parts(pid: Pid, started: u64) -> Self {
        Self { pid, started }
    }

    pub(super) fn id(self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(super) fn started(self) -> u64 {
        self.started
    }

    /// Whether this is a later process of the same id.
    fn is_another(&self, stat: &Stat) -> bool {
        stat.pid == self.pid.as_raw_nonzero().get() && self.started != 0 && stat.starttime != self.started
    }

    /// Whether it still lives (a zombie does not).
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.starttime == self.started && !is_dead(&stat))
    }

    /// Signals this very process, or nobody.
    pub(crate) fn signal(self, signal: Signal) {
        match pidfd_open(self.pid, PidfdFlags::empty()) {
            // The descriptor stands for whoever has the id now; that it is the one we mean is checked afterwards.
            Ok(pidfd) if self.is_alive() => _ = pidfd_send_signal(pidfd, signal),
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            // Where there are no pidfds.
            Err(_) if self.is_alive() => _ = kill_process(self.pid, signal),
            Err(_) => {}
        }
    }
}

/// Whether none of its threads goes on. One whose first thread has ended looks dead by its state alone.
fn is_dead(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1
}

/// The resident pages of a process. Where its first thread has ended, only the others show them.
fn resident(stat: &Stat) -> u64 {
    if stat.rss > 0 {
        return stat.rss;
    }
    let tasks = Process::new(stat.pid).and_then(|process| process.tasks());
    tasks.into_iter().flatten().flatten().filter_map(|task| Some(task.stat().ok()?.rss)).max().unwrap_or(0)
}

fn stat(pid: Pid) -> Option<Stat> {
    Process::new(pid.as_raw_nonzero().get()).and_then(|process| process.stat()).ok()
}

/// What a process tree uses.
#[derive(Clone, Debug, Default)]
pub(crate) struct TreeUsage {
    pub(crate) processes: u64,
    /// Resident memory of all of them, in bytes.
    pub(crate) resident: u64,
    /// Processor time of all of them, and of those they waited for.
    pub(crate) cpu: Duration,
    pub(crate) members: Vec<Member>,
    /// All that were looked at.
    pub(super) seen: Vec<Seen>,
    /// Whether some could not be looked at, living or not.
    pub(crate) is_partial: bool,
}

/// A process as it was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(super) member: Member,
    /// The id of its parent.
    pub(super) parent: i32,
    /// Processor time of it and of those that it waited for.
    pub(super) cpu: Duration,
    /// Of those that it waited for.
    pub(super) waited: Duration,
}

/// Whose processes are meant: those of a command, wherever they are.
#[derive(Clone, Debug)]
pub(crate) struct Kin {
    /// The process that the command was started as. It may be gone.
    pub(super) leader: Member,
    /// Whether it leads a process group.
    pub(super) leads: bool,
    /// The sessions of the command.
    pub(super) sessions: Vec<Member>,
}

impl Kin {
    /// Those of these that are in the command's group and sessions. An id that belongs to another process by now means nobody.
    fn of<'a>(&self, stats: &'a [Stat]) -> Vec<&'a Stat> {
        let group = self.leader.pid.as_raw_nonzero().get();
        let leads = self.leads && stats.iter().all(|stat| !self.leader.is_another(stat));
        let mut found: Vec<_> = stats.iter().filter(|stat| leads && stat.pgrp == group).collect();
        let sessions = of_sessions(&self.sessions, stats);
        found.extend(sessions.filter(|stat| !(leads && stat.pgrp == group)));
        found
    }

    /// The living among them that are not in the leader's group.
    fn outside_the_group(&self) -> Vec<Member> {
        let stats: Vec<_> = all_stats().collect();
        let group = self.leader.pid.as_raw_nonzero().get();
        self.of(&stats).into_iter().filter(|stat| stat.pgrp != group && !is_dead(stat)).filter_map(Member::of).collect()
    }
}

/// What a command uses: its leader, what that started, and, if `thorough` is asked for, whoever else is in its group and sessions.
/// Being thorough looks at every process of the machine.
pub(crate) fn usage(kin: &Kin, thorough: bool) -> TreeUsage {
    let leader = kin.leader.pid;
    let by_children = if thorough { None } else { tree_by_children(leader) };
    // The kernel's lists of children may miss one when another ends.
    let (stats, is_partial) = match by_children {
        Some(stats) => (stats, true),
        None => tree_of_all(leader, Some(kin).filter(|_| thorough)),
    };
    let page = rustix::param::page_size() as u64;
    let mut usage = TreeUsage { is_partial, ..TreeUsage::default() };
    for stat in &stats {
        let (cpu, waited) = (cpu_time(stat), ticks(stat.cutime.saturating_add(stat.cstime)));
        usage.cpu += cpu;
        usage.seen.extend(Member::of(stat).map(|member| Seen { member, parent: stat.ppid, cpu, waited }));
        if is_dead(stat) {
            continue;
        }
        usage.processes += 1;
        usage.resident += resident(stat) * page;
        usage.members.extend(Member::of(stat));
    }
    usage
}

/// What is below `root`, without it.
pub(super) fn descendants(root: Pid) -> Vec<Member> {
    let stats = tree_by_children(root).unwrap_or_else(|| tree_of_all(root, None).0);
    stats.iter().filter(|stat| stat.pid != root.as_raw_nonzero().get()).filter_map(Member::of).collect()
}

/// The living members of commands' groups and sessions, in their order. Looks at every process of the machine.
pub(crate) fn members(kins: &[Kin]) -> Vec<Vec<Member>> {
    let stats: Vec<_> = all_stats().collect();
    let living = |kin: &Kin| kin.of(&stats).into_iter().filter(|stat| !is_dead(stat)).filter_map(Member::of).collect();
    kins.iter().map(living).collect()
}

/// Those of these sessions that have members.
pub(super) fn living_sessions(sessions: &[Member]) -> Vec<Member> {
    let stats: Vec<_> = all_stats().collect();
    let lives = |session: &&Member| {
        // One that is about to be made is its process so far.
        let id = session.pid.as_raw_nonzero().get();
        stats.iter().all(|stat| !session.is_another(stat))
            && stats.iter().any(|stat| stat.session == id || stat.pid == id)
    };
    sessions.iter().filter(lives).copied().collect()
}

/// What this process has adopted, where it adopts orphans: what is below it, was not started by itself, is not dead and still in its
/// own process group. Adopted children that are dead are reaped.
pub(crate) fn orphans() -> Vec<Member> {
    let own = rustix::process::getpid();
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    let below = tree_by_children(own).unwrap_or_else(|| tree_of_all(own, None).0);
    let mut living = Vec::new();
    for stat in below.iter().filter(|stat| stat.pid != own.as_raw_nonzero().get()) {
        let Some(member) = Member::of(stat).filter(|member| !children::is_ours(member.pid)) else { continue };
        if is_dead(stat) && stat.ppid == own.as_raw_nonzero().get() {
            children::reap_orphan(member.pid);
        } else if !is_dead(stat) && stat.pgrp == group {
            living.push(member);
        }
    }
    living
}

/// The name of a process, for people.
pub(crate) fn name_of(pid: Pid) -> String {
    stat(pid).map_or_else(|| "a process".into(), |stat| stat.comm)
}

/// Whether any of these processes has the file with this inode number open: `None`, if that cannot be seen.
pub(crate) fn writes_to(members: &[Member], inode: u64) -> Option<bool> {
    let target = format!("pipe:[{inode}]");
    for member in members {
        let files = fs::read_dir(format!("/proc/{}/fd", member.pid.as_raw_nonzero())).ok()?;
        if files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == target.as_str()))
        {
            return Some(true);
        }
    }
    Some(false)
}

/// Kills a process and everything below it. Each is stopped before what it started is looked for, so that nothing new
/// appears behind our back.
pub(super) fn kill_tree(root: Pid) {
    let mut all = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if all.contains(&pid) || kill_process(pid, Signal::STOP).is_err() {
            continue;
        }
        all.push(pid);
        next.extend(descendants(pid).iter().map(|member| member.pid));
    }
    for pid in all {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Signals the members of a command's sessions that are not in its leader's group.
pub(super) fn signal_outside(kin: &Kin, signal: Signal) {
    for member in kin.outside_the_group() {
        member.signal(signal);
    }
}

/// Whether a command's sessions have living members that are not in its leader's group.
pub(super) fn has_outside(kin: &Kin) -> bool {
    !kin.outside_the_group().is_empty()
}

/// Kills sessions, which may become more meanwhile. Each process is stopped before others are looked for, so that nothing new appears
/// behind our back.
pub(super) fn kill_sessions(sessions: impl Fn() -> Vec<Member>) {
    // Far more than it takes: who is stopped starts nothing.
    const ROUNDS: usize = 1000;
    // Who was not stopped yet may have woken others. Dying takes a moment, too.
    const KILLS: usize = 20;
    let mut stopped: Vec<Member> = Vec::new();
    let mut kills = 0;
    for _ in 0..ROUNDS {
        let stats: Vec<_> = all_stats().collect();
        let members = of_sessions(&sessions(), &stats).filter(|stat| !is_dead(stat)).filter_map(Member::of);
        let living: Vec<_> = members.collect();
        let new: Vec<_> = living.iter().filter(|member| !stopped.contains(member)).copied().collect();
        if living.is_empty() || kills == KILLS {
            return;
        }
        let (whom, signal) = if new.is_empty() { (&living, Signal::KILL) } else { (&new, Signal::STOP) };
        kills += usize::from(new.is_empty());
        for member in whom {
            member.signal(signal);
        }
        stopped.extend(&new);
    }
}

/// Those of these that are in sessions. An id that belongs to another process by now means nobody.
fn of_sessions<'a>(sessions: &[Member], stats: &'a [Stat]) -> impl Iterator<Item = &'a Stat> + use<'a> {
    let theirs = sessions.iter().filter(|session| stats.iter().all(|stat| !session.is_another(stat)));
    let ids: Vec<_> = theirs.map(|session| session.pid.as_raw_nonzero().get()).collect();
    stats.iter().filter(move |stat| ids.contains(&stat.session))
}

/// Processor time of a process and of those that it waited for.
fn cpu_time(stat: &Stat) -> Duration {
    let own = i64::try_from(stat.utime.saturating_add(stat.stime)).unwrap_or(i64::MAX);
    ticks(own.saturating_add(stat.cutime).saturating_add(stat.cstime))
}

fn ticks(ticks: i64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(u64::try_from(ticks).unwrap_or(0).saturating_mul(1000) / per_second)
}

/// A process and everything below it, by the kernel's lists of children; `None` where it keeps none.
fn tree_by_children(root: Pid) -> Option<Vec<Stat>> {
    let mut found = Vec::new();
    let mut next = vec![root.as_raw_nonzero().get()];
    while let Some(pid) = next.pop() {
        // Processes come and go while we look.
        let Ok(process) = Process::new(pid) else { continue };
        let Ok(stat) = process.stat() else { continue };
        if !is_dead(&stat) {
            for task in process.tasks().into_iter().flatten().flatten() {
                match task.children() {
                    Ok(children) => next.extend(children.into_iter().filter_map(|child| i32::try_from(child).ok())),
                    Err(ProcError::NotFound(_)) if Process::new(pid).is_ok_and(|process| process.is_alive()) => {
                        return None;
                    }
                    Err(_) => {}
                }
            }
        }
        found.push(stat);
    }
    Some(found)
}

/// A process, everything below it, and whoever is of `kin`, by looking at every process; and whether some could not be looked at.
fn tree_of_all(root: Pid, kin: Option<&Kin>) -> (Vec<Stat>, bool) {
    let (mut others, is_partial) = look_at_all();
    let kin: Vec<i32> = kin.iter().flat_map(|kin| kin.of(&others)).map(|stat| stat.pid).collect();
    let mut found: Vec<Stat> = Vec::new();
    let belongs = |stat: &Stat, found: &[Stat]| {
        stat.pid == root.as_raw_nonzero().get()
            || kin.contains(&stat.pid)
            || found.iter().any(|parent| parent.pid == stat.ppid)
    };
    loop {
        let (new, rest): (Vec<_>, Vec<_>) = others.into_iter().partition(|stat| belongs(stat, &found));
        if new.is_empty() {
            return (found, is_partial);
        }
        found.extend(new);
        others = rest;
    }
}

fn all_stats() -> impl Iterator<Item = Stat> {
    look_at_all().0.into_iter()
}

/// Every process, and whether some could not be looked at though they may be there.
fn look_at_all() -> (Vec<Stat>, bool) {
    let Ok(processes) = procfs::process::all_processes() else { return (Vec::new(), true) };
    let (mut found, mut is_partial) = (Vec::new(), false);
    for process in processes {
        match process.and_then(|process| process.stat()) {
            Ok(stat) => found.push(stat),
            // Whoever may not be looked at is another user's, and never was.
            Err(ProcError::NotFound(_) | ProcError::PermissionDenied(_)) => {}
            // It has ended while it was read.
            Err(ProcError::Io(error, _)) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(_) => is_partial = true,
        }
    }
    (found, is_partial)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use procfs::FromRead;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test starts what it looks at")]
    fn shell(arguments: &[&str]) -> (Child, Pid) {
        let mut child = Command::new("sh").args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        // It says when it is as deep as it will be.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        (child, pid)
    }

    #[test]
    fn gp_82_five_nested_shells_are_five_children() {
        // Each shell runs its own text once more, until the last one sleeps.
        let script = r#"if [ $1 -gt 0 ]; then sh -c "$0" "$0" $(($1 - 1)); :; else echo ready; exec sleep 100; fi"#;
        let (mut child, pid) = shell(&["-c", script, script, "5"]);
        assert_eq!(descendants(pid).len(), 5);
        assert_eq!(tree_of_all(pid, None).0.len(), 6);
        let kin = Kin { leader: Member::any(pid), leads: false, sessions: Vec::new() };
        let usage = usage(&kin, false);
        assert_eq!((usage.processes, usage.members.len()), (6, 6));
        assert!(usage.resident > 0);
        kill_tree(pid);
        child.wait().unwrap();
        // Dying takes a moment.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while usage.members.iter().any(|member| member.is_alive()) {
            assert!(std::time::Instant::now() < deadline, "they live on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn gp_83_a_process_without_children_has_none() {
        let (mut child, pid) = shell(&["-c", "echo ready; exec sleep 100"]);
        assert!(descendants(pid).is_empty());
        kill_tree(pid);
        child.wait().unwrap();
        assert!(descendants(pid).is_empty());
        let kin = Kin { leader: Member::any(pid), leads: false, sessions: Vec::new() };
        assert_eq!(usage(&kin, false).processes, 0);
    }

    #[test]
    fn when_a_child_was_born_is_what_the_system_says() {
        for _ in 0..40 {
            let before = clock();
            let (mut child, pid) = shell(&["-c", "echo ready; exec sleep 100"]);
            let born = Member::born(pid, before, clock());
            assert_eq!(Some(born), Member::now(pid));
            kill_tree(pid);
            child.wait().unwrap();
        }
    }

    #[test]
    fn gp_84_malformed_lines_are_refused() {
        for line in ["", "1", "1 (sh", "1 sh) S 1", "x (sh) S 1 1 1 0 -1", "1 (a) b (c) S 1 2"] {
            assert!(Stat::from_read(line.as_bytes()).is_err(), "{line:?}");
        }
        let own = fs::read("/proc/self/stat").unwrap();
        assert!(Stat::from_read(&own[..]).is_ok());
        // A name may hold anything.
        let odd = String::from_utf8_lossy(&own).into_owned();
        let (_, rest) = odd.rsplit_once(')').unwrap();
        let odd = format!("1 (a) (b c){rest}");
        assert_eq!(Stat::from_read(odd.as_bytes()).unwrap().comm, "a) (b c");
    }
}
