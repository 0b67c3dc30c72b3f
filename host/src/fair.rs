//! Slots that many want, given by share and then by arrival.
//!
//! Start-time fair queueing: each share has a clock of its own, which what it uses moves on, by its weight. The next free slot
//! goes to the share among those that wait whose clock is furthest behind, and there to whoever came first. So a share of three
//! hundred waiters gets no more than a share of one. Shares may stand under others: a slot is then found from the top down. A share that
//! was idle gets a little credit and no more: what it did not use is gone.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// What a share may use before it is ahead of the others, in nanoseconds.
const BURST: u64 = 2_500_000;
/// How far behind the others an idle share can fall, in nanoseconds: what it may use at once when it comes back.
const CREDIT: u64 = 20_000_000;
/// What is used is noted in pieces of so many nanoseconds.
const PIECE: u64 = 250_000;

/// Slots, and who waits for them.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Whether a slot costs what time it was held.
    by_time: bool,
    /// The most slots that one share has at once.
    of_one: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// The first one is all of them.
    nodes: Vec<Option<Node>>,
}

/// A share, or a group of shares.
#[derive(Debug)]
struct Node {
    parent: usize,
    weight: u64,
    /// What it used, in nanoseconds by its weight.
    used: u64,
    /// How far those below it have come: what had used so much was the last to get a slot.
    clock: u64,
    /// Those below it that wait, by what they used.
    ready: BTreeSet<(u64, usize)>,
    /// Who waits here.
    queue: VecDeque<oneshot::Sender<Slot>>,
    taken: usize,
    /// How many are below it.
    below: usize,
    /// Whether nobody has the share any more.
    is_gone: bool,
}

const ROOT: usize = 0;

impl Node {
    fn new(parent: usize, weight: u64, used: u64) -> Self {
        Self {
            parent,
            weight: weight.max(1),
            used,
            clock: 0,
            ready: BTreeSet::new(),
            queue: VecDeque::new(),
            taken: 0,
            below: 0,
            is_gone: false,
        }
    }
}

impl State {
    fn node(&mut self, id: usize) -> &mut Node {
        self.nodes[id].as_mut().expect("a share keeps what it stands under")
    }

    fn is_ready(&self, id: usize, of_one: usize) -> bool {
        let node = self.nodes[id].as_ref();
        node.is_some_and(|node| !node.ready.is_empty() || !node.queue.is_empty() && node.taken < of_one)
    }

    /// Puts a node among those that wait, or takes it from there, as it is; and those above it.
    fn place(&mut self, id: usize, of_one: usize) {
        let mut id = id;
        while id != ROOT {
            let ready = self.is_ready(id, of_one);
            let (parent, used) = {
                let node = self.node(id);
                (node.parent, node.used)
            };
            let above = self.node(parent);
            let changed = if ready { above.ready.insert((used, id)) } else { above.ready.remove(&(used, id)) };
            if !changed {
                break;
            }
            id = parent;
        }
    }

    /// Moves clocks on by what a share used.
    fn charge(&mut self, id: usize, nanos: u64) {
        let mut id = id;
        while id != ROOT {
            let (parent, old, weight) = {
                let node = self.node(id);
                (node.parent, node.used, node.weight)
            };
            let above = self.node(parent);
            let new = old.max(above.clock.saturating_sub(CREDIT)).saturating_add(nanos / weight);
            if above.ready.remove(&(old, id)) {
                above.ready.insert((new, id));
            }
            self.node(id).used = new;
            id = parent;
        }
    }

    /// Whether a share, or a group that it is in, used more than others that wait. Where one of its own waits, it is: giving that one
    /// its slot moved the others' clock on, and whoever would go on without one then would go before all that wait.
    fn is_ahead(&mut self, id: usize) -> bool {
        let mut id = id;
        while id != ROOT {
            let (parent, used, waits) = {
                let node = self.node(id);
                (node.parent, node.used, !node.ready.is_empty() || !node.queue.is_empty())
            };
            if waits || used > self.node(parent).clock.saturating_add(BURST) {
                return true;
            }
            id = parent;
        }
        false
    }

    /// Notes that a share gets a slot.
    fn take(&mut self, id: usize) {
        self.free -= 1;
        self.node(id).taken += 1;
        let mut id = id;
        while id != ROOT {
            let (parent, used) = {
                let node = self.node(id);
                (node.parent, node.used)
            };
            let above = self.node(parent);
            above.clock = above.clock.max(used);
            id = parent;
        }
    }

    /// Removes a share that is gone, once the last of its slots is back and nothing is below it, and then those above it that wait for that.
    fn release(&mut self, id: usize) {
        let mut id = id;
        while id != ROOT {
            let node = self.node(id);
            if !node.is_gone || node.taken > 0 || node.below > 0 {
                return;
            }
            let parent = node.parent;
            self.nodes[id] = None;
            self.node(parent).below -= 1;
            id = parent;
        }
    }

    /// Gives free slots to those that wait.
    fn give(&mut self, slots: &Arc<Inner>) {
        while self.free > 0 {
            let mut id = ROOT;
            while let Some(&(_, next)) = self.node(id).ready.first() {
                id = next;
            }
            if id == ROOT {
                return;
            }
            let waiter = self.node(id).queue.pop_front();
            if let Some(waiter) = waiter {
                self.take(id);
                if let Err(slot) = waiter.send(Slot::new(slots, id)) {
                    // Whoever waited is gone.
                    slot.forget();
                    self.free += 1;
                    self.node(id).taken -= 1;
                }
            }
            self.place(id, slots.of_one);
        }
    }
}

impl Slots {
    /// So many slots, of which one share has `of_one` at most. `by_time`: having one costs the time that it is held; else a share
    /// costs what is charged to it.
    pub(crate) fn new(slots: usize, of_one: usize, by_time: bool) -> Self {
        let nodes = vec![Some(Node::new(ROOT, 1, 0))];
        let state = Mutex::new(State { free: slots.max(1), nodes });
        Self(Arc::new(Inner { state, by_time, of_one: of_one.max(1) }))
    }

    /// A share of them.
    pub(crate) fn share(&self, weight: u32) -> Share {
        Share::new(&self.0, None, weight)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // What is behind it stays whole between any two steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A share of slots. It is gone when the last clone is, and those below it are.
#[derive(Clone, Debug)]
pub(crate) struct Share(Arc<ShareInner>);

#[derive(Debug)]
struct ShareInner {
    slots: Arc<Inner>,
    id: usize,
    /// Used and not noted yet, in nanoseconds.
    unnoted: AtomicU64,
    /// Whether it was ahead of others when that was noted last.
    ahead: AtomicBool,
    _above: Option<Share>,
}

impl Share {
    fn new(slots: &Arc<Inner>, above: Option<Self>, weight: u32) -> Self {
        let parent = above.as_ref().map_or(ROOT, |above| above.0.id);
        let mut state = slots.lock();
        state.node(parent).below += 1;
        // It begins with no credit.
        let clock = state.node(parent).clock;
        let node = Some(Node::new(parent, u64::from(weight), clock));
        let id = match state.nodes.iter().position(Option::is_none) {
            Some(free) => {
                state.nodes[free] = node;
                free
            }
            None => {
                state.nodes.push(node);
                state.nodes.len() - 1
            }
        };
        drop(state);
        let (unnoted, ahead) = (AtomicU64::new(0), AtomicBool::new(false));
        Self(Arc::new(ShareInner { slots: slots.clone(), id, unnoted, ahead, _above: above }))
    }

    /// A share of this one: whoever waits there waits here.
    pub(crate) fn under(&self, weight: u32) -> Self {
        Self::new(&self.0.slots, Some(self.clone()), weight)
    }

    /// Notes what was used.
    pub(crate) fn charge(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if self.0.unnoted.fetch_add(nanos, Relaxed).saturating_add(nanos) >= PIECE {
            self.note(&mut self.0.slots.lock());
        }
    }

    fn note(&self, state: &mut State) {
        state.charge(self.0.id, self.0.unnoted.swap(0, Relaxed));
        self.0.ahead.store(state.is_ahead(self.0.id), Relaxed);
    }

    /// Whether it used more than others that wait, so that it should wait for a slot.
    pub(crate) fn is_ahead(&self) -> bool {
        // What is not noted yet is little.
        if !self.0.ahead.load(Relaxed) {
            return false;
        }
        self.note(&mut self.0.slots.lock());
        self.0.ahead.load(Relaxed)
    }

    /// Waits for a slot. Cancel safe: whoever gives up loses its place and nothing else.
    pub(crate) async fn slot(&self) -> Slot {
        let slots = &self.0.slots;
        let waiting = {
            let mut state = slots.lock();
            self.note(&mut state);
            let (tell, told) = oneshot::channel();
            state.node(self.0.id).queue.push_back(tell);
            state.place(self.0.id, slots.of_one);
            state.give(slots);
            told
        };
        // The share is there as long as we wait.
        waiting.await.expect("nobody but the share drops who waits in it")
    }
}

impl Drop for ShareInner {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        // Those who waited are gone: they held it. A slot may be held for longer, on a thread that nobody waits for.
        state.node(self.id).queue.clear();
        state.place(self.id, self.slots.of_one);
        state.node(self.id).is_gone = true;
        state.release(self.id);
    }
}

/// A slot; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Option<Arc<Inner>>,
    id: usize,
    since: Option<Instant>,
}

impl Slot {
    fn new(slots: &Arc<Inner>, id: usize) -> Self {
        Self { slots: Some(slots.clone()), id, since: slots.by_time.then(Instant::now) }
    }

    fn forget(mut self) {
        self.slots = None;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(slots) = self.slots.take() else { return };
        let mut state = slots.lock();
        if let Some(since) = self.since {
            state.charge(self.id, u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        state.free += 1;
        state.node(self.id).taken -= 1;
        state.place(self.id, slots.of_one);
        state.release(self.id);
        state.give(&slots);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    type Waiting<'a> = Vec<(usize, Pin<Box<dyn Future<Output = Slot> + 'a>>)>;

    /// Gives the one slot away again and again, each time for a millisecond; says how often each share had it.
    fn shared<const N: usize>(shares: &[&Share; N], waiters: [usize; N], times: usize) -> [usize; N] {
        let mut had = [0; N];
        let mut waiting: Waiting<'_> = Vec::new();
        for (index, share) in shares.iter().enumerate() {
            for _ in 0..waiters[index] {
                waiting.push((index, Box::pin(share.slot())));
            }
        }
        for _ in 0..times {
            let found =
                waiting.iter_mut().enumerate().find_map(|(at, (_, one))| poll(one.as_mut()).map(|slot| (at, slot)));
            let (at, slot) = found.expect("somebody has it");
            let index = waiting.swap_remove(at).0;
            had[index] += 1;
            shares[index].charge(Duration::from_millis(1));
            waiting.push((index, Box::pin(shares[index].slot())));
            // All others wait already.
            waiting.iter_mut().for_each(|(_, one)| assert!(poll(one.as_mut()).is_none(), "there is one slot"));
            drop(slot);
        }
        had
    }

    #[test]
    fn a_slot_may_outlive_its_share_and_the_group_of_that() {
        // What comes in their place meanwhile is not theirs.
        for comes_meanwhile in [false, true] {
            let slots = Slots::new(1, 1, true);
            let group = slots.share(1);
            let share = group.under(1);
            let held = poll(pin!(share.slot())).expect("it is free");
            let others = slots.share(1);
            let mut waiting = pin!(others.slot());
            assert!(poll(waiting.as_mut()).is_none());
            drop(share);
            drop(group);
            let next = comes_meanwhile.then(|| slots.share(1));
            drop(held);
            assert!(poll(waiting.as_mut()).is_some(), "it is given back");
            drop(next);
            let nodes = slots.0.lock();
            assert_eq!(nodes.nodes.iter().flatten().count(), 2, "what is gone is gone: {nodes:?}");
        }
    }

    #[test]
    fn a_share_of_many_waiters_gets_no_more_than_a_share_of_one() {
        let slots = Slots::new(1, 1, false);
        let (one, many) = (slots.share(1), slots.share(1));
        let held = poll(pin!(one.slot())).expect("it is free");
        drop(held);
        let had = shared(&[&one, &many], [1, 300], 200);
        assert!(had.iter().all(|had| (99..=101).contains(had)), "{had:?}");
    }

    #[test]
    fn a_weight_counts_and_so_does_the_group_above() {
        let slots = Slots::new(1, 1, false);
        let (heavy, light) = (slots.share(3), slots.share(1));
        let had = shared(&[&heavy, &light], [5, 5], 400);
        assert!((295..=305).contains(&had[0]), "{had:?}");
        drop((heavy, light));
        let (group, alone) = (slots.share(1), slots.share(1));
        let (first, second) = (group.under(1), group.under(1));
        let had = shared(&[&first, &second, &alone], [10, 10, 1], 400);
        assert!((195..=205).contains(&had[2]), "{had:?}");
        assert!((95..=105).contains(&had[0]), "{had:?}");
    }

    #[test]
    fn who_was_idle_has_a_little_credit_and_no_more() {
        let slots = Slots::new(1, 1, false);
        let (busy, idle) = (slots.share(1), slots.share(1));
        for _ in 0..1000 {
            drop(poll(pin!(busy.slot())).expect("it is free"));
            busy.charge(Duration::from_millis(5));
        }
        assert!(busy.is_ahead());
        assert!(!idle.is_ahead());
        let had = shared(&[&busy, &idle], [1, 1], 100);
        let credit = usize::try_from(CREDIT / 1_000_000).unwrap();
        assert!((50..=50 + credit).contains(&had[1]), "{had:?}");
    }

    #[test]
    fn whoever_is_of_a_share_that_waits_waits_too() {
        let slots = Slots::new(1, usize::MAX, false);
        let (share, _other) = (slots.share(1), slots.share(1));
        share.charge(Duration::from_millis(5));
        assert!(share.is_ahead());
        let held = poll(pin!(share.slot())).expect("it is free");
        let (mut second, mut third) = (Box::pin(share.slot()), Box::pin(share.slot()));
        assert!(poll(second.as_mut()).is_none() && poll(third.as_mut()).is_none());
        share.charge(Duration::from_millis(5));
        // The second has the slot from here on, and the third still waits.
        drop(held);
        assert!(share.is_ahead(), "it would go before the third");
        drop((second, third));
        drop(poll(pin!(share.slot())).expect("it is free again"));
        assert!(!share.is_ahead(), "nobody waits, here or elsewhere");
    }

    #[test]
    fn nobody_has_more_than_its_most_and_all_come_back() {
        let slots = Slots::new(3, 2, true);
        let (one, other) = (slots.share(1), slots.share(1));
        let first: Vec<_> = (0..2).map(|_| poll(pin!(one.slot())).expect("it is free")).collect();
        let mut third = Box::pin(one.slot());
        assert!(poll(third.as_mut()).is_none());
        let of_other = poll(pin!(other.slot())).expect("one is free");
        let mut given_up = Box::pin(other.slot());
        assert!(poll(given_up.as_mut()).is_none());
        // Who gives up loses nothing to anybody, before and after it was given one.
        drop(given_up);
        drop(first);
        drop(third);
        drop(of_other);
        let all: Vec<_> = [&one, &one, &other].map(|share| poll(pin!(share.slot())).expect("all are free")).into();
        assert_eq!(slots.0.lock().free, 0);
        // A share may be gone before its slots.
        drop((one, other));
        drop(all);
        let state = slots.0.lock();
        assert_eq!((state.free, state.nodes.iter().flatten().count()), (3, 1));
    }
}
