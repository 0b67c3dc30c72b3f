//! Whose turn it is: of runs that want processor time, threads that wait for files, or a compiler.
//!
//! Turns go by run, then by stage inside it: three hundred stages of one run get no more than the one of another.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::fair::{Share, Slot, Slots};

/// Threads that wait for files for guests at once, and those of one run.
const FILES: usize = 256;
const FILES_OF_ONE: usize = 32;
/// Compilers at once, and those of one run: their memory adds up.
const COMPILERS: usize = 3;
const COMPILERS_OF_ONE: usize = 2;
/// Compilers of small files at once, which wait for no large one.
const QUICK: usize = 3;
const QUICK_OF_ONE: usize = 2;

/// How many compilations this process has under way at once, where no process of their own does them, and those of one run.
pub(crate) const COMPILED_HERE: usize = 4;
const COMPILED_HERE_OF_ONE: usize = 3;

static COMPILING_HERE: LazyLock<Slots> = LazyLock::new(|| Slots::new(COMPILED_HERE, COMPILED_HERE_OF_ONE, true));
static QUICKLY_HERE: LazyLock<Slots> = LazyLock::new(|| Slots::new(QUICK, QUICK_OF_ONE, true));

/// What all runs of a host take turns for.
#[derive(Debug)]
pub(crate) struct Turns {
    processors: Slots,
    files: Slots,
    compilers: Slots,
    quick: Slots,
    /// Runs that go on.
    runs: Arc<AtomicUsize>,
    /// Groups of which some do, by their names.
    groups: Mutex<HashMap<String, Weak<Group>>>,
}

impl Turns {
    /// Turns of stages that run on that many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            // Whoever only asks for a moment finds a thread.
            processors: Slots::new(threads.saturating_sub(1), usize::MAX, false),
            files: Slots::new(FILES, FILES_OF_ONE, true),
            compilers: Slots::new(COMPILERS, COMPILERS_OF_ONE, true),
            quick: Slots::new(QUICK, QUICK_OF_ONE, true),
            runs: Arc::default(),
            groups: Mutex::default(),
        }
    }

    /// The turns of one run: of a group, of which it has so much as its weight says, or of its own.
    pub(crate) fn of_run(&self, group: Option<&str>, weight: u32) -> RunTurns {
        self.runs.fetch_add(1, Relaxed);
        let group = group.map(|group| self.group(group));
        let share = |slots: &Slots, of: fn(&Group) -> &Share| match &group {
            Some(group) => of(group).under(weight),
            None => slots.share(1),
        };
        RunTurns(Arc::new(OfRun {
            processors: share(&self.processors, |group| &group.processors),
            others: OnceLock::new(),
            slots: (self.files.clone(), self.compilers.clone(), self.quick.clone()),
            weight,
            group,
            here: OnceLock::new(),
            runs: self.runs.clone(),
        }))
    }

    fn group(&self, name: &str) -> Arc<Group> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(name).and_then(Weak::upgrade) {
            return group;
        }
        // Those whose runs are over are gone.
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::new(Group {
            processors: self.processors.share(1),
            files: self.files.share(1),
            compilers: self.compilers.share(1),
            quick: self.quick.share(1),
        });
        groups.insert(name.to_owned(), Arc::downgrade(&group));
        group
    }
}

/// The shares that the runs of one group have together.
#[derive(Debug)]
struct Group {
    processors: Share,
    files: Share,
    compilers: Share,
    quick: Share,
}

/// A run's shares of what not every run needs.
#[derive(Debug)]
struct Others {
    files: Share,
    compilers: Share,
    quick: Share,
}

/// A run's share of all turns; the run goes on as long as this lives.
#[derive(Clone, Debug)]
pub(crate) struct RunTurns(Arc<OfRun>);

#[derive(Debug)]
struct OfRun {
    processors: Share,
    others: OnceLock<Others>,
    /// For threads that wait for files, compilers and quick ones.
    slots: (Slots, Slots, Slots),
    weight: u32,
    group: Option<Arc<Group>>,
    /// Of what is compiled in this process: large and small.
    here: OnceLock<(Share, Share)>,
    runs: Arc<AtomicUsize>,
}

impl OfRun {
    fn others(&self) -> &Others {
        self.others.get_or_init(|| {
            let (files, compilers, quick) = &self.slots;
            match &self.group {
                Some(group) => Others {
                    files: group.files.under(self.weight),
                    compilers: group.compilers.under(self.weight),
                    quick: group.quick.under(self.weight),
                },
                None => Others { files: files.share(1), compilers: compilers.share(1), quick: quick.share(1) },
            }
        })
    }
}

impl Drop for OfRun {
    fn drop(&mut self) {
        self.runs.fetch_sub(1, Relaxed);
    }
}

impl RunTurns {
    /// Whether the run has to wait for its turn: it used more than others that wait.
    pub(super) fn must_wait(&self) -> bool {
        self.0.runs.load(Relaxed) > 1 && self.0.processors.is_ahead()
    }

    /// Counts processor time to the run.
    pub(super) fn used(&self, time: Duration) {
        if self.0.runs.load(Relaxed) > 1 {
            self.0.processors.charge(time);
        }
    }

    /// A turn to use a processor for a slice of time. Cancel safe.
    pub(super) async fn processor(&self) -> Slot {
        self.0.processors.slot().await
    }

    /// A turn to keep a thread waiting for files. Cancel safe.
    pub(super) async fn file_thread(&self) -> Slot {
        self.0.others().files.slot().await
    }

    /// A turn to have a process compile something. Cancel safe.
    pub(super) async fn compiler(&self, is_small: bool) -> Slot {
        let others = self.0.others();
        if is_small { others.quick.slot().await } else { others.compilers.slot().await }
    }

    /// A turn to compile something in this process. Cancel safe.
    pub(super) async fn compiling_here(&self, is_small: bool) -> Slot {
        let (large, small) = self.0.here.get_or_init(|| (COMPILING_HERE.share(1), QUICKLY_HERE.share(1)));
        if is_small { small.slot().await } else { large.slot().await }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// A turn, if there is one at once.
    fn at_once(turn: impl Future<Output = Slot>) -> Option<Slot> {
        match pin!(turn).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn threads_that_wait_for_files_are_bounded_for_a_run_and_for_all() {
        let turns = Turns::new(2);
        let runs: Vec<_> = (0..9).map(|_| turns.of_run(None, 1)).collect();
        let mut held = Vec::new();
        for run in &runs[..8] {
            held.extend((0..32).map(|_| at_once(run.file_thread()).expect("a run has its share")));
            assert!(at_once(run.file_thread()).is_none(), "and no more");
        }
        // All others wait then, until somebody is done.
        assert!(at_once(runs[8].file_thread()).is_none());
        held.pop();
        assert!(at_once(runs[8].file_thread()).is_some());
    }

    #[test]
    fn who_used_much_waits() {
        let turns = Turns::new(2);
        let (modest, greedy) = (turns.of_run(None, 1), turns.of_run(None, 1));
        modest.used(Duration::from_micros(500));
        greedy.used(Duration::from_secs(1));
        assert!(greedy.must_wait() && !modest.must_wait());
        // Alone it need not.
        drop(modest);
        assert!(!greedy.must_wait());
    }

    #[test]
    fn who_is_of_a_group_waits_for_what_the_group_used() {
        let turns = Turns::new(2);
        let [first, second, other] = [Some("many"), Some("many"), None].map(|group| turns.of_run(group, 1));
        first.used(Duration::from_secs(1));
        for run in [&second, &other] {
            run.used(Duration::from_micros(500));
        }
        assert!(first.must_wait() && second.must_wait() && !other.must_wait());
        // A group is gone with its last run, and begins anew.
        drop((first, second));
        let again = turns.of_run(Some("many"), 1);
        again.used(Duration::from_micros(500));
        assert!(!again.must_wait());
    }

    #[test]
    fn compilers_are_shared_and_small_ones_are_quick() {
        let turns = Turns::new(2);
        let (first, second) = (turns.of_run(None, 1), turns.of_run(None, 1));
        let get = |run: &RunTurns, is_small: bool| at_once(run.compiler(is_small));
        let held = [get(&first, false), get(&first, false)];
        assert!(held.iter().all(Option::is_some) && get(&first, false).is_none(), "one run has two of three");
        let last = get(&second, false);
        assert!(last.is_some() && get(&second, false).is_none());
        // Whoever has much to compile holds up nobody who has little, and whoever has much that is little leaves some to others.
        let quick = [get(&first, true), get(&first, true)];
        assert!(quick.iter().all(Option::is_some) && get(&first, true).is_none() && get(&second, true).is_some());
    }
}
