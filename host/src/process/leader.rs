//! The leader of a command: waiting for it, signalling what it leads, reaping it.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, pidfd_open,
        test_kill_process_group, waitid,
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
};

use super::{
    Grouping, GuardLink, children,
    sessions::Sessions,
    tree::{self, Kin, Member},
};
use crate::joint::watch_descriptor;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Exited(u8),
    Signaled(i32),
}

/// The process that a command was started as. It stays a zombie until it is reaped.
#[derive(Debug)]
pub(crate) struct Leader {
    process: Member,
    grouping: Grouping,
    /// Those that its processes make, besides its own.
    sessions: Arc<Sessions>,
    end: End,
    reaped: Mutex<bool>,
    /// The guard, as long as it knows of this command.
    guard: Mutex<Option<GuardLink>>,
}

#[derive(Debug)]
enum End {
    Pidfd(AsyncFd<OwnedFd>),
    /// Where there are no pidfds, a thread waits.
    Thread(watch::Receiver<bool>),
}

impl Leader {
    /// Takes a process that was just spawned. To be called inside the runtime.
    pub(super) fn new(
        process: Member,
        grouping: Grouping,
        guard: Option<GuardLink>,
        listener: Option<OwnedFd>,
    ) -> io::Result<Arc<Self>> {
        let sessions = Sessions::new(guard.clone());
        if let Some(listener) = listener {
            sessions.serve(listener)?;
        }
        let pid = process.pid;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).or_else(|_| pidfd_open(pid, PidfdFlags::empty()));
        let end = match pidfd.ok().and_then(|pidfd| watch_descriptor(pidfd, Interest::READABLE).ok()) {
            Some(pidfd) => End::Pidfd(pidfd),
            None => {
                let (sender, receiver) = watch::channel(false);
                std::thread::Builder::new().name("stagehost-wait".into()).spawn(move || {
                    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                    while matches!(waitid(WaitId::Pid(pid), options), Err(Errno::INTR)) {}
                    sender.send_replace(true);
                })?;
                End::Thread(receiver)
            }
        };
        Ok(Arc::new(Self { process, grouping, sessions, end, reaped: Mutex::new(false), guard: Mutex::new(guard) }))
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Whose processes are its.
    pub(crate) fn kin(&self) -> Kin {
        let mut sessions = self.sessions.all();
        if self.grouping == Grouping::Session {
            sessions.push(self.process);
        }
        Kin { leader: self.process, leads: self.grouping != Grouping::Shared, sessions }
    }

    /// The process group it leads, if it has one of its own.
    pub(crate) fn group(&self) -> Option<Pid> {
        (self.grouping != Grouping::Shared).then_some(self.pid())
    }

    /// Waits until it has ended. Cancel safe.
    pub(crate) async fn ended(&self) {
        match &self.end {
            // An error means that it cannot be watched any longer; its status tells.
            End::Pidfd(pidfd) => _ = pidfd.readable().await,
            End::Thread(ended) => _ = ended.clone().wait_for(|ended| *ended).await,
        }
    }

    /// How it ended; `None`: it still runs.
    ///
    /// # Errors
    ///
    /// When that cannot be known: somebody else has waited for it.
    pub(crate) fn status(&self) -> io::Result<Option<Status>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let Some(status) = waitid(WaitId::Pid(self.pid()), options)? else { return Ok(None) };
        if let Some(code) = status.exit_status() {
            return Ok(Some(Status::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX))));
        }
        Ok(status.terminating_signal().map(Status::Signaled))
    }

    fn not_reaped(&self) -> Option<MutexGuard<'_, bool>> {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        (!*reaped).then_some(reaped)
    }

    /// Sends a signal to the whole command; to nobody once it is reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(_alive) = self.not_reaped() else { return };
        match self.grouping {
            Grouping::Shared => tree::descendants(self.pid()).iter().for_each(|member| member.signal(signal)),
            Grouping::Group => {}
            Grouping::Session => tree::signal_outside(&self.kin(), signal),
        }
        // Whoever is gone already needs no signal.
        let _ = match self.group() {
            Some(group) => kill_process_group(group, signal),
            None => kill_process(self.pid(), signal),
        };
    }

    /// Asks the whole command to end. A command that is stopped is woken, so that it can.
    pub(crate) fn ask(&self, signal: Signal) {
        self.signal(signal);
        self.signal(Signal::CONT);
    }

    /// Kills the whole command, and what its living members started outside its group.
    pub(crate) fn kill(&self) {
        let Some(_alive) = self.not_reaped() else { return };
        let outside = tree::descendants(self.pid());
        match self.grouping {
            Grouping::Shared => {}
            Grouping::Group => _ = kill_process_group(self.pid(), Signal::KILL),
            Grouping::Session => {
                // At once, and without looking.
                let _ = kill_process_group(self.pid(), Signal::KILL);
                tree::kill_sessions(|| self.kin().sessions);
            }
        }
        let _ = kill_process(self.pid(), Signal::KILL);
        for member in outside {
            member.signal(Signal::KILL);
        }
    }

    /// Reaps it, if it has ended. Afterwards its id may be anybody's. Returns whether its group still has members.
    pub(crate) fn reap(&self) -> bool {
        let Some(mut reaped) = self.not_reaped() else { return false };
        if self.grouping == Grouping::Shared {
            // The guard knows it by an id that is anybody's from now on.
            self.forget();
        }
        *reaped = children::reap(self.pid());
        // Asking is no signal: it can hit no stranger. A group that has members keeps its id, and so does a session.
        let has_members = self.group().is_some_and(|group| test_kill_process_group(group).is_ok())
            || self.grouping == Grouping::Session && tree::has_outside(&self.kin());
        if !has_members {
            self.forget();
        }
        has_members
    }

    /// Lets the guard forget it: there is nothing left that would have to be killed with the host.
    pub(crate) fn forget(&self) {
        // Once: later its id may be another command's.
        let guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(guard) = guard {
            guard.gone(self.pid());
        }
        self.sessions.forget();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // A run reaps its leaders; this is for one whose task died.
        if self.not_reaped().is_some() {
            self.kill();
            children::wait(self.pid());
            self.forget();
        }
    }
}
