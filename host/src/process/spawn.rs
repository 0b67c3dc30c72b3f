//! The one file that spawns processes.
//!
//! A thread of its own does it, or one that waits for the run: the kernel's parent-death signal is bound to the thread that forked, so
//! that thread must live as long as its children may.

use std::{
    convert::Infallible,
    ffi::{CStr, CString, OsString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{
        Pid, Resource, Rlimit, Signal, getppid, getrlimit, kill_process_group, set_parent_process_death_signal,
        setrlimit,
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Grouping, GuardLink, Leader, Wall,
    beginning::Beginning,
    children,
    sessions::Handover,
    signals::{HeldSignals, reset_signals},
    strings::{Environment, Strings},
    tree::{self, Member},
};

/// A program that is to be started.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The program's path.
    pub(crate) program: PathBuf,
    /// Its arguments, its name first.
    pub(crate) arguments: Vec<OsString>,
    /// Its whole environment.
    pub(crate) environment: Arc<Environment>,
    /// The directory it starts in; `None`: the host's.
    pub(crate) directory: Option<PathBuf>,
    /// The same, opened, where its name may have come to mean something else.
    pub(crate) directory_at: Option<OwnedFd>,
    /// The program, opened to be read or as a mere path, where its name may have come to mean something else.
    pub(crate) program_at: Option<OwnedFd>,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) grouping: Grouping,
    pub(crate) rlimits: Rlimits,
    pub(crate) guard: Option<GuardLink>,
    /// The `cgroup.procs` file of the cgroup it is to start in.
    pub(crate) cgroup: Option<OwnedFd>,
    /// The wall around it.
    pub(crate) wall: Option<Wall>,
}

/// Limits that the kernel holds, per process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rlimits {
    /// Open files: the soft and the hard limit.
    pub(crate) open_files: Option<(u64, u64)>,
    /// The largest file, in bytes.
    pub(crate) file_size: Option<u64>,
    /// Address space, in bytes.
    pub(crate) address_space: Option<u64>,
    /// Processor time, in seconds: the signal comes at the first of them, death at the next.
    pub(crate) cpu_seconds: Option<u64>,
}

struct Request {
    launch: Launch,
    reply: oneshot::Sender<io::Result<Born>>,
}

/// A program that runs.
#[derive(Debug)]
struct Born {
    process: Member,
    /// Where the kernel asks about the sessions that it makes.
    listener: Option<OwnedFd>,
}

/// Starts programs. Its thread starts with the first of them and ends with it.
#[derive(Debug)]
pub(crate) struct Spawner {
    worker: Mutex<Option<Worker>>,
    /// The children's stack, if the calling thread starts them because it lives as long as they may.
    inline: Option<Mutex<Stack>>,
}

#[derive(Debug)]
struct Worker {
    requests: mpsc::Sender<Request>,
    thread: JoinHandle<()>,
}

/// A stack for one child at a time.
#[derive(Debug)]
struct Stack(Vec<u128>);

impl Stack {
    fn new() -> Self {
        Self(vec![0; CHILD_STACK / size_of::<u128>()])
    }
}

/// Starts that may wait for the thread at once.
const QUEUE: usize = 64;

impl Spawner {
    /// Makes one. `inline`: whoever calls starts the programs itself, on a thread that outlives them.
    pub(crate) fn new(inline: bool) -> Self {
        Self { worker: Mutex::default(), inline: inline.then(|| Mutex::new(Stack::new())) }
    }

    /// Starts a program and waits until it runs.
    ///
    /// # Errors
    ///
    /// What the system says: no such program or interpreter, no right to run it, no room for a process.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a program that was started meanwhile is killed.
    pub(crate) async fn start(&self, launch: Launch) -> io::Result<Arc<Leader>> {
        let (grouping, guard) = (launch.grouping, launch.guard.clone());
        if let Some(stack) = &self.inline {
            let born = spawn(launch, &mut stack.lock().unwrap_or_else(PoisonError::into_inner))?;
            return lead(born, grouping, guard);
        }
        let (reply, replied) = oneshot::channel();
        let lost = || io::Error::other("the thread that starts programs is gone");
        self.requests()?.send(Request { launch, reply }).await.map_err(|_| lost())?;
        let born = replied.await.map_err(|_| lost())??;
        lead(born, grouping, guard)
    }

    fn requests(&self) -> io::Result<mpsc::Sender<Request>> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = &*worker {
            return Ok(worker.requests.clone());
        }
        let (requests, mut queue) = mpsc::channel::<Request>(QUEUE);
        let thread = std::thread::Builder::new().name("stagehost-spawn".into()).spawn(move || {
            let mut stack = Stack::new();
            while let Some(Request { launch, reply }) = queue.blocking_recv() {
                let (grouping, guard) = (launch.grouping, launch.guard.clone());
                if let Err(Ok(born)) = reply.send(spawn(launch, &mut stack)) {
                    abandon(born.process.pid, grouping, guard.as_ref());
                }
            }
        })?;
        *worker = Some(Worker { requests: requests.clone(), thread });
        Ok(requests)
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        let worker = self.worker.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Worker { requests, thread }) = worker {
            drop(requests);
            // It cannot have panicked: it only starts programs.
            let _ = thread.join();
        }
    }
}

fn lead(born: Born, grouping: Grouping, guard: Option<GuardLink>) -> io::Result<Arc<Leader>> {
    let Born { process, listener } = born;
    Leader::new(process, grouping, guard.clone(), listener)
        .inspect_err(|_| abandon(process.pid, grouping, guard.as_ref()))
}

/// Ends a program that nobody waits for any more.
fn abandon(pid: Pid, grouping: Grouping, guard: Option<&GuardLink>) {
    match grouping {
        Grouping::Shared => {}
        Grouping::Group => _ = kill_process_group(pid, Signal::KILL),
        Grouping::Session => {
            let _ = kill_process_group(pid, Signal::KILL);
            tree::kill_sessions(|| vec![Member::any(pid)]);
        }
    }
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    children::wait(pid);
    if let Some(guard) = guard {
        guard.gone(pid);
    }
}

/// Everything that the child needs between its birth and its program, made before it is born: there it may neither
/// allocate nor take a lock.
struct Child {
    program: CString,
    arguments: Strings<Vec<CString>>,
    /// The same for a shell, which is given programs without a format of their own, as every shell does.
    shell: Strings<Vec<CString>>,
    environment: Strings<Arc<Environment>>,
    directory: Option<CString>,
    directory_at: Option<OwnedFd>,
    program_at: Option<OwnedFd>,
    streams: [OwnedFd; 3],
    grouping: Grouping,
    dies_with_host: bool,
    host: libc::pid_t,
    rlimits: Rlimits,
    guard: Option<GuardLink>,
    cgroup: Option<OwnedFd>,
    wall: Option<Wall>,
    /// Where it hands over the listener that comes with a wall.
    handover: Option<Handover>,
    /// What went wrong there, as an error number. The child shares this memory.
    failed: AtomicI32,
    /// Whether that was going to its directory.
    at_directory: AtomicBool,
}

/// The stack of a child until it runs its program, in bytes. It calls a dozen system calls.
const CHILD_STACK: usize = 64 << 10;

/// The shell for programs without a format of their own.
const SHELL: &CStr = c"/bin/sh";

impl Child {
    fn new(launch: Launch, handover: Option<Handover>) -> io::Result<Self> {
        let Launch {
            program,
            arguments,
            environment,
            directory,
            directory_at,
            program_at,
            stdin,
            stdout,
            stderr,
            grouping,
            rlimits,
            guard,
            cgroup,
            wall,
        } = launch;
        let text = |path: PathBuf| CString::new(path.into_os_string().into_vec());
        let program = text(program)?;
        let arguments: Vec<Vec<u8>> = arguments.into_iter().map(OsString::into_vec).collect();
        // A descriptor in the place of a standard stream would be closed by putting the stream there.
        let above = |file: OwnedFd| -> io::Result<OwnedFd> {
            if file.as_raw_fd() > 2 { Ok(file) } else { Ok(fcntl_dupfd_cloexec(&file, 3)?) }
        };
        let program_at = program_at.map(above).transpose()?;
        // What reads a script reads what was opened, whatever its name leads to by then.
        let program = match &program_at {
            Some(opened) => text(format!("/proc/self/fd/{}", opened.as_raw_fd()).into())?,
            None => program,
        };
        let mut shell = arguments.clone();
        shell.truncate(1);
        shell.push(program.as_bytes().to_vec());
        shell.extend(arguments.iter().skip(1).cloned());
        Ok(Self {
            program,
            arguments: Strings::new(arguments)?,
            shell: Strings::new(shell)?,
            environment: Strings::of(environment)?,
            directory: directory.map(text).transpose()?,
            directory_at: directory_at.map(above).transpose()?,
            program_at,
            streams: [above(stdin)?, above(stdout)?, above(stderr)?],
            grouping,
            // In a group that is shared with others the guard needs the leader to find what it started.
            dies_with_host: grouping != Grouping::Shared || guard.is_none(),
            host: rustix::process::getpid().as_raw_nonzero().get(),
            rlimits,
            guard,
            cgroup,
            wall,
            handover,
            failed: AtomicI32::new(0),
            at_directory: AtomicBool::new(false),
        })
    }

    /// Becomes the program. Returns only if that failed.
    ///
    /// # Safety
    ///
    /// To be called in a process of its own that shares this memory with a thread which waits, with all signals blocked.
    unsafe fn become_program(&self) -> Result<Infallible, rustix::io::Errno> {
        match self.grouping {
            Grouping::Shared => {}
            Grouping::Group => rustix::process::setpgid(None, None)?,
            Grouping::Session => _ = rustix::process::setsid()?,
        }
        if let Some(guard) = &self.guard {
            guard.register_self(self.grouping);
        }
        if self.dies_with_host {
            set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        if getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(self.host) {
            // The host died before the line above.
            return Err(rustix::io::Errno::SRCH);
        }
        for (standard, file) in (0..).zip(&self.streams) {
            // SAFETY: a system call on numbers; this process owns nothing that it could take away.
            if unsafe { libc::dup2(file.as_raw_fd(), standard) } < 0 {
                return Err(last_error());
            }
        }
        let went = match (&self.directory_at, &self.directory) {
            (Some(directory), _) => rustix::process::fchdir(directory),
            (None, Some(directory)) => rustix::process::chdir(directory),
            (None, None) => Ok(()),
        };
        went.inspect_err(|_| self.at_directory.store(true, SeqCst))?;
        // Before the limit on open files is lowered: descriptors beyond it are there all the same.
        close_on_exec();
        if self.wall.is_none()
            && let Some((soft, hard)) = self.rlimits.open_files
        {
            setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: Some(hard) })?;
        }
        // Nobody may have more than this process itself.
        let at_most = |resource, most: u64| getrlimit(resource).maximum.map_or(most, |own| own.min(most));
        if let Some(bytes) = self.rlimits.file_size {
            let bytes = Some(at_most(Resource::Fsize, bytes));
            setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: bytes })?;
        }
        if let Some(bytes) = self.rlimits.address_space {
            let bytes = Some(at_most(Resource::As, bytes));
            setrlimit(Resource::As, Rlimit { current: bytes, maximum: bytes })?;
            // What dies of it need not be looked into.
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        }
        if let Some(seconds) = self.rlimits.cpu_seconds {
            let (soft, hard) = (at_most(Resource::Cpu, seconds), at_most(Resource::Cpu, seconds.saturating_add(1)));
            setrlimit(Resource::Cpu, Rlimit { current: Some(soft), maximum: Some(hard) })?;
        }
        if let Some(cgroup) = &self.cgroup {
            rustix::io::write(cgroup, b"0")?;
        }
        let beginning = match &self.program_at {
            Some(program) => Beginning::of_open(program),
            None => Beginning::of(&self.program),
        };
        if beginning.is_webassembly() {
            // Whatever the system would make of it, or a shell: it is to run in a sandbox or not at all.
            return Err(rustix::io::Errno::NOEXEC);
        }
        // SAFETY: no handler of the host's is left when signals are let through, so none runs here.
        unsafe { reset_signals() };
        if let Some(wall) = &self.wall {
            wall.enter(self.handover.as_ref())?;
            // What all processes of a user have on its way in sockets is held against the limit of whoever sends more. Those behind a
            // wall get half of the host's, so that they never keep a wall's own descriptor, above, from being handed over.
            let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 2;
            let (soft, hard) = self.rlimits.open_files.unwrap_or((most, most));
            let (soft, hard) = (Some(soft.min(most)), Some(hard.min(most)));
            setrlimit(Resource::Nofile, Rlimit { current: soft, maximum: hard })?;
        }
        // SAFETY: the lists end with a null, and what they point to lives as long as `self`.
        unsafe {
            if let Some(program) = self.program_at.as_ref().filter(|_| beginning.is_binary()) {
                let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
                // Not by its name: that may lead elsewhere by now.
                let flags = libc::AT_EMPTY_PATH;
                libc::syscall(libc::SYS_execveat, program.as_raw_fd(), c"".as_ptr(), arguments, environment, flags);
                return Err(last_error());
            }
            if let Some(program) = &self.program_at {
                libc::fcntl(program.as_raw_fd(), libc::F_SETFD, 0);
            }
            libc::execve(self.program.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr());
            if last_error() == rustix::io::Errno::NOEXEC && beginning.is_text() {
                libc::execve(SHELL.as_ptr(), self.shell.as_ptr(), self.environment.as_ptr());
            }
        }
        Err(last_error())
    }
}

fn last_error() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}

/// The child's first and last function.
extern "C" fn begin(child: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `spawn` passes a `Child` and waits until this process has its program or is gone, with all signals blocked.
    let child = unsafe { &*child.cast::<Child>() };
    // SAFETY: as above.
    let Err(error) = unsafe { child.become_program() };
    child.failed.store(error.raw_os_error(), SeqCst);
    // SAFETY: ends this process, and nothing that it shares with the host.
    unsafe { libc::_exit(127) }
}

/// Starts a program.
///
/// The child is made as `posix_spawn` makes it: it shares the host's memory, and this thread waits until it has its program.
/// To copy the page tables of a host with many sandboxed stages would take many times longer than everything else here.
fn spawn(launch: Launch, stack: &mut Stack) -> io::Result<Born> {
    let (given, taken) = match &launch.wall {
        Some(_) => Handover::pair().map(|(given, taken)| (Some(given), Some(taken)))?,
        None => (None, None),
    };
    let mut child = Child::new(launch, given)?;
    if let Some(guard) = &child.guard {
        guard.wait_until_away();
    }
    let top = stack.0.as_mut_ptr_range().end;
    let clone = || {
        let _held = HeldSignals::new();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack is this thread's to lend and aligned; `child` outlives the call, which returns only when the child
        // is done with both. Signals are held meanwhile, so that no handler runs on the shared memory.
        let pid = unsafe { libc::clone(begin, top.cast(), flags, (&raw mut child).cast()) };
        // A failure is a negative number, which is nobody's id.
        if pid > 0 { Pid::from_raw(pid).ok_or_else(io::Error::last_os_error) } else { Err(io::Error::last_os_error()) }
    };
    let before = tree::clock();
    let pid = children::start(clone, |pid| pid.as_ref().ok().copied())?;
    match child.failed.load(SeqCst) {
        0 => Ok(Born {
            process: Member::born(pid, before, tree::clock()),
            listener: taken.and_then(|taken| taken.take()),
        }),
        error => {
            if let Some(guard) = &child.guard {
                guard.gone(pid);
            }
            children::wait(pid);
            let error = io::Error::from_raw_os_error(error);
            match &child.directory {
                Some(directory) if child.at_directory.load(SeqCst) => {
                    let path = PathBuf::from(OsString::from_vec(directory.to_bytes().to_vec()));
                    Err(io::Error::other(super::at_path::AtPath { what: "its directory", path, error }))
                }
                _ => Err(error),
            }
        }
    }
}

/// Marks everything but the standard streams close-on-exec, whoever opened it. Async-signal-safe.
fn close_on_exec() {
    // SAFETY: plain system calls on numbers; a number without a descriptor is an error that is not looked at. Nothing is
    // closed here, so nobody's descriptor is taken away.
    unsafe {
        let done = libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if done == 0 {
            return;
        }
        // Before Linux 5.11, or where the call is denied.
        const MOST: u64 = 1 << 20;
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST);
        for number in 3..libc::c_int::try_from(limit).unwrap_or(1024) {
            libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}
