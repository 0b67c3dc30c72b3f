//! Pipes, terminals, sockets and devices.
//!
//! `O_NONBLOCK` belongs to the open file description, which an inherited descriptor shares with the parent's shell: it is
//! never set on one. A pipe or terminal is opened anew through `/proc/self/fd`, which gives a description of our own; for
//! what cannot be opened anew, a thread waits.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open},
    io::{Errno, read, write},
    pipe::{SpliceFlags, splice},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
};

use super::system::{ABOVE_STDIO, retry, wait};

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
pub(crate) fn watch(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor, always gives the same one, and cannot close it while the `AsyncFd` has it.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}

/// A copy of one of the process's own descriptors, by its number: it shares the offset with the original.
///
/// # Errors
///
/// What the system says; `EBADF` when there is none of that number.
pub fn inherited_descriptor(number: u32) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
    // SAFETY: a system call on a number. It makes a new descriptor, which nobody else knows of, and takes none away.
    unsafe {
        let copy = libc::fcntl(number, libc::F_DUPFD_CLOEXEC, ABOVE_STDIO);
        if copy < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(copy)) }
    }
}

impl DescriptorSource {
    /// Takes an inherited descriptor, whose flags stay as they are.
    pub(crate) fn inherited(file: OwnedFd) -> Self {
        match reopen(&file, OFlags::RDONLY).and_then(|own| watch(own, Interest::READABLE).ok()) {
            Some(watched) => Self(Waits::Watched(watched)),
            None => Self(Waits::Thread { file: Arc::new(file), waiting: None, given_up: Arc::default() }),
        }
    }

    /// Takes a pipe's read end that is ours alone.
    pub(crate) fn owned(file: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
        Ok(Self(Waits::Watched(watch(file, Interest::READABLE)?)))
    }

    /// A copy of the descriptor, if it is a pipe that can be spliced from.
    pub(crate) fn pipe(&self) -> Option<OwnedFd> {
        let Waits::Watched(watched) = &self.0 else { return None };
        let kind = fstat(watched.get_ref()).ok().map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind == Some(FileType::Fifo) { watched.get_ref().try_clone().ok() } else { None }
    }

    /// Moves what is there, and at least a byte, to a file without its passing through this process. `from` is a copy of
    /// this pipe. 0 is the clean end.
    pub(crate) async fn splice_to(&mut self, from: &Arc<OwnedFd>, to: &Arc<OwnedFd>) -> rustix::io::Result<usize> {
        const MOST: usize = 1 << 20;
        let Waits::Watched(watched) = &self.0 else { return Err(Errno::INVAL) };
        loop {
            // Taken before the attempt: what comes during it must not be forgotten with it.
            let mut readiness = watched.readable().await.map_err(|_| Errno::IO)?;
            let (from, to) = (from.clone(), to.clone());
            // The file's side may wait for its disk.
            let moving = tokio::task::spawn_blocking(move || {
                splice(&*from, None, &*to, None, MOST, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
            });
            match moving.await.unwrap_or(Err(Errno::IO)) {
                Err(Errno::AGAIN) => readiness.clear_ready(),
                Err(Errno::INTR) => {}
                moved => return moved,
            }
        }
    }

    fn file(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Waits::Watched(watched) => watched.get_ref().as_fd(),
            Waits::Thread { file, .. } => file.as_fd(),
        }
    }

    /// Whether it is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        rustix::termios::isatty(self.file())
    }

    /// How many bytes are there to be read, as far as the system says.
    pub(crate) fn waiting(&self) -> u64 {
        rustix::io::ioctl_fionread(self.file()).unwrap_or(0)
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            if let Waits::Watched(watched) = &self.0 {
                let mut readiness = ready!(watched.poll_read_ready(cx))?;
                match retry(|| read(readiness.get_inner(), &mut *into)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => readiness.clear_ready(),
                    done => return Poll::Ready(done),
                }
                continue;
            }
            ready!(self.poll_ready(cx));
            if let Waits::Thread { file, .. } = &self.0 {
                // It was readable just now; whoever else reads from it may still be faster, as with any shared pipe.
                return Poll::Ready(retry(|| read(&**file, &mut *into)));
            }
        }
    }

    /// Waits until a read would find something, by the kernel's own word: what was readable once may have been read since.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.0 {
                Waits::Watched(watched) => match ready!(watched.poll_read_ready(cx)) {
                    Ok(mut readiness) => match is_readable(readiness.get_inner()) {
                        true => return Poll::Ready(()),
                        false => readiness.clear_ready(),
                    },
                    // The read that follows says why.
                    Err(_) => return Poll::Ready(()),
                },
                Waits::Thread { file, waiting, given_up } => {
                    if is_readable(&**file) {
                        return Poll::Ready(());
                    }
                    let (file, given_up) = (file.clone(), given_up.clone());
                    let waited = waiting.get_or_insert_with(|| {
                        tokio::task::spawn_blocking(move || wait(file.as_fd(), PollFlags::IN, &given_up))
                    });
                    // The join handle wakes us.
                    let waited = ready!(Pin::new(waited).poll(cx));
                    *waiting = None;
                    if !matches!(waited, Ok(Ok(()))) {
                        // The read that follows says why.
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

/// Whether a read would not wait: there is something, or an end, or an error.
fn is_readable(file: impl AsFd) -> bool {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&NOW)) != Ok(0)
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

    /// Takes a pipe's write end that is ours alone.
    pub(crate) fn owned(file: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
        watch(file, Interest::WRITABLE).map(Self)
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
