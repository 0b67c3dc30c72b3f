//! How many bytes move at once, and what holds them.

use std::{
    io::{Read, Write},
    task::Poll,
    thread,
    time::Duration,
};

use crate::support::{CAP, read_all, small, with};
use stagehost_ring::{
    BlockingReader, BlockingWriter, Capacity, Cause, OnAbort, Options, OutOfBounds, Pool, ReadError, Writer, ring,
};

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
