//! The threads that blocking functions are called on.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Threads that wait for a function at once, at most, and how long one does before it ends.
const KEPT: usize = 64;
const KEPT_FOR: Duration = Duration::from_secs(10);

/// A call of a function. It never panics.
type Call = Box<dyn FnOnce() + Send>;

/// Threads that functions are called on. There are as many as functions are under way, for each may wait for any other; one whose
/// function has returned is kept for the next for ten seconds. Dropping this ends those that wait, and the others once they return.
#[derive(Debug, Default)]
pub(crate) struct Threads(Arc<Kept>);

#[derive(Default)]
struct Kept {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Never more than there are threads that wait.
    calls: VecDeque<Call>,
    waiting: usize,
    is_over: bool,
}

impl Threads {
    /// Calls a function on a thread that does nothing else until it returns.
    ///
    /// # Errors
    ///
    /// The system has no more threads.
    pub(crate) fn call(&self, call: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.waiting > state.calls.len() {
            state.calls.push_back(Box::new(call));
            drop(state);
            self.0.changed.notify_one();
            return Ok(());
        }
        drop(state);
        let kept = self.0.clone();
        let work = move || {
            call();
            kept.work();
        };
        std::thread::Builder::new().name("stagehost-function".into()).spawn(work).map(drop)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls what is to be called, until there has been nothing for a while.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            if state.waiting >= KEPT {
                return;
            }
            state.waiting += 1;
            let is_idle = |state: &mut State| state.calls.is_empty() && !state.is_over;
            let waited = self.changed.wait_timeout_while(state, KEPT_FOR, is_idle);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
            let Some(call) = state.calls.pop_front() else { return };
            drop(state);
            call();
        }
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("waiting", &self.lock().waiting).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        thread::{self, ThreadId},
    };

    use super::*;

    /// Patience of a test.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A call that says which thread it is on, and stays until it is told.
    fn occupy(threads: &Threads) -> (ThreadId, mpsc::SyncSender<()>) {
        let (say, said) = mpsc::sync_channel(1);
        let (leave, left) = mpsc::sync_channel(1);
        let call = move || {
            say.send(thread::current().id()).expect("somebody listens");
            let _ = left.recv();
        };
        threads.call(call).expect("a thread");
        (said.recv_timeout(PATIENCE).expect("it is called"), leave)
    }

    fn until(kept: &Kept, is_so: impl Fn(&State) -> bool) {
        let started = std::time::Instant::now();
        while !is_so(&kept.lock()) {
            assert!(started.elapsed() < PATIENCE);
            thread::yield_now();
        }
    }

    #[test]
    fn each_function_under_way_has_a_thread_and_the_next_one_has_it_again() {
        let threads = Threads::default();
        let busy: Vec<_> = (0..KEPT + 3).map(|_| occupy(&threads)).collect();
        let used: std::collections::HashSet<_> = busy.iter().map(|(thread, _)| *thread).collect();
        assert_eq!(used.len(), KEPT + 3);
        drop(busy);
        until(&threads.0, |state| state.waiting == KEPT);
        let again: Vec<_> = (0..KEPT).map(|_| occupy(&threads)).collect();
        assert!(again.iter().all(|(thread, _)| used.contains(thread)), "nobody makes a thread while others wait");
        let (new, _leave) = occupy(&threads);
        assert!(!again.iter().any(|(thread, _)| *thread == new));
    }

    #[test]
    fn none_stays_when_they_are_dropped() {
        let threads = Threads::default();
        let (_, leave) = occupy(&threads);
        let (_, leave_later) = occupy(&threads);
        drop(leave);
        until(&threads.0, |state| state.waiting == 1);
        let kept = Arc::downgrade(&threads.0);
        drop(threads);
        drop(leave_later);
        let started = std::time::Instant::now();
        while kept.strong_count() > 0 {
            assert!(started.elapsed() < PATIENCE, "a thread stays");
            thread::yield_now();
        }
    }
}
