//! Waiting for a future on a thread that may block, whether or not it belongs to a runtime.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// Wakes a thread that parks.
pub(crate) struct Unpark(Thread);

impl Unpark {
    /// A waker of this thread.
    pub(crate) fn waker() -> Waker {
        Waker::from(Arc::new(Self(thread::current())))
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future that somebody else drives: nothing in it needs this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Unpark::waker();
    let mut cx = Context::from_waker(&waker);
    loop {
        // Whoever waits is no task: its runtime's budget is not for this.
        let mut polling = pin!(tokio::task::coop::unconstrained(future.as_mut()));
        if let Poll::Ready(done) = polling.as_mut().poll(&mut cx) {
            return done;
        }
        thread::park();
    }
}
