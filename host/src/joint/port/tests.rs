//! Who is woken, and who is not refused.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::task::coop::poll_proceed;

use super::*;
use crate::joint::Source;

#[tokio::test]
async fn who_asks_without_waiting_is_not_refused_by_the_budget() {
    let text = Bytes::from_static(b"there");
    let port = InputPort::new(Source::Text { text }, false, Passing::default());
    // A task that has spent its budget: whatever takes a unit of it first is pending.
    poll_fn(|cx| {
        while let Poll::Ready(budget) = poll_proceed(cx) {
            budget.made_progress();
        }
        let mut piece = [0; 2];
        assert!(port.poll_read(cx, &mut piece).is_pending());
        assert!(matches!(port.try_read(&mut piece), Poll::Ready(Ok(2))));
        Poll::Ready(())
    })
    .await;
}

/// Counts its wakes.
#[derive(Default)]
struct Woken(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Looking whether a guest waits takes the wake that was meant for it: so what is there by then is passed on.
#[test]
fn who_looks_for_a_guest_wakes_it() {
    let pool = stagehost_ring::Pool::new(1 << 20);
    let (mut writer, reader) = stagehost_ring::ring(&pool, stagehost_ring::Options::default());
    let passing = Passing { exact: true, ..Passing::default() };
    let port = InputPort::new(Source::Ring(reader), false, passing);
    assert!(port.poll_read(&mut Context::from_waker(Waker::noop()), &mut [0; 8]).is_pending());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let woke = || woken.0.swap(0, std::sync::atomic::Ordering::SeqCst);
    assert!(port.is_waited_for(&mut Context::from_waker(&waker)));
    assert_eq!(woke(), 0);
    assert_eq!(writer.write(b"x").ok(), Some(1));
    writer.finish();
    woke();
    // What came was seen by nobody yet.
    assert!(port.is_waited_for(&mut Context::from_waker(&waker)));
    assert_eq!(woke(), 1);
    assert!(!port.is_waited_for(&mut Context::from_waker(&waker)));
}

/// A stage that waits for another is seen to wait, and for how long it has.
#[test]
fn waiting_at_an_end_is_seen_and_adds_up() {
    let pool = stagehost_ring::Pool::new(1 << 20);
    let (mut writer, reader) = stagehost_ring::ring(&pool, stagehost_ring::Options::default());
    let port = InputPort::new(Source::Ring(reader), false, Passing::default());
    let watched = port.watched();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(port.poll_read(&mut cx, &mut [0; 8]).is_pending());
    let waits = watched.moved().unwrap();
    assert!(waits.waits && waits.bytes == 0);
    while watched.moved().unwrap().waited <= waits.waited {
        std::thread::yield_now();
    }
    assert!(matches!(writer.poll_write(&mut cx, b"there"), Poll::Ready(Ok(5))));
    writer.flush().unwrap();
    assert!(matches!(port.poll_read(&mut cx, &mut [0; 8]), Poll::Ready(Ok(5))));
    let moved = watched.moved().unwrap();
    assert!(!moved.waits && moved.bytes == 5 && moved.waited > waits.waited);
    assert_eq!(watched.moved().unwrap().waited, moved.waited, "it does not wait any more");
    drop(port);
    assert!(watched.moved().is_none());
}
