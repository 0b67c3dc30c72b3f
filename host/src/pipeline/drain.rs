//! The end of a host that others still want something of.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::sync::oneshot;

use super::host::Host;

/// A host that takes no more runs, and waits for those that go on: to be waited for, by a thread or as a future. Dropping it, or the
/// future, changes nothing: the host takes no more runs all the same, and stops those that are left when their time is over.
#[derive(Debug)]
pub struct Draining {
    host: Host,
    ended: oneshot::Receiver<usize>,
}

impl Host {
    /// Takes no more runs: those that are started from now on end at once, with the code `shutting-down`. Those that were started before,
    /// waiting ones among them, go on; what is left of them after `within` is killed. Gives the number of those. Never blocks: what it
    /// gives is to be awaited, or [waited for](Draining::wait).
    pub fn drain(&self, within: Duration) -> Draining {
        /// What is killed ends as soon as its processes do, which the kernel sees to.
        const KILLED: Duration = Duration::from_secs(10);
        self.0.shared.admission.close();
        let (sender, ended) = oneshot::channel();
        let (active, counted) = (self.0.active.clone(), self.0.active.add(None));
        self.0.runtime.spawn(async move {
            let _counted = counted;
            let killed = match tokio::time::timeout(within, active.runs_over()).await {
                Ok(()) => 0,
                Err(_) => {
                    let killed = active.kill();
                    let _ = tokio::time::timeout(KILLED, active.runs_over()).await;
                    killed
                }
            };
            // Nobody may be left to hear of it.
            let _ = sender.send(killed);
        });
        self.drive();
        Draining { host: self.clone(), ended }
    }
}

impl Draining {
    /// Waits until no run goes on, blocking this thread as [`Running::wait`](crate::Running::wait) does. Gives the number of runs that
    /// were killed.
    pub fn wait(self) -> usize {
        let Self { host, ended } = self;
        host.wait_for(ended).unwrap_or(0)
    }
}

impl Future for Draining {
    type Output = usize;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<usize> {
        self.host.drive();
        Poll::Ready(ready!(Pin::new(&mut self.ended).poll(cx)).unwrap_or(0))
    }
}
