//! The reference's unit tests (System.IO.Pipelines) that have a meaning for a ring, by their row's ID.
//!
//! What differs in kind, and is pinned so: a ring parks its writer when it is full (the reference at a threshold), wakes
//! it when at least half is free (the reference below a threshold), never grows (a larger frame is a typed error), makes
//! committed bytes visible to a reader that looks but wakes it only at a flush, and reports by values and types what the
//! reference reports by exceptions. Cancelling is dropping the future.
//!
//! Rows without a meaning here:
//!
//! | rows | why |
//! | --- | --- |
//! | RW03 RW20 RW33 RW35 RW38 FX03–FX15 RX01 RX02 RX04 RX06–RX08 RX10 RX12–RX20 RL06–RL10 | a sticky cancel flag and tokens: here a wait is cancelled by dropping its future, and there is no flag to stick |
//! | RW04 RW29 RW30 LN11 LN12 LN13–LN15 BP12 | positions of an older read, examined less than before: `consume(n)` takes a count, and a count has no age |
//! | BP02 LN06 LN07 LN08 LN09 LN10 RW37 | "examined without consumed" is `poll_fill(min)` here; blocks and segments do not exist |
//! | RW07 RW18 RW19 RW22 RW26 RW27 FL04 WR15 | an operation after completion, two at once: impossible by type (`finish`, `fail` and `abort` consume the half; `&mut`) |
//! | RW11 RW12 RW13 UB01 | unflushed bytes are hidden there, visible but silent here: see `rw11_committed_bytes_do_not_wake` |
//! | FC01 RC01 | awaiting twice: a half that failed says the same again, see `fc03` |
//! | FL01 LN02 LN03 BP10 | no threshold of zero, no growth past the capacity |
//! | WR01 WR02 WR03 WR20 CB02–CB11 UB02 OP02 OP03 | argument checks, completion callbacks and overridable members of .NET; counters are 64-bit by type |
//! | PL05 PL07 PL12 PL13 PL14 RS01–RS05 | segment sizes and reset: a ring has one buffer and is not reused; the pool's buffers are |
//! | SR02 SR03 SR05 SR08 SR12–SR16 SR18 SR20–SR31 SW03 SW06 SW08–SW28 ST05–ST09 SQ01–SQ13 | buffering over a stream, its options and tokens: the adapters have no buffer of their own |
//! | CT01 CT02 CT08–CT13 CF | null arguments and tokens of copy helpers; `tokio::io::copy` is the copy helper |
//! | SC01–SC12 | synchronization contexts; a waker runs on the side that wakes, outside of any lock (`fx01`) |

mod support;

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use stagehost_ring::{
    BlockingReader, BlockingWriter, Capacity, Cause, OnAbort, Options, OutOfBounds, Pool, ReadError, WriteError,
    Writer, ring,
};
use support::{CAP, read_all, small, with};

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

#[test]
fn ln01_byte_by_byte_the_length_is_exact() {
    let mut f = small();
    for round in 0..=255 {
        for n in 1..=CAP {
            assert_eq!(f.w.write(&[round]).unwrap(), 1);
            assert_eq!(f.r.len(), n);
        }
        for n in (0..CAP).rev() {
            let mut byte = [0];
            assert_eq!(f.r.read(&mut byte).unwrap(), Some(1));
            assert_eq!((byte[0], f.r.len()), (round, n));
        }
    }
}

#[test]
fn ln04_ln05_consuming_counts_exactly() {
    let mut f = small();
    f.w.write(&[0; 10]).unwrap();
    f.consume(5);
    assert_eq!(f.r.len(), 5);
    f.consume(0);
    assert_eq!(f.r.len(), 5);
}

#[test]
fn rl01_rl02_a_fill_waits_for_all_it_asks() {
    let mut f = small();
    f.w.write(b"Hello").unwrap();
    assert!(f.poll_fill(11).is_pending());
    f.w.write(b" Worl").unwrap();
    assert_eq!(f.rt.wakes(), 0, "not enough yet");
    f.w.write(b"d").unwrap();
    assert_eq!(f.rt.wakes(), 1);
    assert!(matches!(f.poll_fill(11), Poll::Ready(Ok(11))));
}

#[test]
fn rl03_fills_and_reads_alternate() {
    let mut f = small();
    f.w.write(b"Hello World").unwrap();
    assert!(matches!(f.poll_fill(5), Poll::Ready(Ok(11))));
    let mut five = [0; 5];
    assert_eq!(f.r.read(&mut five).unwrap(), Some(5));
    assert!(matches!(f.poll_fill(6), Poll::Ready(Ok(6))));
}

#[test]
fn rl04_a_fill_at_the_end_says_how_much_there_is() {
    let mut f = small();
    f.w.write(b"abc").unwrap();
    f.w.finish();
    for _ in 0..3 {
        assert!(matches!(f.r.poll_fill(&mut f.rt.cx(), 10), Poll::Ready(Ok(3))));
    }
}

#[test]
fn rl05_pl11_a_frame_over_the_capacity_is_a_typed_error() {
    let mut f = small();
    let refused = f.poll_fill(CAP + 1);
    assert!(matches!(refused, Poll::Ready(Err(ReadError::FrameTooLarge { min, capacity: CAP })) if min == CAP + 1));
    f.w.write(&[0; CAP]).unwrap();
    assert!(matches!(f.poll_fill(CAP), Poll::Ready(Ok(CAP))));
}

#[test]
fn bp10_asking_for_more_wakes_a_writer_below_half() {
    let mut f = small();
    f.fill_and_park();
    f.consume(1);
    assert_eq!(f.wt.wakes(), 0);
    assert!(f.poll_fill(CAP).is_pending());
    assert_eq!(f.wt.wakes(), 1);
    assert!(matches!(f.poll_write(b"y"), Poll::Ready(Ok(1))));
    assert!(matches!(f.poll_fill(CAP), Poll::Ready(Ok(CAP))));
}

#[test]
fn wr04_many_small_writes_are_one_read() {
    let mut f = small();
    for byte in b"abc" {
        f.w.write(&[*byte]).unwrap();
    }
    assert_eq!(f.peeked(), b"abc");
}

#[test]
fn wr05_wr08_large_writes_pass_in_pieces() {
    for size in [5, 50, 500, 5_000, 50_000] {
        let data: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0]).collect();
        let f = small();
        let (mut w, mut r) = (BlockingWriter(f.w), BlockingReader(f.r));
        let sent = data.clone();
        let writing = thread::spawn(move || {
            w.write_all(&sent).unwrap();
            w.finish();
        });
        let mut got = Vec::new();
        r.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        assert_eq!(got, data);
    }
}

#[test]
fn wr07_a_grant_shrinks_by_what_was_committed() {
    let mut f = small();
    let before = f.w.grant().unwrap().len();
    f.w.commit(3).unwrap();
    assert_eq!(f.w.grant().unwrap().len(), before - 3);
}

#[test]
fn wr09_wr10_wr11_wr12_wr13_empty_writes_leave_no_trace() {
    let mut f = small();
    f.w.write(b"").unwrap();
    f.w.write(b"ab").unwrap();
    f.w.write(b"").unwrap();
    f.w.write(b"cd").unwrap();
    assert_eq!(f.r.peek(), (&b"abcd"[..], &b""[..]));
}

#[test]
fn wr14_a_commit_past_the_grant_is_refused() {
    let mut f = small();
    assert_eq!(f.w.commit(1), Err(OutOfBounds { asked: 1, available: 0 }), "nothing was granted");
    f.w.grant().unwrap();
    assert_eq!(f.w.commit(CAP + 1), Err(OutOfBounds { asked: CAP + 1, available: CAP }));
    assert_eq!(f.r.len(), 0);
}

#[test]
fn rw04_a_consume_past_what_was_seen_is_refused() {
    let mut f = small();
    f.w.write(b"ab").unwrap();
    assert_eq!(f.r.consume(1), Err(OutOfBounds { asked: 1, available: 0 }), "nothing was looked at");
    f.r.len();
    assert_eq!(f.r.consume(3), Err(OutOfBounds { asked: 3, available: 2 }));
    assert_eq!(f.peeked(), b"ab");
}

#[test]
fn wr16_a_grant_can_be_committed_byte_by_byte() {
    let mut f = small();
    for byte in b'a'..=b'z' {
        f.w.grant().unwrap()[0] = byte;
        f.w.commit(1).unwrap();
    }
    assert_eq!(f.peeked(), (b'a'..=b'z').collect::<Vec<_>>());
}

#[test]
fn wr17_leaving_during_a_large_write_ends_it() {
    let f = small();
    let mut w = BlockingWriter(f.w);
    let writing = thread::spawn(move || w.write_all(&vec![0; 10_000_000]));
    let mut r = BlockingReader(f.r);
    r.read_exact(&mut [0; 100]).unwrap();
    drop(r);
    assert_eq!(writing.join().unwrap().unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn wr18_wr19_writes_without_a_reader_hold_nothing() {
    let mut f = small();
    drop(f.r);
    for _ in 0..10_000 {
        assert!(f.w.write(&[0; 100]).is_err());
    }
    assert_eq!(f.pool.lent_bytes(), 0);
}

#[test]
fn pl01_an_idle_ring_holds_nothing() {
    let mut f = small();
    assert_eq!(f.pool.lent_bytes(), 0, "nor does a new one");
    for _ in 0..3 {
        f.w.write(&[0; 100]).unwrap();
        assert_eq!(f.pool.lent_bytes(), CAP);
        f.w.idle();
        assert_eq!(f.pool.lent_bytes(), CAP, "there are bytes to read");
        f.consume(100);
        assert!(f.poll_fill(1).is_pending());
        assert_eq!(f.pool.lent_bytes(), 0);
    }
    assert_eq!(f.pool.kept_bytes(), CAP, "one buffer was recycled");
}

#[test]
fn pl01_the_writer_gives_back_what_the_reader_drained_before() {
    let mut f = small();
    f.w.write(&[0; 100]).unwrap();
    f.consume(100);
    assert!(f.poll_fill(1).is_pending());
    assert_eq!(f.pool.lent_bytes(), CAP, "the writer may write on at any moment");
    f.w.idle();
    assert_eq!(f.pool.lent_bytes(), 0);
}

#[test]
fn pl02_a_grant_keeps_the_storage() {
    let mut f = small();
    f.w.grant().unwrap();
    assert!(f.poll_fill(1).is_pending());
    assert_eq!(f.pool.lent_bytes(), CAP);
}

#[test]
fn pl03_pl04_pl06_ends_in_any_order_give_everything_back_once() {
    for writer_first in [true, false] {
        let mut f = small();
        f.w.write(b"abc").unwrap();
        if writer_first {
            f.w.finish();
            assert_eq!(read_all(&mut f.r), b"abc");
            drop(f.r);
        } else {
            drop(f.r);
            f.w.finish();
        }
        assert_eq!((f.pool.lent_bytes(), f.pool.kept_bytes()), (0, CAP));
    }
}

#[test]
fn pl15_the_pool_keeps_no_more_than_its_high_water_mark() {
    let pool = Pool::new(2 * CAP);
    let options = Options { capacity: Capacity::new(CAP).unwrap(), ..Options::default() };
    let rings: Vec<_> = (0..10)
        .map(|_| {
            let (mut w, r) = ring(&pool, options);
            w.write(b"x").unwrap();
            (w, r)
        })
        .collect();
    assert_eq!(pool.lent_bytes(), 10 * CAP);
    drop(rings);
    assert_eq!((pool.lent_bytes(), pool.kept_bytes()), (0, 2 * CAP));
}

#[test]
fn op01_defaults_and_bounds() {
    assert_eq!(Capacity::default().bytes(), 256 << 10);
    for bad in [0, 1, 2048, 5000, 128 << 20] {
        assert_eq!(Capacity::new(bad).unwrap_err().asked, bad);
    }
    assert_eq!(Capacity::at_least(5000).bytes(), 8192);
    assert_eq!(Capacity::at_least(0), Capacity::MIN);
    assert_eq!(Capacity::at_least(usize::MAX), Capacity::MAX);
}

#[test]
fn abort_fail_now_hides_what_is_left() {
    let mut f = with(OnAbort::FailNow);
    f.w.write(b"half").unwrap();
    assert!(matches!(f.poll_fill(1), Poll::Ready(Ok(4))));
    f.w.abort(Cause::new("boom"));
    assert!(f.r.read(&mut [0; 4]).is_err());
}

#[test]
fn a_dropped_writer_is_an_abort() {
    let mut f = small();
    f.w.write(b"ab").unwrap();
    drop(f.w);
    let mut two = [0; 2];
    assert_eq!(f.r.read(&mut two).unwrap(), Some(2));
    let error = f.r.read(&mut two).unwrap_err();
    assert_eq!(error.to_string(), "the stream was aborted: the writer was dropped without finishing");
}

#[test]
fn p17_p18_a_frame_split_by_the_wrap_parses_the_same() {
    /// A length byte and so many bytes.
    fn parse(reader: &mut stagehost_ring::Reader) -> Option<Vec<u8>> {
        let (a, b) = reader.peek();
        let all = [a, b].concat();
        let len = usize::from(*all.first()?);
        let frame = all.get(1..=len)?.to_vec();
        reader.consume(len + 1).unwrap();
        Some(frame)
    }
    for offset in CAP - 5..CAP {
        let mut f = small();
        f.w.write(&vec![0; offset]).unwrap();
        f.consume(offset);
        f.w.write(b"\x04fr").unwrap();
        assert_eq!(parse(&mut f.r), None, "not all there");
        f.w.write(b"am").unwrap();
        assert_eq!(parse(&mut f.r).unwrap(), b"fram");
    }
}

#[test]
fn u8_suspensions_per_byte_on_one_thread() {
    // Writer and reader share a thread: each fills or drains the whole ring before it waits.
    let mut f = small();
    let total = CAP * 10;
    let (mut written, mut read, mut waits) = (0, 0, 0);
    while read < total {
        while written < total {
            match f.poll_write(&vec![0; total - written]) {
                Poll::Ready(n) => written += n.unwrap(),
                Poll::Pending => break,
            }
        }
        waits += 1;
        let mut piece = vec![0; total];
        while let Some(n @ 1..) = f.r.read(&mut piece).unwrap() {
            read += n;
        }
        waits += 1;
    }
    assert!(waits <= 2 * total.div_ceil(CAP), "{waits}");
}

#[test]
fn counters_say_what_happened() {
    let mut f = small();
    let monitor = f.w.monitor();
    assert!(f.poll_fill(1).is_pending());
    f.fill_and_park();
    f.consume(CAP);
    assert!(matches!(f.poll_room(), Poll::Ready(Ok(()))));
    f.w.write(b"x").unwrap();
    assert!(matches!(f.poll_fill(1), Poll::Ready(Ok(1))));
    drop((f.w, f.r));
    let counters = monitor.counters();
    assert_eq!(counters.bytes, CAP as u64 + 1);
    assert_eq!((counters.writer_waits, counters.reader_waits), (1, 1));
    assert_eq!(counters.high_water_bytes, CAP as u64);
    assert!(counters.writer_wait_time > Duration::ZERO && counters.reader_wait_time > Duration::ZERO);
}

#[test]
fn a_hundred_thousand_rings_need_no_descriptors() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let pool = Pool::default();
    let options = Options { capacity: Capacity::MIN, ..Options::default() };
    let mut rings: Vec<_> = (0..100_000).map(|_| ring(&pool, options)).collect();
    for (w, r) in rings.iter_mut() {
        let mut byte = [0];
        w.write(b"x").unwrap();
        assert_eq!(r.read(&mut byte).unwrap(), Some(1));
        w.idle();
    }
    assert!(open() <= before + 8, "other tests open some; a ring opens none");
    assert_eq!(pool.lent_bytes(), 0, "a hundred thousand idle rings hold nothing");
}

#[test]
fn halves_are_send_and_go_where_their_stage_goes() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Writer>();
    check::<stagehost_ring::Reader>();
}
