//! Who waits, who is woken, and how a stream ends.

use std::{
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use crate::support::{CAP, read_all, small};
use stagehost_ring::{Cause, ReadError, WriteError};

#[test]
fn bp01_bp05_a_full_ring_parks_until_half_is_free() {
    let mut f = small();
    for _ in 0..2 {
        f.fill_and_park();
        let before = f.wt.wakes();
        f.consume(CAP / 2 + 1);
        assert_eq!(f.wt.wakes(), before + 1);
        assert!(matches!(f.poll_room(), Poll::Ready(Ok(()))));
        f.consume(CAP / 2 - 1);
    }
}

#[test]
fn bp03_bp09_every_write_past_the_capacity_waits() {
    let mut f = small();
    f.fill_and_park();
    for _ in 0..5 {
        assert!(f.poll_write(b"x").is_pending());
    }
    assert_eq!(f.r.len(), CAP, "a hard cap: nothing grows");
}

#[test]
fn bp04_below_half_does_not_wake() {
    let mut f = small();
    f.fill_and_park();
    f.consume(CAP / 2 - 1);
    assert_eq!(f.wt.wakes(), 0);
    f.consume(1);
    assert_eq!(f.wt.wakes(), 1);
}

#[test]
fn bp06_bp07_a_reader_that_leaves_wakes_the_writer() {
    let mut f = small();
    f.fill_and_park();
    let _ = f.r.peek();
    drop(f.r);
    assert_eq!(f.wt.wakes(), 1);
    for _ in 0..2 {
        assert!(matches!(f.w.poll_room(&mut f.wt.cx()), Poll::Ready(Err(WriteError::BrokenPipe))));
        assert!(matches!(f.w.flush(), Err(WriteError::BrokenPipe)));
    }
}

#[test]
fn bp08_rw34_a_write_with_room_is_ready() {
    let mut f = small();
    assert!(matches!(f.poll_write(&[0; 32]), Poll::Ready(Ok(32))));
    assert_eq!(f.wt.wakes(), 0);
}

#[test]
fn bp11_rw10_fl02_a_readers_failure_reaches_every_write() {
    let mut f = small();
    f.r.fail(Cause::new("no disk"));
    for _ in 0..2 {
        assert_eq!(f.w.write(b"x").unwrap_err().to_string(), "broken pipe: no disk");
        assert_eq!(f.w.flush().unwrap_err().to_string(), "broken pipe: no disk");
        assert!(f.w.grant().is_err());
    }
}

#[test]
fn rw01_rw25_bytes_go_in_and_come_out() {
    let mut f = small();
    assert_eq!(f.w.write(b"Hello World").unwrap(), 11);
    assert_eq!(f.r.peek(), (&b"Hello World"[..], &b""[..]));
}

#[test]
fn rw02_a_drained_ring_waits_again() {
    let mut f = small();
    f.w.write(&[1; 100]).unwrap();
    f.consume(100);
    assert!(f.poll_fill(1).is_pending());
    f.w.write(&[2]).unwrap();
    assert_eq!(f.rt.wakes(), 1);
    assert!(matches!(f.poll_fill(1), Poll::Ready(Ok(1))));
    f.consume(1);
    assert!(f.poll_fill(1).is_pending());
}

#[test]
fn rw05_pl08_a_grant_outlives_a_consume_on_the_other_side() {
    let mut f = small();
    f.w.write(b"abc").unwrap();
    let grant = f.w.grant().unwrap();
    grant[..3].copy_from_slice(b"def");
    f.r.len();
    f.r.consume(3).unwrap();
    f.w.commit(3).unwrap();
    assert_eq!(f.peeked(), b"def");
}

#[test]
fn rw06_leaving_with_bytes_unread_is_fine() {
    let mut f = small();
    f.w.write(b"abc").unwrap();
    let _ = f.r.peek();
    drop(f.r);
    drop(f.w);
    assert_eq!(f.pool.lent_bytes(), 0);
}

#[test]
fn rw08_bytes_over_the_wrap_come_in_order() {
    let mut f = small();
    f.w.write(&[0; CAP - 6]).unwrap();
    f.consume(CAP - 6);
    f.w.write(b"Hello World").unwrap();
    assert_eq!(f.r.peek(), (&b"Hello "[..], &b"World"[..]));
    assert_eq!(read_all(&mut f.r), b"Hello World");
}

#[test]
fn rw09_fc03_an_abort_says_the_same_again() {
    let mut f = small();
    f.w.abort(Cause::new("boom"));
    for _ in 0..2 {
        assert_eq!(f.r.read(&mut [0]).unwrap_err().to_string(), "the stream was aborted: boom");
        assert!(matches!(f.r.poll_fill(&mut f.rt.cx(), 1), Poll::Ready(Err(ReadError::Aborted(_)))));
    }
}

#[test]
fn rw11_committed_bytes_do_not_wake() {
    let mut f = small();
    assert!(f.poll_fill(1).is_pending());
    f.w.grant().unwrap()[..4].copy_from_slice(b"abcd");
    f.w.commit(4).unwrap();
    assert_eq!(f.rt.wakes(), 0, "a commit is silent");
    f.w.flush().unwrap();
    assert_eq!(f.rt.wakes(), 1);
    assert_eq!(f.peeked(), b"abcd");
}

#[test]
fn rw16_rw21_rx17_a_pending_read_ends_with_the_abort() {
    let mut f = small();
    assert!(f.poll_fill(1).is_pending());
    f.w.abort(Cause::new("cancelled"));
    assert_eq!(f.rt.wakes(), 1);
    assert!(f.r.read(&mut [0]).is_err());
}

#[test]
fn rw17_reads_without_and_with_waiting_mix() {
    let mut f = small();
    f.w.write(b"Hello World").unwrap();
    let mut hello = [0; 6];
    assert_eq!(f.r.read(&mut hello).unwrap(), Some(6));
    let mut world = [0; 16];
    assert!(matches!(f.r.poll_read(&mut f.rt.cx(), &mut world), Poll::Ready(Ok(5))));
    assert_eq!(&world[..5], b"World");
}

#[test]
fn rw23_fc02_fc04_a_clean_end_stays_clean() {
    let mut f = small();
    f.w.finish();
    for _ in 0..3 {
        assert_eq!(f.r.read(&mut [0; 4]).unwrap(), Some(0));
        assert!(matches!(f.r.poll_fill(&mut f.rt.cx(), 1), Poll::Ready(Ok(0))));
    }
}

#[test]
fn rw24_nothing_yet_is_not_the_end() {
    let mut f = small();
    assert_eq!(f.r.read(&mut [0]).unwrap(), None);
    f.r.consume(0).unwrap();
}

#[test]
fn rw28_bytes_before_a_finish_arrive() {
    let mut f = small();
    f.w.grant().unwrap()[..4].copy_from_slice(b"last");
    f.w.commit(4).unwrap();
    f.w.finish();
    assert_eq!(read_all(&mut f.r), b"last");
}

#[test]
fn rw31_wr06_a_grant_gives_much_more_than_a_byte() {
    let mut f = small();
    assert_eq!(f.w.grant().unwrap().len(), CAP);
    assert_eq!(f.r.len(), 0, "nothing is committed");
}

#[test]
fn rw32_a_ready_read_is_ready_at_once() {
    let mut f = small();
    f.w.write(b"x").unwrap();
    assert!(matches!(f.poll_fill(1), Poll::Ready(Ok(1))));
    assert_eq!(f.rt.wakes(), 0);
}

#[test]
fn rw36_an_empty_flush_does_not_wake() {
    let mut f = small();
    assert!(f.poll_fill(1).is_pending());
    f.w.flush().unwrap();
    f.w.commit(0).unwrap();
    f.w.flush().unwrap();
    assert_eq!(f.w.write(b"").unwrap(), 0);
    assert_eq!(f.rt.wakes(), 0);
}

#[test]
fn rw39_dropping_both_halves_clears_everything() {
    let mut f = small();
    f.w.write(b"unread").unwrap();
    assert_eq!(f.pool.lent_bytes(), CAP);
    drop((f.w, f.r));
    assert_eq!(f.pool.lent_bytes(), 0);
}

#[test]
fn fl03_polling_again_keeps_the_waiter() {
    let mut f = small();
    f.fill_and_park();
    f.w.flush().unwrap();
    assert!(f.poll_room().is_pending());
    f.consume(CAP);
    assert_eq!(f.wt.wakes(), 1);
}

#[test]
fn fx01_rx05_cb01_a_waker_may_re_enter_the_ring() {
    /// Reads from within the wake-up, on the writer's thread.
    struct ReEnter(Mutex<Option<stagehost_ring::Reader>>, mpsc::SyncSender<usize>);
    impl Wake for ReEnter {
        fn wake(self: Arc<Self>) {
            let mut reader = self.0.lock().unwrap().take().unwrap();
            let seen = reader.read(&mut [0; 8]).unwrap().unwrap();
            drop(reader);
            self.1.send(seen).unwrap();
        }
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let mut f = small();
    let re_enter = Arc::new(ReEnter(Mutex::default(), sender));
    let waker = Waker::from(re_enter.clone());
    assert!(f.r.poll_fill(&mut Context::from_waker(&waker), 1).is_pending());
    *re_enter.0.lock().unwrap() = Some(f.r);
    let mut writer = f.w;
    let writing = thread::spawn(move || writer.write(b"abc").map(|_| writer.is_broken()));
    assert_eq!(receiver.recv_timeout(Duration::from_secs(30)).unwrap(), 3);
    assert!(writing.join().unwrap().unwrap(), "the reader was closed from within the wake-up");
}

#[test]
fn fx02_rx03_rx09_rx11_fx16_a_dropped_wait_loses_nothing() {
    let mut f = small();
    // A read that was given up; then bytes come.
    assert!(f.poll_fill(1).is_pending());
    f.w.write(b"later").unwrap();
    assert_eq!(read_all(&mut f.r), b"later");
    assert!(f.poll_fill(1).is_pending());
    // A write that was given up; then room comes.
    f.fill_and_park();
    f.consume(CAP);
    assert!(matches!(f.poll_write(b"more"), Poll::Ready(Ok(4))));
    assert_eq!(read_all(&mut f.r), b"more");
}

#[test]
fn rc02_rc03_rc04_the_readers_first_ending_wins() {
    let mut f = small();
    f.r.fail(Cause::new("first"));
    assert!(matches!(f.w.flush(), Err(WriteError::ReaderFailed(cause)) if cause.to_string() == "first"));
}
