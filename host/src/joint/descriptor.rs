//! Pipes, terminals, sockets and devices.
//!
//! `O_NONBLOCK` belongs to the open file description, which an inherited descriptor shares with the parent's shell: it is
//! never set on one. A pipe or terminal is opened anew through `/proc/self/fd`, which gives a description of our own; for
//! what cannot be opened anew, a thread waits.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use rustix::{
    event::PollFlags,
    fs::{Mode, OFlags, open},
    io::{Errno, read, write},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use super::file::{retry, wait};

/// A descriptor to read from. It reads only when asked, and never more than asked for.
#[derive(Debug)]
pub(crate) struct DescriptorSource(Waits);

#[derive(Debug)]
enum Waits {
    /// A description of our own, watched by the runtime.
    Watched(AsyncFd<OwnedFd>),
    /// A thread waits until it is readable.
    Thread { file: Arc<OwnedFd>, waiting: Option<JoinHandle<io::Result<()>>>, given_up: Arc<AtomicBool> },
}

/// Opens `file` anew without sharing its flags, if it is of a kind where that is possible and means the same.
fn reopen(file: &OwnedFd, access: OFlags) -> Option<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path, access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Lets the runtime watch a descriptor. One of the crate's named exceptions to having no `unsafe`.
fn watch(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor, always gives the same one, and cannot close it while the `AsyncFd` has it.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}

impl DescriptorSource {
    /// Takes an inherited descriptor, whose flags stay as they are.
    pub(crate) fn inherited(file: OwnedFd) -> Self {
        match reopen(&file, OFlags::RDONLY).and_then(|own| watch(own, Interest::READABLE).ok()) {
            Some(watched) => Self(Waits::Watched(watched)),
            None => Self(Waits::Thread { file: Arc::new(file), waiting: None, given_up: Arc::default() }),
        }
    }

    /// Takes a descriptor that is ours alone and does not block.
    pub(crate) fn owned(file: OwnedFd) -> io::Result<Self> {
        Ok(Self(Waits::Watched(watch(file, Interest::READABLE)?)))
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(cx));
            match &mut self.0 {
                Waits::Watched(watched) => {
                    let mut readiness = ready!(watched.poll_read_ready(cx))?;
                    match retry(|| read(readiness.get_inner(), &mut *into)) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => readiness.clear_ready(),
                        done => return Poll::Ready(done),
                    }
                }
                // The thread saw it readable; whoever else reads from it may still be faster, as with any shared pipe.
                Waits::Thread { file, waiting, .. } => {
                    if let Some(waited) = waiting.take() {
                        let mut waited = waited;
                        match Pin::new(&mut waited).poll(cx) {
                            Poll::Ready(waited) => waited.map_err(io::Error::other)??,
                            Poll::Pending => {
                                *waiting = Some(waited);
                                return Poll::Pending;
                            }
                        }
                    }
                    return Poll::Ready(retry(|| read(&**file, &mut *into)));
                }
            }
        }
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Waits::Watched(watched) => watched.poll_read_ready(cx).map(|_| ()),
            Waits::Thread { file, waiting, given_up } => {
                let now = rustix::event::poll(
                    &mut [rustix::event::PollFd::new(&**file, PollFlags::IN)],
                    Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }),
                );
                if waiting.is_none() && now != Ok(0) {
                    return Poll::Ready(());
                }
                let waiting = waiting.get_or_insert_with(|| {
                    let (file, given_up) = (file.clone(), given_up.clone());
                    tokio::task::spawn_blocking(move || wait(file.as_fd(), PollFlags::IN, &given_up))
                });
                if waiting.is_finished() {
                    return Poll::Ready(());
                }
                // The join handle wakes us; its value is taken by the read.
                match Pin::new(waiting).poll(cx) {
                    Poll::Ready(_) => {
                        self.forget_wait();
                        Poll::Ready(())
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn forget_wait(&mut self) {
        if let Waits::Thread { waiting, .. } = &mut self.0 {
            *waiting = None;
        }
    }
}

impl Drop for DescriptorSource {
    fn drop(&mut self) {
        if let Waits::Thread { given_up, .. } = &self.0 {
            given_up.store(true, Relaxed);
        }
    }
}

/// A pipe to write to, without blocking.
#[derive(Debug)]
pub(crate) struct DescriptorSink(AsyncFd<OwnedFd>);

impl DescriptorSink {
    /// Opens an inherited pipe anew. `None`: its writes must go by a thread.
    pub(crate) fn inherited(file: &OwnedFd) -> Option<Self> {
        let own = reopen(file, OFlags::WRONLY)?;
        watch(own, Interest::WRITABLE).ok().map(Self)
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut readiness = ready!(self.0.poll_write_ready(cx))?;
            match write(readiness.get_inner(), bytes) {
                Err(Errno::AGAIN) => readiness.clear_ready(),
                Err(Errno::INTR) => {}
                done => return Poll::Ready(done.map_err(io::Error::from)),
            }
        }
    }
}
