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
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, read, write},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
    },
    process::{Pid, Signal, kill_process_group},
};

use super::{
    Grouping, children,
    tree::{self, Member},
};

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

/// The host's side of the connection. What is said waits in the socket until the guard looks, which it does when the host is
/// gone, and when the bell rings: it need not wake for what only matters then.
#[derive(Clone, Debug)]
pub(crate) struct GuardLink(Arc<Ends>);

/// What the host and the guard share: each has its end of the socket, and the bell.
#[derive(Debug)]
struct Ends {
    socket: OwnedFd,
    bell: OwnedFd,
    /// The host's side has waited until the guard had left its group.
    away: Once,
}

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
    /// A command leads this session.
    Session = 7,
}

/// What it is, about whom, and when that started (0: it does not matter).
type Message = [u8; 17];

fn message(tell: Tell, id: u64, started: u64) -> Message {
    let mut message = [0; 17];
    message[0] = tell as u8;
    message[1..9].copy_from_slice(&id.to_le_bytes());
    message[9..].copy_from_slice(&started.to_le_bytes());
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
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // SAFETY: there is one thread, so the child is a whole copy of this process and may do what this one may. It never
        // returns from `watch`.
        let forked = children::start(|| unsafe { libc::fork() }, |pid| Pid::from_raw(*pid).filter(|_| *pid > 0));
        match forked {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop(ours);
                watch(&Ends { socket: theirs, bell, away: Once::new() })
            }
            pid => {
                let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork gave no process id"))?;
                let link = Mutex::new(Some(GuardLink(Arc::new(Ends { socket: ours, bell, away: Once::new() }))));
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
            children::wait(self.pid);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl GuardLink {
    /// Async-signal-safe.
    fn tell(&self, tell: Tell, id: u64) {
        self.tell_message(tell, &message(tell, id, 0));
    }

    /// Async-signal-safe.
    fn tell_message(&self, tell: Tell, message: &Message) {
        self.say(|| send(&self.0.socket, message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT));
        if matches!(tell, Tell::Release | Tell::Bye) {
            self.ring();
        }
    }

    /// Sends, and rings for as long as there is no room. A guard that is gone was killed by somebody; the run goes on without, as it
    /// does when others of this user's processes have used up the descriptors that may be on their way. Async-signal-safe.
    fn say(&self, send: impl Fn() -> Result<usize, Errno>) {
        // The guard may have made room, and others used it, before we looked: so nothing waits for long without ringing again.
        const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        const ROUNDS: u32 = 50;
        let mut rounds = 0;
        loop {
            match send() {
                Err(Errno::AGAIN) => {
                    self.ring();
                    let _ = poll(&mut [PollFd::new(&self.0.socket, PollFlags::OUT)], Some(&PAUSE));
                }
                // Too many descriptors are on their way; ours arrive soon.
                Err(Errno::TOOMANYREFS) if rounds < ROUNDS => {
                    rounds += 1;
                    self.ring();
                    let _ = poll(&mut [], Some(&PAUSE));
                }
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn ring(&self) {
        // It fails only if it has been rung so often that it rings anyway.
        let _ = write(&self.0.bell, &1_u64.to_ne_bytes());
    }

    /// Waits until the guard has left the host's process group: what kills the whole group leaves it alone from then on. To be
    /// called before the first program is started.
    pub(super) fn wait_until_away(&self) {
        self.0.away.call_once(|| {
            // Nothing is said by one that was killed: the run goes on without.
            while recv(&self.0.socket, &mut [0_u8; 1], RecvFlags::empty()).is_err_and(|error| error == Errno::INTR) {}
        });
    }

    /// Says from inside a child, before it runs its program, that it leads a command. Async-signal-safe.
    pub(super) fn register_self(&self, grouping: Grouping) {
        let id = u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs());
        let tell = match grouping {
            Grouping::Shared => Tell::Tree,
            Grouping::Group => Tell::Group,
            Grouping::Session => Tell::Session,
        };
        self.tell(tell, id);
    }

    /// Says that a process is about to lead a session of a command.
    pub(super) fn session(&self, leader: Member) {
        let id = u64::from(leader.pid.as_raw_nonzero().get().unsigned_abs());
        self.tell_message(Tell::Session, &message(Tell::Session, id, leader.started()));
    }

    pub(super) fn gone(&self, pid: Pid) {
        self.tell(Tell::Gone, u64::from(pid.as_raw_nonzero().get().unsigned_abs()));
    }

    /// Has the guard keep a copy of a descriptor until the returned value is dropped.
    pub(crate) fn hold(&self, file: BorrowedFd<'_>) -> Hold {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        let message = message(Tell::Hold, id, 0);
        let files = [file];
        self.say(|| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&files));
            sendmsg(&self.0.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
        });
        // What is on its way counts against the user's limit of descriptors on their way.
        self.ring();
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
fn watch(ends: &Ends) -> ! {
    detach(ends);
    let mut known = Known::default();
    known.listen(ends);
    known.kill();
    // SAFETY: ends this process at once, with nothing to clean up.
    unsafe { libc::_exit(0) }
}

/// Leaves everything behind that the host was started with: its terminal, signals, directory and descriptors.
fn detach(ends: &Ends) {
    // SAFETY: `set` is initialised by `sigfillset`; there is one thread.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigfillset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
    // Each of these is a courtesy to others; the guard does its work without them too.
    let _ = rustix::process::setsid();
    // The host waits for this before it starts anything.
    let _ = send(&ends.socket, &[0], SendFlags::NOSIGNAL);
    let _ = rustix::thread::set_name(c"stagehost-guard");
    let _ = rustix::process::chdir("/");
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        for standard in 0..3 {
            // SAFETY: replaces a descriptor that nothing in this process owns.
            unsafe { libc::dup2(null.as_raw_fd(), standard) };
        }
    }
    close_all_but([ends.socket.as_raw_fd(), ends.bell.as_raw_fd()]);
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// Closes everything but the standard streams and these descriptors.
fn close_all_but(mut kept: [i32; 2]) {
    kept.sort_unstable();
    let [low, high] = kept;
    let range = |first: i32, last: i32| {
        // SAFETY: this process uses no descriptor but these and the standard streams; what the host's values own here is never
        // touched again.
        first > last || unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0
    };
    if range(3, low - 1) && range(low + 1, high - 1) && range(high + 1, i32::MAX) {
        return;
    }
    // Before Linux 5.9, or where the call is denied.
    let inherited = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = inherited.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2 && !kept.contains(number)) {
        // SAFETY: as above.
        unsafe { libc::close(number) };
    }
}

/// What the guard would do.
#[derive(Default)]
struct Known {
    groups: Vec<u64>,
    trees: Vec<u64>,
    sessions: Vec<(u64, u64)>,
    held: Vec<(u64, OwnedFd)>,
}

impl Known {
    /// Listens until the host is gone, or has nothing left to guard.
    fn listen(&mut self, ends: &Ends) {
        loop {
            // No word on the socket wakes it, only the host's end, which needs not be asked for; and the bell.
            let mut asked = [PollFd::new(&ends.socket, PollFlags::empty()), PollFd::new(&ends.bell, PollFlags::IN)];
            let polled = poll(&mut asked, None);
            let _ = read(&ends.bell, &mut [0; 8]);
            if !self.hear(ends.socket.as_fd()) || !matches!(polled, Ok(_) | Err(Errno::INTR)) {
                return;
            }
        }
    }

    /// Takes what has been said. `false`: the host is gone, or has nothing left to guard.
    fn hear(&mut self, socket: BorrowedFd<'_>) -> bool {
        loop {
            match self.hear_one(socket) {
                Ok(true) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Ok(false) | Err(_) => return false,
            }
        }
    }

    fn hear_one(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Errno> {
        let mut bytes: Message = [0; 17];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        if recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?.bytes == 0 {
            return Ok(false);
        }
        let [kind, numbers @ ..] = bytes;
        let [id, started] = [0, 8].map(|at| {
            let mut number = [0; 8];
            number.copy_from_slice(&numbers[at..at + 8]);
            u64::from_le_bytes(number)
        });
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
                self.sessions.retain(|(session, _)| *session != id);
            }
            4 => self.held.extend(file.map(|file| (id, file))),
            7 => self.sessions.push((id, started)),
            5 => self.held.retain(|(held, _)| *held != id),
            _ => {
                *self = Self::default();
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn kill(&self) {
        let pid = |id: &u64| i32::try_from(*id).ok().and_then(Pid::from_raw);
        for group in self.groups.iter().filter_map(pid) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let sessions: Vec<_> =
            self.sessions.iter().filter_map(|(id, started)| Some(Member::from_parts(pid(id)?, *started))).collect();
        if !sessions.is_empty() {
            tree::kill_sessions(|| sessions.clone());
        }
        for root in self.trees.iter().filter_map(pid) {
            tree::kill_tree(root);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the guard may take to know.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

    /// The host's side, and a thread in the guard's place, which tells what it knows when the host is gone.
    fn pair() -> (GuardLink, std::sync::mpsc::Receiver<Known>) {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let theirs = Ends { socket: theirs, bell: bell.try_clone().unwrap(), away: Once::new() };
        let (told, known) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut known = Known::default();
            known.listen(&theirs);
            told.send(known)
        });
        (GuardLink(Arc::new(Ends { socket: ours, bell, away: Once::new() })), known)
    }

    #[test]
    fn more_is_heard_than_there_is_room_for() {
        let (link, guard) = pair();
        const MANY: i32 = 20_000;
        for id in 1..=MANY {
            link.tell(Tell::Group, id.unsigned_abs().into());
        }
        for id in 1..MANY {
            link.gone(Pid::from_raw(id).unwrap());
        }
        drop(link);
        let known = guard.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            known.groups,
            [u64::from(MANY.unsigned_abs())],
            "what was said last counts, with nobody ringing for it"
        );
    }

    #[test]
    fn what_is_held_is_let_go_of_at_once() {
        let (link, guard) = pair();
        let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let hold = link.hold(write_end.as_fd());
        drop(write_end);
        // As long as it is held, nobody sees an end.
        let mut seen = [PollFd::new(&read_end, PollFlags::IN)];
        let a_moment = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        assert_eq!(poll(&mut seen, Some(&a_moment)), Ok(0));
        drop(hold);
        // The guard's copy was the last.
        assert_eq!(rustix::io::read(&read_end, &mut [0; 1]), Ok(0));
        link.tell(Tell::Group, 7);
        link.tell(Tell::Bye, 0);
        assert!(guard.recv_timeout(PATIENCE).unwrap().groups.is_empty(), "nothing is left to guard");
    }
}
