//! The ring against the kernel's pipe: lines through one thread and two tasks, and two rows of .NET's pipelines.
//!
//! `cargo bench -p stagehost-ring` prints, for each row, nanoseconds of CPU time per line for the ring and for a
//! non-blocking OS pipe of the same size, and their ratio, measured in turn in one process. `LINES=N` sets the number of
//! lines (default 5,000,000; the published figures used 50,000,000).
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and takes its size from the environment"
)]

use std::{
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use stagehost_ring::{Capacity, Options, Pool, Reader, Writer, ring};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::unix::pipe,
};

const CAPACITY: usize = 64 << 10;
const ROUNDS: usize = 5;

/// How lines are written, and read.
#[derive(Clone, Copy)]
enum Style {
    /// Two writes a line: the number, then the line break.
    TwoWrites,
    /// One write a line.
    OneWrite,
    /// Through 8 KiB buffers on both sides.
    Buffered,
    /// In blocks of 64 KiB.
    Bulk,
}

fn main() {
    let lines: u64 = std::env::var("LINES").ok().and_then(|lines| lines.parse().ok()).unwrap_or(5_000_000);
    println!("{lines} lines, capacity {CAPACITY}, CPU time, median of {ROUNDS} pairs in turn");
    println!("{:34} {:>12} {:>12} {:>8} {:>8}", "row", "ring ns/line", "pipe ns/line", "ratio", "aim");
    let rows = [
        ("a: two writes a line, unbuffered", Style::TwoWrites, lines / 5, 10.0),
        ("b: one write a line", Style::OneWrite, lines / 5, 5.0),
        ("c: 8 KiB buffers on both sides", Style::Buffered, lines, 1.15),
        ("d: 64 KiB blocks", Style::Bulk, lines * 10, 2.5),
    ];
    for (name, style, lines, aim) in rows {
        let mut pairs: Vec<(f64, f64)> = (0..ROUNDS)
            .map(|_| {
                let per_line = |time: Duration| time.as_secs_f64() * 1e9 / lines as f64;
                (per_line(timed(|| by_ring(style, lines))), per_line(timed(|| by_pipe(style, lines))))
            })
            .collect();
        pairs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (ring, pipe) = pairs[ROUNDS / 2];
        println!("{name:34} {ring:12.2} {pipe:12.2} {:8.2} {aim:8.2}", pipe / ring);
    }
    println!("{:34} {:>12} {:>12}", "row", "ring ns", ".NET 10 ns");
    println!("{:34} {:12.1} {:12.1}", "ready read", ready_read(), 41.5);
    println!("{:34} {:12.1} {:12.1}", "write, flush, wake, read", wake_up(), 159.0);
}

fn timed(run: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let start = now();
    run();
    now() - start
}

fn on_one_thread(run: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(run);
}

fn by_ring(style: Style, lines: u64) {
    on_one_thread(async move {
        let capacity = Capacity::new(CAPACITY).expect("a capacity");
        let (mut writer, reader) = ring(&Pool::default(), Options { capacity, ..Options::default() });
        let writing = tokio::task::LocalSet::new();
        writing
            .run_until(async move {
                let writing = tokio::task::spawn_local(async move {
                    write_lines(&mut writer, style, lines).await;
                    writer.finish();
                });
                assert_eq!(read_all(reader, style).await, total(style, lines));
                writing.await.expect("the writer ends");
            })
            .await;
    });
}

fn by_pipe(style: Style, lines: u64) {
    on_one_thread(async move {
        let (mut writer, reader) = pipe::pipe().expect("a pipe");
        rustix::pipe::fcntl_setpipe_size(&writer, CAPACITY).expect("a pipe of that size");
        let writing = tokio::task::LocalSet::new();
        writing
            .run_until(async move {
                let writing = tokio::task::spawn_local(async move { write_lines(&mut writer, style, lines).await });
                assert_eq!(read_all(reader, style).await, total(style, lines));
                writing.await.expect("the writer ends");
            })
            .await;
    });
}

const LINE: &[u8] = b"12345678\n";

fn total(style: Style, lines: u64) -> u64 {
    match style {
        Style::Bulk => lines * LINE.len() as u64 / CAPACITY as u64 * CAPACITY as u64,
        _ => (0..lines).map(|n| u64::from(n.checked_ilog10().unwrap_or(0)) + 2).sum(),
    }
}

/// A number's digits, written backwards into a buffer.
fn digits(mut n: u64, buffer: &mut [u8; 24]) -> usize {
    let mut start = buffer.len() - 1;
    buffer[start] = b'\n';
    loop {
        start -= 1;
        buffer[start] = b'0' + u8::try_from(n % 10).unwrap_or(0);
        n /= 10;
        if n == 0 {
            return start;
        }
    }
}

async fn write_lines(writer: &mut (impl AsyncWrite + Unpin), style: Style, lines: u64) {
    let mut buffer = [0; 24];
    match style {
        Style::TwoWrites => {
            for n in 0..lines {
                let start = digits(n, &mut buffer);
                writer.write_all(&buffer[start..23]).await.expect("a reader");
                writer.write_all(b"\n").await.expect("a reader");
            }
        }
        Style::OneWrite => {
            for n in 0..lines {
                let start = digits(n, &mut buffer);
                writer.write_all(&buffer[start..]).await.expect("a reader");
            }
        }
        Style::Buffered => {
            // A plain buffer: an asynchronous one would cost both sides more per line than either pipe does.
            let mut block = Vec::with_capacity(8 << 10);
            for n in 0..lines {
                let start = digits(n, &mut buffer);
                if block.len() + buffer.len() - start > block.capacity() {
                    writer.write_all(&block).await.expect("a reader");
                    block.clear();
                }
                block.extend_from_slice(&buffer[start..]);
            }
            writer.write_all(&block).await.expect("a reader");
        }
        Style::Bulk => {
            let block = vec![b'x'; CAPACITY];
            for _ in 0..lines * LINE.len() as u64 / CAPACITY as u64 {
                writer.write_all(&block).await.expect("a reader");
            }
        }
    }
}

async fn read_all(mut reader: impl AsyncRead + Unpin, style: Style) -> u64 {
    let mut all = 0;
    if matches!(style, Style::Buffered) {
        let mut reader = BufReader::with_capacity(8 << 10, reader);
        loop {
            let n = black_box(reader.fill_buf().await.expect("a clean end")).len();
            if n == 0 {
                return all;
            }
            all += n as u64;
            reader.consume(n);
        }
    }
    let mut buffer = vec![0; CAPACITY];
    loop {
        match reader.read(&mut buffer).await.expect("a clean end") {
            0 => return all,
            n => all += n as u64,
        }
        black_box(&buffer);
    }
}

fn small() -> (Writer, Reader) {
    let capacity = Capacity::new(CAPACITY).expect("a capacity");
    ring(&Pool::default(), Options { capacity, ..Options::default() })
}

/// Nanoseconds of a read that finds its bytes: look at one, consume it.
fn ready_read() -> f64 {
    const BLOCKS: u32 = 300;
    let (mut writer, mut reader) = small();
    let mut cx = Context::from_waker(Waker::noop());
    let mut left = 0;
    let mut spent = Duration::ZERO;
    for _ in 0..BLOCKS {
        while left < CAPACITY {
            left += writer.write(&[1; CAPACITY]).expect("a reader");
        }
        spent += timed(|| {
            for _ in 0..CAPACITY {
                assert!(matches!(black_box(&mut reader).poll_fill(&mut cx, 1), Poll::Ready(Ok(_))));
                reader.consume(1).expect("it is there");
            }
        });
        left = 0;
    }
    spent.as_secs_f64() * 1e9 / (f64::from(BLOCKS) * CAPACITY as f64)
}

/// Nanoseconds of a read that waits, a write with its flush that wakes it, and the read that follows.
fn wake_up() -> f64 {
    const TURNS: u32 = 5_000_000;
    let (mut writer, mut reader) = small();
    let mut cx = Context::from_waker(Waker::noop());
    let mut byte = [0];
    let spent = timed(|| {
        for _ in 0..TURNS {
            let mut reading = pin!(std::future::poll_fn(|cx| reader.poll_read(cx, &mut byte)));
            assert!(Pin::new(&mut reading).poll(&mut cx).is_pending());
            writer.write(b"x").expect("a reader");
            assert!(Pin::new(&mut reading).poll(&mut cx).is_ready());
        }
    });
    spent.as_secs_f64() * 1e9 / f64::from(TURNS)
}
