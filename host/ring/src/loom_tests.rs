//! Every interleaving of two threads over a ring of a few bytes. Run with `--cfg loom`, in release, in a target
//! directory of its own (`scripts/loom.sh`).

use std::future::poll_fn;

use loom::{future::block_on, thread};

use crate::{Capacity, Cause, OnAbort, Options, Pool, ReadError, Reader, WriteError, Writer, ring};

fn tiny(capacity: usize, on_abort: OnAbort) -> (Pool, Writer, Reader) {
    let pool = Pool::new(64);
    let (writer, reader) = ring(&pool, Options { capacity: Capacity::tiny(capacity), on_abort });
    (pool, writer, reader)
}

/// Runs both halves on threads of their own, in every order, and checks that all storage came back.
fn check(
    capacity: usize,
    write: impl Fn(Writer) + Send + Sync + Copy + 'static,
    read: impl Fn(Reader) + Send + Sync + Copy + 'static,
) {
    check_with(capacity, OnAbort::DrainThenFail, write, read);
}

fn check_with(
    capacity: usize,
    on_abort: OnAbort,
    write: impl Fn(Writer) + Send + Sync + Copy + 'static,
    read: impl Fn(Reader) + Send + Sync + Copy + 'static,
) {
    loom::model(move || {
        let (pool, writer, reader) = tiny(capacity, on_abort);
        let producer = thread::spawn(move || write(writer));
        read(reader);
        producer.join().unwrap();
        assert_eq!(pool.lent_bytes(), 0, "an ended ring holds nothing");
    });
}

fn write_all(writer: &mut Writer, mut bytes: &[u8]) -> Result<(), WriteError> {
    while !bytes.is_empty() {
        let n = block_on(poll_fn(|cx| writer.poll_write(cx, bytes)))?;
        bytes = &bytes[n..];
    }
    Ok(())
}

fn read_all(reader: &mut Reader) -> (Vec<u8>, Result<(), ReadError>) {
    let mut all = Vec::new();
    let mut piece = [0; 4];
    loop {
        match block_on(poll_fn(|cx| reader.poll_read(cx, &mut piece))) {
            Ok(0) => return (all, Ok(())),
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(error) => return (all, Err(error)),
        }
    }
}

#[test]
fn every_byte_arrives_once_then_the_end() {
    for capacity in [1, 2] {
        check(
            capacity,
            |mut writer| {
                write_all(&mut writer, b"abc").unwrap();
                writer.finish();
            },
            |mut reader| {
                let (all, end) = read_all(&mut reader);
                assert_eq!(all, b"abc");
                assert!(end.is_ok());
            },
        );
    }
}

#[test]
fn two_writes_in_a_roomy_ring_never_lose_a_wake_up() {
    check(
        4,
        |mut writer| {
            write_all(&mut writer, b"ab").unwrap();
            write_all(&mut writer, b"c").unwrap();
            writer.finish();
        },
        |mut reader| assert_eq!(read_all(&mut reader).0, b"abc"),
    );
}

#[test]
fn finish_against_a_parking_reader() {
    check(1, Writer::finish, |mut reader| {
        let (all, end) = read_all(&mut reader);
        assert!(all.is_empty() && end.is_ok());
    });
}

#[test]
fn abort_drains_then_fails() {
    check(
        2,
        |mut writer| {
            write_all(&mut writer, b"a").unwrap();
            writer.abort(Cause::new("boom"));
        },
        |mut reader| {
            let (all, end) = read_all(&mut reader);
            assert_eq!(all, b"a");
            assert_eq!(end.unwrap_err().to_string(), "the stream was aborted: boom");
        },
    );
}

#[test]
fn abort_may_fail_at_once() {
    check_with(
        2,
        OnAbort::FailNow,
        |mut writer| {
            write_all(&mut writer, b"a").unwrap();
            writer.abort(Cause::new("boom"));
        },
        |mut reader| assert!(read_all(&mut reader).1.is_err()),
    );
}

#[test]
fn a_dropped_writer_is_an_abort() {
    check(1, drop, |mut reader| assert!(read_all(&mut reader).1.is_err()));
}

#[test]
fn a_reader_that_leaves_wakes_a_full_writer() {
    check(
        1,
        |mut writer| {
            assert!(write_all(&mut writer, b"abc").is_err());
            writer.finish();
        },
        |mut reader| {
            let mut piece = [0; 1];
            let _ = block_on(poll_fn(|cx| reader.poll_read(cx, &mut piece)));
        },
    );
}

#[test]
fn a_reader_that_leaves_at_once_is_a_broken_pipe() {
    check(
        1,
        |mut writer| {
            let _ = write_all(&mut writer, b"ab");
        },
        drop,
    );
}

#[test]
fn a_frame_waits_for_all_of_its_bytes() {
    check(
        2,
        |mut writer| {
            write_all(&mut writer, b"a").unwrap();
            write_all(&mut writer, b"b").unwrap();
            writer.finish();
        },
        |mut reader| {
            assert_eq!(block_on(poll_fn(|cx| reader.poll_fill(cx, 2))).unwrap(), 2);
            assert_eq!(read_all(&mut reader).0, b"ab");
        },
    );
}

#[test]
fn a_reader_that_asks_for_more_wakes_a_writer_below_half() {
    check(
        4,
        |mut writer| {
            write_all(&mut writer, b"abcde").unwrap();
            writer.finish();
        },
        |mut reader| {
            block_on(poll_fn(|cx| reader.poll_fill(cx, 4))).unwrap();
            reader.consume(1).unwrap();
            assert_eq!(block_on(poll_fn(|cx| reader.poll_fill(cx, 4))).unwrap(), 4);
            assert_eq!(read_all(&mut reader).0, b"bcde");
        },
    );
}

#[test]
fn an_idle_writer_and_a_parking_reader_give_the_storage_back() {
    check(
        2,
        |mut writer| {
            write_all(&mut writer, b"a").unwrap();
            writer.idle();
            write_all(&mut writer, b"b").unwrap();
            writer.idle();
            writer.finish();
        },
        |mut reader| assert_eq!(read_all(&mut reader).0, b"ab"),
    );
}

#[test]
fn an_idle_drained_ring_holds_nothing_whoever_comes_last() {
    loom::model(|| {
        let (pool, mut writer, mut reader) = tiny(2, OnAbort::DrainThenFail);
        let producer = thread::spawn(move || {
            write_all(&mut writer, b"a").unwrap();
            writer.idle();
            writer
        });
        let mut piece = [0; 2];
        assert_eq!(block_on(poll_fn(|cx| reader.poll_read(cx, &mut piece))).unwrap(), 1);
        // One poll that parks; nothing will come.
        block_on(poll_fn(|cx| {
            let _ = reader.poll_fill(cx, 1);
            std::task::Poll::Ready(())
        }));
        let writer = producer.join().unwrap();
        assert_eq!(pool.lent_bytes(), 0);
        drop((writer, reader));
    });
}

/// How a writer ends, after `writes` bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum WriterEnd {
    Finish,
    Abort,
    Drop,
    IdleThenFinish,
}

/// What a reader does.
#[derive(Clone, Copy, Debug)]
enum ReaderAct {
    ReadToTheEnd,
    ParkForTwo,
    ReadOneThenDrop,
    Drop,
    Fail,
}

/// Every pair of {write, finish, abort, drop, idle} and {read, park, drop, fail}, over the smallest capacities.
#[test]
fn every_pair_of_operations_agrees_on_bytes_and_ending() {
    let ends = [WriterEnd::Finish, WriterEnd::Abort, WriterEnd::Drop, WriterEnd::IdleThenFinish];
    let acts =
        [ReaderAct::ReadToTheEnd, ReaderAct::ParkForTwo, ReaderAct::ReadOneThenDrop, ReaderAct::Drop, ReaderAct::Fail];
    for (capacity, writes) in [(1, 0), (1, 1), (2, 2), (1, 2)] {
        for end in ends {
            for act in acts {
                check(
                    capacity,
                    move |mut writer| {
                        let written = write_all(&mut writer, &b"ab"[..writes]);
                        assert!(written.is_ok() || !matches!(act, ReaderAct::ReadToTheEnd));
                        match end {
                            WriterEnd::Finish => writer.finish(),
                            WriterEnd::Abort => writer.abort(Cause::new("boom")),
                            WriterEnd::Drop => drop(writer),
                            WriterEnd::IdleThenFinish => {
                                writer.idle();
                                writer.finish();
                            }
                        }
                    },
                    move |mut reader| match act {
                        ReaderAct::ReadToTheEnd => {
                            let (all, ended) = read_all(&mut reader);
                            assert_eq!(all, &b"ab"[..writes]);
                            let clean = matches!(end, WriterEnd::Finish | WriterEnd::IdleThenFinish);
                            assert_eq!(ended.is_ok(), clean, "{end:?}");
                        }
                        ReaderAct::ParkForTwo => {
                            let two = 2.min(reader.capacity());
                            if let Ok(len) = block_on(poll_fn(|cx| reader.poll_fill(cx, two))) {
                                assert!(len >= two || len == writes % 2 || len == writes);
                            }
                        }
                        ReaderAct::ReadOneThenDrop => {
                            let mut one = [0];
                            if let Ok(1) = block_on(poll_fn(|cx| reader.poll_read(cx, &mut one))) {
                                assert_eq!(one, *b"a");
                            }
                        }
                        ReaderAct::Drop => drop(reader),
                        ReaderAct::Fail => reader.fail(Cause::new("no")),
                    },
                );
            }
        }
    }
}
