//! The guard: a small process that outlives the host by a moment.
//!
//! SIGKILL gives the host no chance to act: its pipes close, and a program that reads from one would take that for the
//! end of its input. So the guard holds a copy of every pipe's write end that the host keeps, and knows the group of every
//! command. When the host dies it first kills the groups, then exits, which lets go of the pipes.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use rustix::{
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
    },
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};

use super::tree;

/// A process that kills what this one started, should this one be killed.
///
/// Clones share it; it ends with the last one.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Process>);

#[derive(Debug)]
struct Process {
    /// `None`: it was sent away.
    link: Mutex<Option<GuardLink>>,
    pid: Pid,
    reaped: AtomicBool,
}

/// The host's side of the connection.
#[derive(Clone, Debug)]
pub(crate) struct GuardLink(Arc<OwnedFd>);

/// What the host tells the guard.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Tell {
    /// A command leads this process group.
    Group = 1,
    /// A command in a group that it shares with others.
    Tree = 2,
    /// The command is about to be reaped.
    Gone = 3,
    /// Keep the descriptor that comes with this.
    Hold = 4,
    /// Let go of it.
    Release = 5,
    /// All is over, and well.
    Bye = 6,
}

type Message = [u8; 9];

fn message(tell: Tell, id: u64) -> Message {
    let mut message = [0; 9];
    message[0] = tell as u8;
    message[1..].copy_from_slice(&id.to_le_bytes());
    message
}

impl Guard {
    /// Forks the guard. To be called before the program starts its first thread.
    ///
    /// # Errors
    ///
    /// When the program has threads already, or the system refuses.
    pub fn start() -> io::Result<Self> {
        // The directory of a process's threads has a link for each, beside its own two.
        let threads = std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2);
        if threads != 1 {
            return Err(io::Error::other(format!("the guard must be started before any thread; there are {threads}")));
        }
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // SAFETY: there is one thread, so the child is a whole copy of this process and may do what this one may. It never
        // returns from `watch`.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                watch(&theirs)
            }
            pid => {
                let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork gave no process id"))?;
                let link = Mutex::new(Some(GuardLink(Arc::new(ours))));
                Ok(Self(Arc::new(Process { link, pid, reaped: AtomicBool::new(false) })))
            }
        }
    }

    /// Sends the guard away, because there is nothing left to guard. Does not wait for it.
    pub fn dismiss(&self) {
        self.0.dismiss();
    }

    /// Sends the guard away and waits until it is gone. Dropping the last clone does the same.
    pub fn end(&self) {
        self.0.end();
    }

    pub(crate) fn pid(&self) -> Pid {
        self.0.pid
    }

    pub(crate) fn link(&self) -> Option<GuardLink> {
        self.0.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Process {
    fn dismiss(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(link) = link {
            link.tell(Tell::Bye, 0);
        }
    }

    fn end(&self) {
        self.dismiss();
        // Once: later its id may be another child's.
        if !self.reaped.swap(true, Relaxed) {
            let _ = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl GuardLink {
    fn tell(&self, tell: Tell, id: u64) {
        // A guard that is gone was killed by somebody; the run goes on without.
        let _ = send(&*self.0, &message(tell, id), SendFlags::NOSIGNAL);
    }

    /// Says from inside a child, before it runs its program, that it leads a command. Async-signal-safe.
    pub(super) fn register_self(&self, own_group: bool) {
        let id = u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
        self.tell(if own_group { Tell::Group } else { Tell::Tree }, id);
    }

    pub(super) fn gone(&self, pid: Pid) {
        self.tell(Tell::Gone, u64::from(pid.as_raw_nonzero().get().unsigned_abs()));
    }

    /// Has the guard keep a copy of a descriptor until the returned value is dropped.
    pub(crate) fn hold(&self, file: BorrowedFd<'_>) -> Hold {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file];
        control.push(SendAncillaryMessage::ScmRights(&files));
        let _ = sendmsg(&*self.0, &[IoSlice::new(&message(Tell::Hold, id))], &mut control, SendFlags::NOSIGNAL);
        Hold { link: self.clone(), id }
    }
}

/// A descriptor that the guard keeps a copy of.
#[derive(Debug)]
pub(crate) struct Hold {
    link: GuardLink,
    id: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.link.tell(Tell::Release, self.id);
    }
}

/// The guard's whole life.
fn watch(link: &OwnedFd) -> ! {
    detach(link);
    let mut known = Known::default();
    while known.hear(link.as_fd()) {}
    known.kill();
    // SAFETY: ends this process at once, with nothing to clean up.
    unsafe { libc::_exit(0) }
}

/// Leaves everything behind that the host was started with: its terminal, signals, directory and descriptors.
fn detach(link: &OwnedFd) {
    // SAFETY: `set` is initialised by `sigfillset`; there is one thread.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
    // Each of these is a courtesy to others; the guard does its work without them too.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"stagehost-guard");
    let _ = rustix::process::chdir("/");
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        for standard in 0..3 {
            // SAFETY: replaces a descriptor that nothing in this process owns.
            unsafe { libc::dup2(null.as_raw_fd(), standard) };
        }
    }
    close_all_but(link.as_raw_fd());
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// Closes everything but the standard streams and this descriptor.
fn close_all_but(kept: i32) {
    let range = |first: i32, last: i32| {
        // SAFETY: this process uses no descriptor but the link and the standard streams; what the host's values own here is never
        // touched again.
        first > last || unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0
    };
    if range(3, kept - 1) && range(kept + 1, i32::MAX) {
        return;
    }
    // Before Linux 5.9, or where the call is denied.
    let inherited = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = inherited.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2 && *number != kept) {
        // SAFETY: as above.
        unsafe { libc::close(number) };
    }
}

/// What the guard would do.
#[derive(Default)]
struct Known {
    groups: Vec<u64>,
    trees: Vec<u64>,
    held: Vec<(u64, OwnedFd)>,
}

impl Known {
    /// Waits for the next message. `false`: the host is gone.
    fn hear(&mut self, link: BorrowedFd<'_>) -> bool {
        let mut bytes: Message = [0; 9];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(link, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        match received {
            Ok(received) if received.bytes == 0 => return false,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return true,
            Err(_) => return false,
        }
        let [kind, id @ ..] = bytes;
        let id = u64::from_le_bytes(id);
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        match kind {
            1 => self.groups.push(id),
            2 => self.trees.push(id),
            3 => {
                self.groups.retain(|group| *group != id);
                self.trees.retain(|tree| *tree != id);
            }
            4 => self.held.extend(file.map(|file| (id, file))),
            5 => self.held.retain(|(held, _)| *held != id),
            _ => {
                *self = Self::default();
                return false;
            }
        }
        true
    }

    fn kill(&self) {
        let pid = |id: &u64| i32::try_from(*id).ok().and_then(Pid::from_raw);
        for group in self.groups.iter().filter_map(pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        for root in self.trees.iter().filter_map(pid) {
            tree::kill_tree(root);
        }
    }
}
