//! What an engine keeps of compiled code, so that the next run need not look for it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

use crate::digest::Digest;

/// How many components an engine keeps, and how many bytes of code and of what belongs to it.
const MOST: usize = 256;
const MOST_CODE: usize = 512 << 20;

/// Compiled components by the digest of their file, in the order of their last use. Those that are in use elsewhere are so when they are
/// no longer kept, too.
#[derive(Debug)]
pub(crate) struct CodeCache<T>(VecDeque<(Digest, Arc<Cell<T>>)>);

/// The place of a component. Who waits for what another makes waits in its own turn, too; and it waits only for one that may spend
/// as much on it: what has less to spend may give up where it would not.
#[derive(Debug)]
pub(crate) struct Cell<T> {
    value: OnceLock<T>,
    /// Who makes it at the moment, each by a number of its own.
    makers: Mutex<Vec<(u64, Effort)>>,
    next: AtomicU64,
    changed: Notify,
    /// Whether compiling it is quick, once it is known that nothing else will do.
    is_quick: Mutex<Option<bool>>,
}

/// What may be spent on making something: time, and memory in bytes. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effort {
    pub(crate) time: Option<Duration>,
    pub(crate) memory: Option<u64>,
}

impl Effort {
    /// Whether whoever may spend this gives up no earlier than whoever may spend the other.
    fn covers(&self, other: &Self) -> bool {
        fn covers<T: PartialOrd>(this: Option<T>, other: Option<T>) -> bool {
            this.is_none_or(|this| other.is_some_and(|other| this >= other))
        }
        covers(self.time, other.time) && covers(self.memory, other.memory)
    }
}

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self {
            value: OnceLock::new(),
            makers: Mutex::default(),
            next: AtomicU64::new(0),
            changed: Notify::new(),
            is_quick: Mutex::new(None),
        }
    }
}

impl<T> Cell<T> {
    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// Waits until somebody has made it, or has stopped trying. Counts from here on, once it was polled.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn is_quick(&self) -> Option<bool> {
        *self.is_quick.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_quick(&self, is_quick: bool) {
        *self.is_quick.lock().unwrap_or_else(PoisonError::into_inner) = Some(is_quick);
    }

    /// Begins to make it; `None`: somebody does who may spend as much, or it is made.
    pub(crate) fn make(&self, effort: Effort) -> Option<Making<'_, T>> {
        let mut makers = self.makers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.value.get().is_some() || makers.iter().any(|(_, other)| other.covers(&effort)) {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        makers.push((number, effort));
        Some(Making(self, number))
    }
}

/// Makes what belongs in a place; dropping it lets others try.
pub(crate) struct Making<'a, T>(&'a Cell<T>, u64);

impl<T> Making<'_, T> {
    pub(crate) fn made(self, value: T) {
        // Another may have been quicker, with the same.
        let _ = self.0.value.set(value);
    }
}

impl<T> Drop for Making<'_, T> {
    fn drop(&mut self) {
        self.0.makers.lock().unwrap_or_else(PoisonError::into_inner).retain(|(number, _)| *number != self.1);
        self.0.changed.notify_waiters();
    }
}

impl<T> Default for CodeCache<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> CodeCache<T> {
    /// The place of a component, which is the last used from now on. What was not used for the longest time makes room for it.
    /// `bytes` says how much code one is.
    pub(crate) fn cell(&mut self, digest: Digest, bytes: impl Fn(&T) -> usize) -> Arc<Cell<T>> {
        let known = self.0.iter().position(|(known, _)| *known == digest).and_then(|index| self.0.remove(index));
        let cell = known.map(|(_, cell)| cell).unwrap_or_default();
        let of = |cell: &Cell<T>| cell.get().map_or(0, &bytes);
        let mut code = self.0.iter().map(|(_, other)| of(other)).sum::<usize>() + of(&cell);
        while self.0.len() >= MOST || code > MOST_CODE {
            let Some((_, oldest)) = self.0.pop_front() else { break };
            // One may have been compiled since the sum was made.
            code = code.saturating_sub(of(&oldest));
        }
        self.0.push_back((digest, cell.clone()));
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u16) -> Digest {
        let mut digest = Digest::default();
        digest[..2].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_makes_room() {
        let mut kept = CodeCache::<usize>::default();
        let first = kept.cell(digest(0), |size| *size);
        first.make(Effort::default()).unwrap().made(1);
        for number in 1..1000 {
            kept.cell(digest(number), |size| *size).make(Effort::default()).unwrap().made(1);
            // The first is used again and again.
            assert!(Arc::ptr_eq(&kept.cell(digest(0), |size| *size), &first), "after {number}");
        }
        assert_eq!(kept.0.len(), MOST);
        assert!(kept.cell(digest(1), |size| *size).get().is_none(), "the second had to go");
    }

    #[test]
    fn much_code_makes_room_too() {
        let mut kept = CodeCache::<usize>::default();
        for number in 0..20 {
            kept.cell(digest(number), |size| *size).make(Effort::default()).unwrap().made(MOST_CODE / 4);
            let code: usize = kept.0.iter().filter_map(|(_, cell)| cell.get()).sum();
            // The one that was compiled last is not counted before.
            assert!(code <= MOST_CODE + MOST_CODE / 4, "{code} bytes after {number}");
        }
        kept.cell(digest(30), |size| *size).make(Effort::default()).unwrap().made(2 * MOST_CODE);
        kept.cell(digest(31), |size| *size);
        assert_eq!(kept.0.len(), 1, "one that is too much alone is not kept either");
    }

    #[test]
    fn one_at_a_time_makes_it() {
        let cell = Cell::default();
        let first = cell.make(Effort::default()).unwrap();
        assert!(cell.make(Effort::default()).is_none());
        drop(first);
        cell.make(Effort::default()).expect("who gave up is no longer in the way").made(7);
        assert_eq!((cell.get(), cell.make(Effort::default()).is_none()), (Some(&7), true));
    }

    #[test]
    fn nobody_waits_for_one_that_may_spend_less() {
        let cell = Cell::<()>::default();
        let effort = |time: Option<u64>, memory| Effort { time: time.map(Duration::from_secs), memory };
        let tries = |time, memory| cell.make(effort(time, memory));
        let less = tries(Some(1), Some(1)).unwrap();
        assert!(tries(Some(1), Some(1)).is_none() && tries(Some(0), Some(1)).is_none());
        let longer = tries(Some(2), Some(1)).unwrap();
        assert!(tries(Some(2), Some(2)).is_some_and(|_| true) && tries(None, Some(1)).is_some_and(|_| true));
        drop((less, longer));
        let all = tries(None, None).unwrap();
        assert!(tries(None, None).is_none() && tries(Some(9), None).is_none() && tries(None, Some(9)).is_none());
        drop(all);
        assert!(tries(Some(1), None).is_some());
    }
}
