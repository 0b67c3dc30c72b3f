//! Regular files, which are always "ready" and block all the same.
//!
//! Reads take what the page cache has without blocking and hand the rest to a thread, so that one slow disk does not hold
//! up other stages. Writes always go by a thread, which writes one buffer while the next one fills.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Advice, OFlags, fadvise, fcntl_getfl},
    io::{Errno, ReadWriteFlags, pread, preadv2, write},
};
use tokio::task::JoinHandle;

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
        }
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
            into[..n].copy_from_slice(&from[..n]);
            n
        } else {
            match preadv2(&*self.file, &mut [IoSliceMut::new(into)], self.position, ReadWriteFlags::NOWAIT) {
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

/// A file, or anything else whose writes may block. One buffer is written by a thread while the next one fills.
#[derive(Debug)]
pub(crate) struct FileSink {
    file: Arc<OwnedFd>,
    /// Whether a write could wait for a reader rather than a disk: then it goes in pieces that do not block, so that it
    /// can be given up.
    waits_for_reader: bool,
    /// Whether nobody else shares its offset.
    is_ours: bool,
    given_up: Arc<AtomicBool>,
    filling: Vec<u8>,
    writing: Option<JoinHandle<(Vec<u8>, io::Result<()>)>>,
    spare: Vec<u8>,
}

impl FileSink {
    /// A regular file that nobody else writes.
    pub(crate) fn ours(file: Arc<OwnedFd>) -> Self {
        let mut sink = Self::new(file, false);
        sink.is_ours = true;
        sink
    }

    pub(crate) fn new(file: Arc<OwnedFd>, waits_for_reader: bool) -> Self {
        Self {
            file,
            waits_for_reader,
            is_ours: false,
            given_up: Arc::default(),
            filling: Vec::new(),
            writing: None,
            spare: Vec::new(),
        }
    }

    /// The file, if it is one of ours that takes bytes at its own offset.
    pub(crate) fn plain_file(&self) -> Option<Arc<OwnedFd>> {
        let appends = fcntl_getfl(&self.file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
        (self.is_ours && !self.waits_for_reader && !appends).then(|| self.file.clone())
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_written(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if !self.filling.is_empty() => self.start(),
            Poll::Pending if self.filling.len() >= BLOCK => return Poll::Pending,
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        let n = bytes.len().min(BLOCK - self.filling.len());
        self.filling.extend_from_slice(&bytes[..n]);
        if self.writing.is_none() {
            self.start();
        }
        Poll::Ready(Ok(n))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_written(cx))?;
            if self.filling.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.start();
        }
    }

    /// Waits until the thread is done with its buffer.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writing) = &mut self.writing else { return Poll::Ready(Ok(())) };
        let (buffer, written) = ready!(Pin::new(writing).poll(cx)).map_err(io::Error::other)?;
        self.writing = None;
        self.spare = buffer;
        Poll::Ready(written)
    }

    fn start(&mut self) {
        let mut buffer = std::mem::replace(&mut self.filling, std::mem::take(&mut self.spare));
        let (file, given_up, waits_for_reader) = (self.file.clone(), self.given_up.clone(), self.waits_for_reader);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let written = write_all(&file, &buffer, waits_for_reader, &given_up);
            buffer.clear();
            (buffer, written)
        }));
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        self.given_up.store(true, Relaxed);
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

/// Waits on this thread until a descriptor is ready for `events`, or the wait is given up.
pub(super) fn wait(file: impl AsFd, events: PollFlags, given_up: &AtomicBool) -> io::Result<()> {
    // How soon a wait that was given up ends.
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    loop {
        if given_up.load(Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match poll(&mut [PollFd::new(&file, events)], Some(&LOOK)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Calls again when a signal interrupted the call.
pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done.map_err(io::Error::from),
        }
    }
}
