//! The halves as `Read`, `BufRead`, `Write`, `AsyncRead` and `AsyncWrite`: the reference's rows for streams (SR, SW, ST,
//! CT), and the examples of Crystal's `pipe` for a drop-in pipe in user space.

mod support;

use std::{
    io::{self, BufRead, Read, Write},
    thread,
    time::Duration,
};

use stagehost_ring::{BlockingReader, BlockingWriter, Cause};
use support::{CAP, small};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn blocking() -> (BlockingWriter, BlockingReader) {
    let f = small();
    (BlockingWriter(f.w), BlockingReader(f.r))
}

#[test]
fn sr01_sr04_st02_st10_reads_and_writes_pass() {
    let (mut w, mut r) = blocking();
    for word in [&b"one"[..], b"two"] {
        w.write_all(word).unwrap();
        let mut got = [0; 3];
        r.read_exact(&mut got).unwrap();
        assert_eq!(got, *word);
    }
}

#[test]
fn sr06_sr07_st04_the_end_is_zero_again_and_again() {
    let (w, mut r) = blocking();
    w.finish();
    for _ in 0..3 {
        assert_eq!(r.read(&mut [0; 4]).unwrap(), 0);
    }
}

#[test]
fn sr09_sr19_st01_dropping_the_reader_ends_the_writer() {
    let (mut w, mut r) = blocking();
    w.write_all(b"abc").unwrap();
    assert_eq!(r.fill_buf().unwrap(), b"abc");
    drop(r);
    assert_eq!(w.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn sr10_sr11_sr17_part_of_a_buffer_can_be_consumed() {
    let (mut w, mut r) = blocking();
    w.write_all(b"abcdef").unwrap();
    assert_eq!(r.fill_buf().unwrap(), b"abcdef");
    r.consume(2);
    assert_eq!(r.fill_buf().unwrap(), b"cdef");
    // More than was lent consumes what there is.
    r.consume(100);
    w.write_all(b"g").unwrap();
    assert_eq!(r.fill_buf().unwrap(), b"g");
}

#[test]
fn sw01_sw02_sw04_sw07_writes_arrive_and_finish_delivers() {
    let (mut w, mut r) = blocking();
    w.write_all(b"a").unwrap();
    w.flush().unwrap();
    w.write_all(b"b").unwrap();
    w.finish();
    let mut all = String::new();
    r.read_to_string(&mut all).unwrap();
    assert_eq!(all, "ab");
}

#[test]
fn st03_small_buffers_read_everything() {
    let (mut w, mut r) = blocking();
    w.write_all(b"hello").unwrap();
    w.finish();
    let mut all = Vec::new();
    let mut byte = [0];
    while r.read(&mut byte).unwrap() == 1 {
        all.push(byte[0]);
    }
    assert_eq!(all, b"hello");
}

#[test]
fn an_abort_is_an_error_of_its_own_kind() {
    let f = small();
    f.w.abort(Cause::new("boom"));
    let error = BlockingReader(f.r).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert_eq!(error.to_string(), "the stream was aborted: boom");
}

#[tokio::test]
async fn ct03_ct04_ct05_a_copy_passes_each_message_before_the_next() {
    let f = small();
    let (mut w, mut r) = (f.w, f.r);
    let g = small();
    let (mut w2, mut r2) = (g.w, g.r);
    let copying = tokio::spawn(async move { tokio::io::copy(&mut r, &mut w2).await.map(|n| (n, w2)) });
    for message in [&b"first"[..], b"second", &[7; 3000]] {
        w.write_all(message).await.unwrap();
        w.flush().unwrap();
        let mut got = vec![0; message.len()];
        tokio::time::timeout(Duration::from_secs(30), r2.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(got, message);
    }
    w.finish();
    let (copied, w2) = copying.await.unwrap().unwrap();
    assert_eq!(copied, 5 + 6 + 3000);
    w2.finish();
    assert_eq!(AsyncReadExt::read(&mut r2, &mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn ct06_ct14_ct15_a_copy_that_fails_leaves_the_rest_readable() {
    let f = small();
    let (mut w, mut r) = (f.w, f.r);
    w.write_all(b"abc").await.unwrap();
    let mut sink = Vec::new();
    let copied = tokio::io::copy(&mut (&mut r).take(2), &mut sink).await.unwrap();
    assert_eq!((copied, &sink[..]), (2, &b"ab"[..]));
    let mut rest = [0; 4];
    assert_eq!(AsyncReadExt::read(&mut r, &mut rest).await.unwrap(), 1);
    assert_eq!(rest[0], b'c');
}

#[tokio::test]
async fn ct07_sw05_an_empty_flush_writes_nothing() {
    let f = small();
    let (mut w, mut r) = (f.w, f.r);
    AsyncWriteExt::flush(&mut w).await.unwrap();
    AsyncWriteExt::shutdown(&mut w).await.unwrap();
    assert!(r.is_empty());
    w.write_all(b"still open").await.unwrap();
    assert_eq!(r.len(), 10, "a shutdown does not end the stream");
}

// Crystal's examples: a pipe is created, used, wrapped, filled, drained and closed, from either side.

#[test]
fn crystal_creates_a_pipe_of_any_capacity() {
    for shift in 12..=26 {
        let capacity = stagehost_ring::Capacity::new(1 << shift).unwrap();
        let options = stagehost_ring::Options { capacity, ..Default::default() };
        let (w, r) = stagehost_ring::ring(&stagehost_ring::Pool::new(0), options);
        assert_eq!((w.capacity(), r.capacity()), (1 << shift, 1 << shift));
    }
}

#[test]
fn crystal_reads_what_was_written_once_and_in_order() {
    let (mut w, mut r) = blocking();
    w.write_all(b"hello").unwrap();
    w.write_all(b" world").unwrap();
    let mut got = [0; 11];
    r.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello world");
}

#[test]
fn crystal_interleaves_reads_and_writes() {
    let (mut w, mut r) = blocking();
    for n in 0..100_u8 {
        w.write_all(&[n, n]).unwrap();
        let mut got = [0; 2];
        r.read_exact(&mut got).unwrap();
        assert_eq!(got, [n, n]);
    }
}

#[test]
fn crystal_wraps_around() {
    // Five writes of four fifths of the capacity, as five times 8 bytes in 10.
    let (mut w, mut r) = blocking();
    let piece: Vec<u8> = (0..CAP * 4 / 5).map(|n| n.to_le_bytes()[0]).collect();
    for _ in 0..5 {
        w.write_all(&piece).unwrap();
        let mut got = vec![0; piece.len()];
        r.read_exact(&mut got).unwrap();
        assert_eq!(got, piece);
    }
}

#[test]
fn crystal_blocks_a_full_writer_and_resumes_it() {
    let (mut w, mut r) = blocking();
    let writing = thread::spawn(move || {
        w.write_all(&[1; CAP]).unwrap();
        w.write_all(&[2; CAP]).unwrap();
        w.finish();
    });
    let mut all = Vec::new();
    r.read_to_end(&mut all).unwrap();
    writing.join().unwrap();
    assert_eq!(all.len(), 2 * CAP);
    assert!(all[..CAP].iter().all(|&byte| byte == 1) && all[CAP..].iter().all(|&byte| byte == 2));
}

#[test]
fn crystal_blocks_an_empty_reader_and_resumes_it() {
    let (mut w, mut r) = blocking();
    let reading = thread::spawn(move || {
        let mut got = [0; 5];
        r.read_exact(&mut got).map(|()| got)
    });
    w.write_all(b"hello").unwrap();
    assert_eq!(&reading.join().unwrap().unwrap(), b"hello");
}

#[test]
fn crystal_reads_the_rest_after_a_close_and_then_the_end() {
    let (mut w, mut r) = blocking();
    w.write_all(b"rest").unwrap();
    w.finish();
    let mut all = Vec::new();
    r.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"rest");
    assert_eq!(r.read(&mut [0]).unwrap(), 0);
}

#[test]
fn crystal_wakes_a_waiting_reader_by_a_close() {
    let (w, mut r) = blocking();
    let reading = thread::spawn(move || r.read(&mut [0]));
    w.finish();
    assert_eq!(reading.join().unwrap().unwrap(), 0);
}

#[test]
fn crystal_wakes_a_waiting_writer_by_a_closed_reader() {
    // Here the reference hangs.
    let (mut w, r) = blocking();
    w.write_all(&[0; CAP]).unwrap();
    let writing = thread::spawn(move || w.write_all(b"x"));
    drop(r);
    assert_eq!(writing.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn crystal_refuses_writes_after_the_reader_closed() {
    let (mut w, r) = blocking();
    drop(r);
    assert!(w.write(b"x").is_err());
    assert!(w.flush().is_err());
}

#[test]
fn crystal_moves_a_body_of_unknown_size_in_bounded_memory() {
    let f = small();
    let pool = f.pool.clone();
    let (mut w, mut r) = (BlockingWriter(f.w), BlockingReader(f.r));
    let writing = thread::spawn(move || {
        for n in 0..1_000_000_u32 {
            w.write_all(&n.to_le_bytes()).unwrap();
        }
        w.finish();
    });
    let (mut sum, mut number) = (0_u64, [0; 4]);
    while r.read_exact(&mut number).is_ok() {
        sum += u64::from(u32::from_le_bytes(number));
        assert!(pool.lent_bytes() <= CAP);
    }
    writing.join().unwrap();
    assert_eq!(sum, 999_999 * 1_000_000 / 2);
}

#[test]
fn crystal_copies_between_pipes_lines_and_strings() {
    let (mut w, r) = blocking();
    w.write_all(b"one\ntwo\nthree").unwrap();
    w.finish();
    let lines: Vec<_> = r.lines().map(Result::unwrap).collect();
    assert_eq!(lines, ["one", "two", "three"]);
}

#[test]
fn crystal_drops_an_unused_pipe() {
    let f = small();
    let pool = f.pool.clone();
    drop((f.w, f.r));
    assert_eq!((pool.lent_bytes(), pool.kept_bytes()), (0, 0), "nothing was ever taken");
}

#[test]
fn crystal_reads_in_smaller_pieces_than_were_written() {
    let (mut w, mut r) = blocking();
    w.write_all(b"abcdef").unwrap();
    for expected in [b"ab", b"cd", b"ef"] {
        let mut got = [0; 2];
        assert_eq!(r.read(&mut got).unwrap(), 2);
        assert_eq!(&got, expected);
    }
}

#[test]
fn crystal_reads_what_there_is_when_asked_for_more() {
    let (mut w, mut r) = blocking();
    w.write_all(b"abc").unwrap();
    let mut got = [0; 100];
    assert_eq!(r.read(&mut got).unwrap(), 3);
    assert_eq!(&got[..3], b"abc");
}

#[test]
fn crystal_reads_nothing_into_an_empty_buffer() {
    let (mut w, mut r) = blocking();
    assert_eq!(r.read(&mut []).unwrap(), 0, "and does not wait");
    w.write_all(b"a").unwrap();
    assert_eq!(r.read(&mut []).unwrap(), 0);
    assert_eq!(r.fill_buf().unwrap(), b"a");
}

#[test]
fn crystal_writes_nothing_and_says_so() {
    let (mut w, mut r) = blocking();
    assert_eq!(w.write(b"").unwrap(), 0);
    w.write_all(b"a").unwrap();
    assert_eq!(r.fill_buf().unwrap(), b"a");
}

#[test]
fn crystal_fills_and_drains_exactly_again_and_again() {
    let (mut w, mut r) = blocking();
    for round in 0..10_u8 {
        w.write_all(&[round; CAP]).unwrap();
        let mut got = [255; CAP];
        r.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|&byte| byte == round));
    }
}
