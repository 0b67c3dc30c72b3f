//! The sessions in which a walled command runs: the one that it leads, and those that its processes make. The kernel asks the host
//! before each new one (a seccomp filter with a listener), so that nothing leaves what its limits count and what is killed with it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::AbortHandle,
};

use super::{
    GuardLink,
    tree::{self, Member},
};
use crate::joint::watch_descriptor;

/// The sessions of a command that were made, and may be there still.
#[derive(Debug)]
pub(super) struct Sessions {
    known: Mutex<Known>,
    guard: Option<GuardLink>,
    server: Mutex<Option<AbortHandle>>,
}

#[derive(Debug, Default)]
struct Known {
    sessions: Vec<Member>,
    /// When it was last seen which of them are there still.
    looked: Option<Instant>,
}

/// Where a child hands over its listener, and where the host takes it.
#[derive(Debug)]
pub(super) struct Handover(OwnedFd);

impl Sessions {
    pub(super) fn new(guard: Option<GuardLink>) -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), guard, server: Mutex::default() })
    }

    /// Answers the kernel until nobody is left who could ask, or this is dropped. To be called inside the runtime.
    pub(super) fn serve(self: &Arc<Self>, listener: OwnedFd) -> io::Result<()> {
        let listener = watch_descriptor(listener, Interest::READABLE)?;
        let task = tokio::spawn(serve(listener, Arc::downgrade(self)));
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
        Ok(())
    }

    /// Those that may be there.
    pub(super) fn all(&self) -> Vec<Member> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).sessions.clone()
    }

    /// Takes in a process that is about to lead a session. `false`: there are too many. `living` says which of some have members.
    fn add(&self, leader: Member, living: impl FnOnce(&[Member]) -> Vec<Member>) -> bool {
        const FEW: usize = 16;
        const MOST: usize = 1024;
        // It looks at every process of the machine.
        const RARELY: Duration = Duration::from_millis(200);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.sessions.contains(&leader) {
            return true;
        }
        if known.sessions.len() >= FEW && known.looked.is_none_or(|looked| looked.elapsed() >= RARELY) {
            let living = living(&known.sessions);
            for gone in known.sessions.extract_if(.., |session| !living.contains(session)) {
                self.tell_gone(gone);
            }
            known.looked = Some(Instant::now());
        }
        if known.sessions.len() >= MOST {
            return false;
        }
        known.sessions.push(leader);
        if let Some(guard) = &self.guard {
            guard.session(leader);
        }
        true
    }

    fn tell_gone(&self, session: Member) {
        if let Some(guard) = &self.guard {
            guard.gone(session.pid);
        }
    }

    /// Lets the guard forget them.
    pub(super) fn forget(&self) {
        for session in self.known.lock().unwrap_or_else(PoisonError::into_inner).sessions.drain(..) {
            self.tell_gone(session);
        }
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        if let Some(server) = self.server.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            server.abort();
        }
        self.forget();
    }
}

impl Handover {
    /// The two ends: the child's, the host's.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(ours), Self(theirs)))
    }

    /// Async-signal-safe.
    pub(super) fn give(&self, listener: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [listener];
        control.push(SendAncillaryMessage::ScmRights(&files));
        // As long as too many descriptors are on their way, of this user's other processes: they arrive soon.
        const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        const ROUNDS: u32 = 50;
        let mut rounds = 0;
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::TOOMANYREFS) if rounds < ROUNDS => _ = poll(&mut [], Some(&PAUSE)),
                sent => return sent.map(drop),
            }
            rounds += 1;
        }
    }

    /// What was given; `None`: nothing was. Does not wait: the child gives it before it runs its program.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&self.0, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
        control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        })
    }
}

async fn serve(listener: AsyncFd<OwnedFd>, sessions: Weak<Sessions>) {
    // A command that does nothing but ask is not to keep a thread of the host's busy.
    const BATCH: usize = 16;
    const PAUSE: Duration = Duration::from_millis(10);
    let mut answered = 0_usize;
    while let Ok(mut ready) = listener.readable().await {
        let mut asked = [PollFd::new(&listener, PollFlags::IN)];
        if poll(&mut asked, Some(&Timespec::default())).is_err() {
            continue;
        }
        let [asked] = asked.map(|asked| asked.revents());
        if asked.contains(PollFlags::IN) {
            let Some(sessions) = sessions.upgrade() else { return };
            answer(&listener, &sessions);
            drop(sessions);
            answered += 1;
            if answered.is_multiple_of(BATCH) {
                tokio::time::sleep(PAUSE).await;
            }
        } else if asked.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return;
        } else {
            ready.clear_ready();
        }
    }
}

/// Answers one question: yes, once the session is known.
fn answer(listener: &AsyncFd<OwnedFd>, sessions: &Sessions) {
    // SAFETY: both are plain numbers, for which zero is a value; the kernel wants what it fills to be zero.
    let (mut asked, mut answer): (libc::seccomp_notif, libc::seccomp_notif_resp) = unsafe { std::mem::zeroed() };
    let file = listener.as_raw_fd();
    // SAFETY: the request fills a structure of this type, which lives as long as the call. It does not wait: somebody asks.
    if unsafe { libc::ioctl(file, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) } != 0 {
        // Whoever asked is gone.
        return;
    }
    let leader = i32::try_from(asked.pid).ok().and_then(Member::of_thread);
    // SAFETY: it reads a number. Looked at after the process was: before, its id could have become another's.
    let asks_still = unsafe { libc::ioctl(file, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const asked.id) } == 0;
    answer.id = asked.id;
    match leader {
        Some(leader) if asks_still && sessions.add(leader, tree::living_sessions) => {
            answer.flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(0);
        }
        _ => answer.error = -libc::EPERM,
    }
    // SAFETY: it reads a structure of this type. Whoever asked may be gone.
    unsafe { libc::ioctl(file, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

#[cfg(test)]
mod tests {
    use rustix::process::Pid;

    use super::*;

    #[test]
    fn there_are_so_many_sessions_and_no_more() {
        let sessions = Sessions::new(None);
        let member = |number: i32| Member::from_parts(Pid::from_raw(number).unwrap(), 0);
        let all_live = |known: &[Member]| known.to_vec();
        assert!((1..=1024).all(|number| sessions.add(member(number), all_live)));
        assert!(sessions.add(member(1), all_live), "it is known");
        assert!(!sessions.add(member(1025), all_live));
        // Those that are gone make room, once they are looked for.
        sessions.known.lock().unwrap().looked = None;
        assert!(sessions.add(member(1025), |known| known[1..].to_vec()));
        assert!(!sessions.add(member(1026), all_live));
    }
}
