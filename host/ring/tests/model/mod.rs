//! A ring against a queue of bytes: any sequence of operations must agree. Driven by proptest and by the fuzzer.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use stagehost_ring::{Capacity, Cause, OnAbort, Options, Pool, ReadError, Reader, Writer, ring};

const CAP: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Open,
    Finished,
    Aborted,
}

/// Runs the operations that `bytes` encode, three bytes each: what to do, and how much.
pub(crate) fn run(bytes: &[u8]) {
    let mut bytes = bytes.chunks_exact(3);
    let on_abort = match bytes.next() {
        Some([0..128, ..]) | None => OnAbort::DrainThenFail,
        Some(_) => OnAbort::FailNow,
    };
    let pool = Pool::new(CAP);
    let (writer, reader) = ring(&pool, Options { capacity: Capacity::new(CAP).expect("a capacity"), on_abort });
    let model = Model { queue: VecDeque::new(), next: 0, end: End::Open, fail_now: on_abort == OnAbort::FailNow };
    let mut pair = Pair { writer: Some(writer), reader: Some(reader), model };
    for chunk in bytes {
        pair.step(chunk[0], usize::from(u16::from_le_bytes([chunk[1], chunk[2]])) % (CAP + 100));
        assert!(pool.lent_bytes() <= CAP);
    }
    drop(pair);
    assert_eq!(pool.lent_bytes(), 0);
}

struct Model {
    queue: VecDeque<u8>,
    /// The next byte the writer writes: a running count, so that a lost or repeated byte shows.
    next: u8,
    end: End,
    fail_now: bool,
}

impl Model {
    fn fresh(&mut self, n: usize) -> Vec<u8> {
        let start = self.next;
        self.next = self.next.wrapping_add(n.to_le_bytes()[0]);
        (0..n).map(|i| start.wrapping_add(i.to_le_bytes()[0])).collect()
    }
}

struct Pair {
    writer: Option<Writer>,
    reader: Option<Reader>,
    model: Model,
}

impl Pair {
    fn step(&mut self, what: u8, n: usize) {
        match what % 12 {
            0 | 1 => self.write(n),
            2 => self.grant_commit(n),
            3 | 4 => self.read(n),
            5 => self.peek_consume(n),
            6 => self.fill(n),
            7 => self.poll_room(),
            8 => {
                if let Some(writer) = &mut self.writer {
                    assert_eq!(writer.flush().is_ok(), self.reader.is_some());
                }
            }
            9 => {
                if let Some(writer) = &mut self.writer {
                    writer.idle();
                }
            }
            10 => self.end_writer(n),
            _ => self.end_reader(n),
        }
    }

    fn write(&mut self, n: usize) {
        let Some(writer) = &mut self.writer else { return };
        let fresh = self.model.fresh(n);
        match writer.write(&fresh) {
            Ok(written) => {
                assert!(self.reader.is_some());
                assert_eq!(written, n.min(CAP - self.model.queue.len()));
                self.model.queue.extend(&fresh[..written]);
                let unwritten = (n - written).to_le_bytes()[0];
                self.model.next = self.model.next.wrapping_sub(unwritten);
            }
            Err(_) => assert!(self.reader.is_none()),
        }
    }

    fn grant_commit(&mut self, n: usize) {
        let Some(writer) = &mut self.writer else { return };
        let Ok(grant) = writer.grant() else {
            assert!(self.reader.is_none());
            return;
        };
        assert_eq!(grant.is_empty(), self.model.queue.len() == CAP);
        let n = n.min(grant.len());
        let fresh = self.model.fresh(n);
        grant[..n].copy_from_slice(&fresh);
        writer.commit(n).expect("it was granted");
        self.model.queue.extend(&fresh);
        assert!(writer.commit(CAP + 1).is_err());
    }

    /// Whether the next read must fail.
    fn failed(&self) -> bool {
        self.model.end == End::Aborted && (self.model.queue.is_empty() || self.model.fail_now)
    }

    fn read(&mut self, n: usize) {
        let failed = self.failed();
        let Some(reader) = &mut self.reader else { return };
        let mut buffer = vec![0; n];
        match reader.read(&mut buffer) {
            Ok(Some(0)) => assert!(n == 0 || self.model.end == End::Finished && self.model.queue.is_empty()),
            Ok(Some(read)) => {
                assert_eq!(read, n.min(self.model.queue.len()));
                assert!(self.model.queue.drain(..read).eq(buffer[..read].iter().copied()));
            }
            Ok(None) => assert!(self.model.end == End::Open && self.model.queue.is_empty()),
            Err(_) => assert!(failed),
        }
    }

    fn peek_consume(&mut self, n: usize) {
        let Some(reader) = &mut self.reader else { return };
        let (a, b) = reader.peek();
        assert!(self.model.queue.iter().eq(a.iter().chain(b)));
        assert!(reader.consume(self.model.queue.len() + 1).is_err());
        let n = n.min(self.model.queue.len());
        reader.consume(n).expect("it was seen");
        self.model.queue.drain(..n);
    }

    fn fill(&mut self, min: usize) {
        let failed = self.failed();
        let Some(reader) = &mut self.reader else { return };
        let there = self.model.queue.len();
        match reader.poll_fill(&mut Context::from_waker(Waker::noop()), min) {
            Poll::Ready(Ok(len)) => {
                assert_eq!(len, there);
                assert!(len >= min.max(1) || self.model.end == End::Finished);
            }
            Poll::Ready(Err(ReadError::FrameTooLarge { .. })) => assert!(min > CAP),
            Poll::Ready(Err(ReadError::Aborted(_))) => {
                assert!(self.model.end == End::Aborted && (failed || there < min));
            }
            Poll::Pending => assert!(self.model.end == End::Open && there < min.max(1)),
        }
    }

    fn poll_room(&mut self) {
        let Some(writer) = &mut self.writer else { return };
        match writer.poll_room(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => assert!(self.model.queue.len() < CAP),
            Poll::Ready(Err(_)) => assert!(self.reader.is_none()),
            Poll::Pending => assert_eq!(self.model.queue.len(), CAP),
        }
    }

    fn end_writer(&mut self, n: usize) {
        // Rarely, or every sequence would end at once.
        if !n.is_multiple_of(8) {
            return;
        }
        let Some(writer) = self.writer.take() else { return };
        self.model.end = End::Aborted;
        match n % 3 {
            0 => {
                self.model.end = End::Finished;
                writer.finish();
            }
            1 => writer.abort(Cause::new("abort")),
            _ => drop(writer),
        }
    }

    fn end_reader(&mut self, n: usize) {
        if !n.is_multiple_of(16) {
            return;
        }
        match (self.reader.take(), n % 3) {
            (Some(reader), 0) => reader.fail(Cause::new("fail")),
            (reader, _) => drop(reader),
        }
    }
}
