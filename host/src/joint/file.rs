//! Regular files, which are always "ready" and block all the same.
//!
//! Reads take what the page cache has without blocking and hand the rest to a thread, so that one slow disk does not hold
//! up other stages. Writes always go by a thread, which writes one buffer while the next one fills.

use std::{
    io::{self, IoSliceMut},
    os::fd::OwnedFd,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use rustix::{
    event::PollFlags,
    fs::{Advice, OFlags, fadvise, fcntl_getfl},
    io::{Errno, ReadWriteFlags, pread, preadv2, write},
};
use stagehost_ring::copy;
use tokio::task::JoinHandle;

use super::{
    bounce::Bounce,
    fan_out::lock,
    system::{check_whole, retry, wait},
};

/// How much a thread reads or gathers at a time, in bytes.
const BLOCK: usize = 256 << 10;

/// A regular file, read from a position of our own: the descriptor's offset stays where it is.
#[derive(Debug)]
pub(crate) struct FileSource {
    file: Arc<OwnedFd>,
    position: u64,
    /// What a thread read, from `taken` on; `position` counts only what was handed over.
    block: Vec<u8>,
    taken: usize,
    reading: Option<JoinHandle<(Vec<u8>, io::Result<usize>)>>,
    /// The file system knows no reads that do not wait.
    always_waits: bool,
    line_at_a_time: bool,
    /// How many bytes it had when somebody looked: at its end it is to have no fewer.
    size: Option<u64>,
    bounce: Bounce,
}

impl FileSource {
    pub(crate) fn new(file: OwnedFd, position: u64, line_at_a_time: bool) -> Self {
        // Advice may be ignored, and so may its failure.
        let _ = fadvise(&file, position, None, Advice::Sequential);
        Self {
            file: Arc::new(file),
            position,
            block: Vec::new(),
            taken: 0,
            reading: None,
            always_waits: false,
            line_at_a_time,
            size: None,
            bounce: Bounce::default(),
        }
    }

    /// The same, of a file that was this large.
    pub(crate) fn of_size(mut self, size: Option<u64>) -> Self {
        self.size = size;
        self
    }

    /// Where the first byte stands that was not handed over.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let by_block =
            self.taken < self.block.len() || self.reading.is_some() || self.always_waits || self.line_at_a_time;
        let n = if by_block {
            ready!(self.poll_block(cx))?;
            let from = &self.block[self.taken..];
            let line = || memchr::memchr(b'\n', from).map_or(from.len(), |newline| newline + 1);
            let n = if self.line_at_a_time { line() } else { from.len() }.min(into.len());
            copy(&mut into[..n], &from[..n]);
            n
        } else {
            let (file, position) = (&*self.file, self.position);
            let read = |into: &mut [u8]| preadv2(file, &mut [IoSliceMut::new(into)], position, ReadWriteFlags::NOWAIT);
            match self.bounce.read(into, position, read) {
                Ok(n) => n,
                Err(Errno::AGAIN | Errno::INTR) => {
                    ready!(self.poll_block(cx))?;
                    return self.poll_read(cx, into);
                }
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                    self.always_waits = true;
                    return self.poll_read(cx, into);
                }
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        };
        if let Some(size) = self.size.filter(|size| n == 0 && !into.is_empty() && self.position < *size) {
            check_whole(&self.file, size)?;
        }
        self.position += n as u64;
        self.taken = self.block.len().min(self.taken + n);
        Poll::Ready(Ok(n))
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A failure is told by the read that follows.
        self.poll_block(cx).map(|_| ())
    }

    /// Waits until `block` has bytes, or the file ends.
    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.taken < self.block.len() {
            return Poll::Ready(Ok(()));
        }
        if self.reading.is_none() && !self.always_waits {
            self.block.resize(BLOCK, 0);
            self.taken = 0;
            let read =
                preadv2(&*self.file, &mut [IoSliceMut::new(&mut self.block)], self.position, ReadWriteFlags::NOWAIT);
            self.block.truncate(read.unwrap_or(0));
            if read.is_ok() {
                return Poll::Ready(Ok(()));
            }
        }
        let reading = self.reading.get_or_insert_with(|| {
            let (file, position, mut block) = (self.file.clone(), self.position, std::mem::take(&mut self.block));
            tokio::task::spawn_blocking(move || {
                block.resize(BLOCK, 0);
                let read = retry(|| pread(&*file, &mut block[..], position));
                (block, read)
            })
        });
        let (block, read) = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other)?;
        self.reading = None;
        self.block = block;
        self.taken = 0;
        match read {
            Ok(n) => self.block.truncate(n),
            Err(error) => {
                self.block.clear();
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A file, or anything else whose writes may block. A thread writes one buffer while the next one fills, and then that, until
/// nothing is left: what was taken is on its way, whether or not more follows.
#[derive(Debug)]
pub(crate) struct FileSink {
    file: Arc<OwnedFd>,
    /// Whether a write could wait for a reader rather than a disk: then it goes in pieces that do not block, so that it
    /// can be given up.
    waits_for_reader: bool,
    /// Whether nobody else shares its offset.
    is_ours: bool,
    given_up: Arc<AtomicBool>,
    blocks: Arc<Mutex<Blocks>>,
}

/// What a [`FileSink`] shares with the thread that writes.
#[derive(Debug, Default)]
struct Blocks {
    filling: Vec<u8>,
    /// Whether a thread writes.
    busy: bool,
    /// Why a write failed; told once.
    failure: Option<io::Error>,
    /// Who waits for the thread.
    waiting: Option<Waker>,
}

impl FileSink {
    /// A regular file that nobody else writes.
    pub(crate) fn ours(file: Arc<OwnedFd>) -> Self {
        let mut sink = Self::new(file, false);
        sink.is_ours = true;
        sink
    }

    pub(crate) fn new(file: Arc<OwnedFd>, waits_for_reader: bool) -> Self {
        Self { file, waits_for_reader, is_ours: false, given_up: Arc::default(), blocks: Arc::default() }
    }

    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        rustix::termios::isatty(&self.file)
    }

    /// The file, if it is one of ours that takes bytes at its own offset.
    pub(crate) fn plain_file(&self) -> Option<Arc<OwnedFd>> {
        let appends = fcntl_getfl(&self.file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
        (self.is_ours && !self.waits_for_reader && !appends).then(|| self.file.clone())
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut blocks = lock(&self.blocks);
        if let Some(failure) = blocks.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let n = bytes.len().min(BLOCK.saturating_sub(blocks.filling.len()));
        if n == 0 && !bytes.is_empty() {
            blocks.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        blocks.filling.extend_from_slice(&bytes[..n]);
        if !blocks.busy && n > 0 {
            blocks.busy = true;
            let (file, given_up, waits_for_reader) = (self.file.clone(), self.given_up.clone(), self.waits_for_reader);
            let shared = self.blocks.clone();
            tokio::task::spawn_blocking(move || {
                write_blocks(&shared, |block| write_all(&file, block, waits_for_reader, &given_up));
            });
        }
        Poll::Ready(Ok(n))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut blocks = lock(&self.blocks);
        if let Some(failure) = blocks.failure.take() {
            return Poll::Ready(Err(failure));
        }
        if !blocks.busy {
            return Poll::Ready(Ok(()));
        }
        blocks.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        self.given_up.store(true, Relaxed);
    }
}

/// Writes what was taken, block by block, until nothing is left or a write fails.
fn write_blocks(shared: &Mutex<Blocks>, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
    let mut block = Vec::new();
    loop {
        {
            let mut blocks = lock(shared);
            if blocks.filling.is_empty() {
                blocks.busy = false;
            }
            std::mem::swap(&mut blocks.filling, &mut block);
            if let Some(waiting) = blocks.waiting.take() {
                waiting.wake();
            }
            if !blocks.busy {
                return;
            }
        }
        if let Err(failure) = write(&block) {
            let mut blocks = lock(shared);
            blocks.failure = Some(failure);
            blocks.filling.clear();
        }
        block.clear();
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], waits_for_reader: bool, given_up: &AtomicBool) -> io::Result<()> {
    // A pipe or terminal that polls writable takes this much without blocking (PIPE_BUF).
    const PIECE: usize = 4096;
    while !bytes.is_empty() {
        let mut piece = bytes;
        if waits_for_reader {
            piece = &bytes[..bytes.len().min(PIECE)];
            wait(file, PollFlags::OUT, given_up)?;
        }
        let n = retry(|| write(file, piece))?;
        bytes = &bytes[n..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[tokio::test]
    async fn what_was_taken_is_written_though_nobody_asks_again() {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut full = 0;
        while let Ok(n) = write(&ours, &[b'x'; 4096]) {
            full += n;
        }
        let mut sink = FileSink::new(Arc::new(ours), true);
        let mut cx = Context::from_waker(Waker::noop());
        // The thread waits with the first piece when the second is taken.
        assert!(matches!(sink.poll_write(&mut cx, b"first "), Poll::Ready(Ok(6))));
        std::thread::yield_now();
        assert!(matches!(sink.poll_write(&mut cx, b"second"), Poll::Ready(Ok(6))));
        let mut seen = Vec::new();
        while seen.len() < full + 12 {
            let mut piece = [0; 4096];
            wait(&theirs, PollFlags::IN, &AtomicBool::new(false)).unwrap();
            let n = rustix::io::read(&theirs, &mut piece).unwrap();
            seen.extend_from_slice(&piece[..n]);
        }
        assert!(seen.ends_with(b"xfirst second"));
    }

    #[tokio::test]
    async fn a_failed_write_is_told_once_and_what_follows_it_is_not_written() {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        drop(theirs);
        let mut sink = FileSink::new(Arc::new(ours), true);
        std::future::poll_fn(|cx| sink.poll_write(cx, b"lost")).await.unwrap();
        let failure = std::future::poll_fn(|cx| sink.poll_flush(cx)).await.unwrap_err();
        assert_eq!(failure.kind(), io::ErrorKind::BrokenPipe);
        std::future::poll_fn(|cx| sink.poll_flush(cx)).await.unwrap();
    }
}
