//! The wall around a command: what the kernel denies it, and everything it starts.
//!
//! Three parts, each of which a program keeps for good: no new privileges, so that set-uid programs are plain ones;
//! Landlock, which leaves it the directories and TCP ports it was granted; and seccomp filters, which deny plainly dangerous system
//! calls. All of it is made before the child is born, because there nothing may be allocated.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::fs;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Compare, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use crate::spec::Sandboxing;

/// What a walled command may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WallSpec {
    /// Whether to do without what this kernel does not have.
    pub(crate) best_effort: bool,
    /// The program itself.
    pub(crate) program: Option<Planned>,
    pub(crate) read: Vec<Planned>,
    pub(crate) write: Vec<Planned>,
    /// TCP ports that may be connected to. Empty: no network at all.
    pub(crate) ports: Vec<u16>,
}

/// A wall that is ready to be put around a child.
#[derive(Debug)]
pub(crate) struct Wall {
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
}

/// The newest version of Landlock that this was tested with.
const NEWEST: ABI = ABI::V7;
/// The version from which on TCP ports can be named.
const WITH_PORTS: i64 = 4;

/// What every program needs to run at all: programs, libraries, and what the C library reads.
const SYSTEM: &[&str] = &[
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr",
    "/nix/store",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/magic",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/terminfo",
    "/dev/random",
    "/dev/urandom",
    "/sys/devices/system/cpu",
];
/// Devices that every program may write to as well.
const SINKS: &[&str] = &["/dev/null", "/dev/zero", "/dev/full"];

/// The version of Landlock that this kernel has; 0: none.
fn landlock_version() -> i64 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: a system call that only answers with a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, VERSION) };
    version.max(0)
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(fs::open(path, fs::OFlags::PATH | fs::OFlags::CLOEXEC, fs::Mode::empty())?)
}

/// The path of what is open, as `/proc` has it.
fn real_path(opened: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// What a path named when it was planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Its real path then, or the path as it was written, where the real one is longer than the system takes.
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Planned {
    /// What a path names now. Links are followed.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn now(path: &Path) -> io::Result<Self> {
        let opened = open_path(path)?;
        let found = fs::fstat(&opened)?;
        // The path of what was opened: a name may lead elsewhere the next moment.
        let real = match real_path(&opened) {
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => path.to_owned(),
            Err(_) => std::fs::canonicalize(path)?,
            Ok(real) => real,
        };
        Ok(Self { path: real, device: found.st_dev, inode: found.st_ino })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// What the system says, or that something else is there now: a link may have been put in its place.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let opened = open_path(&self.path)?;
        let found = fs::fstat(&opened)?;
        let moved = self.path.is_absolute() && real_path(&opened).is_ok_and(|now| now != self.path);
        if moved || (found.st_dev, found.st_ino) != (self.device, self.inode) {
            return Err(io::Error::other("it is not what it was when this was planned"));
        }
        Ok(opened)
    }
}

/// Why there is no wall.
#[derive(Debug, thiserror::Error)]
enum WallError {
    #[error(transparent)]
    Ruleset(#[from] RulesetError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl WallSpec {
    /// How much of it must be there.
    pub(crate) fn mode(&self) -> Sandboxing {
        if self.best_effort { Sandboxing::BestEffort } else { Sandboxing::Strict }
    }

    /// What it leaves the command, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let read = self.read.iter().map(|dir| format!("directory {} (read)", dir.path.display()));
        let write = self.write.iter().map(|dir| format!("directory {} (write)", dir.path.display()));
        let ports = self.ports.iter().map(|port| format!("TCP port {port}"));
        read.chain(write).chain(ports).collect()
    }

    /// What this kernel cannot do of it.
    pub(crate) fn missing(&self) -> Vec<String> {
        let version = landlock_version();
        let mut missing = Vec::new();
        if version == 0 {
            missing.push("directories cannot be denied: the kernel has no Landlock".to_owned());
        } else {
            // What each version of Landlock brought.
            let brought = [
                (3, true, "files can be cut"),
                (WITH_PORTS, !self.ports.is_empty(), "TCP ports cannot be denied"),
                (5, true, "devices can be commanded"),
                (6, true, "other processes can be signalled"),
            ];
            for (since, matters, what) in brought {
                if version < since && matters {
                    missing.push(format!("{what}: the kernel's Landlock has version {version}, of {since} wanted"));
                }
            }
        }
        if TargetArch::try_from(std::env::consts::ARCH).is_err() {
            missing.push("system calls cannot be denied: there is no filter for this processor".to_owned());
        }
        missing
    }

    /// Builds the wall.
    ///
    /// # Errors
    ///
    /// A directory that cannot be opened, or a part that this kernel does not have if nothing may be missing.
    pub(crate) fn build(&self) -> io::Result<Wall> {
        let has_landlock = landlock_version() > 0;
        let ruleset = if has_landlock || !self.best_effort {
            self.ruleset().map_err(|error| match error {
                WallError::Io(error) => error,
                other => io::Error::other(other),
            })?
        } else {
            None
        };
        let filters = match self.filters() {
            Ok(filters) => filters,
            Err(_) if self.best_effort => Vec::new(),
            Err(error) => return Err(io::Error::other(error)),
        };
        Ok(Wall { ruleset, filters })
    }

    fn ruleset(&self) -> Result<Option<OwnedFd>, WallError> {
        let level = if self.best_effort { CompatLevel::BestEffort } else { CompatLevel::HardRequirement };
        let mut rules = Ruleset::default()
            .set_compatibility(level)
            .handle_access(AccessFs::from_all(ABI::V1))?
            // What newer kernels can deny besides, they do.
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        // Devices are for nobody to make.
        let (read, all) = (
            AccessFs::from_read(NEWEST),
            AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev),
        );
        let sink = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        // Not every system has all of these.
        let systems = SYSTEM.iter().map(|path| (path, read)).chain(SINKS.iter().map(|path| (path, sink)));
        let mut opened: Vec<_> =
            systems.filter_map(|(path, access)| Some((open_path(Path::new(path)).ok()?, access))).collect();
        let granted = self.read.iter().chain(&self.program).map(|planned| (planned, read));
        for (planned, access) in granted.chain(self.write.iter().map(|planned| (planned, all))) {
            let failed = |error| io::Error::other(super::AtPath { what: "a grant", path: planned.path.clone(), error });
            opened.push((planned.open().map_err(failed)?, access));
        }
        for (file, access) in opened {
            let is_dir = fs::FileType::from_raw_mode(fs::fstat(&file).map_err(io::Error::from)?.st_mode).is_dir();
            let access = if is_dir { access } else { access & AccessFs::from_file(NEWEST) };
            rules = rules.add_rule(PathBeneath::new(file, access))?;
        }
        for port in &self.ports {
            rules = rules.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        Ok(rules.into())
    }

    fn filters(&self) -> Result<Vec<BpfProgram>, BackendError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let mut denied: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
        let when = |argument: u8, length: Length, compare: Compare, value: u64| {
            SeccompRule::new(vec![SeccompCondition::new(argument, length, compare, value)?])
        };
        // Typing into the terminal of whoever runs the host.
        let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| when(1, Length::Dword, Compare::Eq, request));
        denied.insert(libc::SYS_ioctl, typing.into_iter().collect::<Result<_, _>>()?);
        let namespaces = NAMESPACES.iter().map(|flag| {
            let flag = u64::from(flag.unsigned_abs());
            when(0, Length::Qword, Compare::MaskedEq(flag), flag)
        });
        denied.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
        if self.ports.is_empty() {
            denied.insert(libc::SYS_socket, Vec::new());
        } else {
            // Plain TCP, which is what ports are held of: no other family, type or protocol.
            let is_not = |argument: u8, value: i32| {
                SeccompCondition::new(argument, Length::Dword, Compare::Ne, u64::from(value.unsigned_abs()))
            };
            let mut sockets = vec![
                SeccompRule::new(vec![is_not(0, libc::AF_INET)?, is_not(0, libc::AF_INET6)?])?,
                SeccompRule::new(vec![is_not(2, 0)?, is_not(2, libc::IPPROTO_TCP)?])?,
            ];
            const TYPE: u64 = 0xf;
            let stream = u64::from(libc::SOCK_STREAM.unsigned_abs());
            for other in (0..=TYPE).filter(|kind| *kind != stream) {
                sockets.push(when(1, Length::Dword, Compare::MaskedEq(TYPE), other)?);
            }
            denied.insert(libc::SYS_socket, sockets);
            denied.insert(libc::SYS_listen, Vec::new());
            // A connection that begins with data is made without `connect`.
            let fast = u64::from(libc::MSG_FASTOPEN.unsigned_abs());
            for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
                denied.insert(call, vec![when(flags, Length::Dword, Compare::MaskedEq(fast), fast)?]);
            }
        }
        // The limits and the turns of other processes.
        for (call, process) in OF_PROCESSES {
            denied.insert(*call, vec![when(*process, Length::Dword, Compare::Ne, 0)?]);
        }
        if self.write.is_empty() {
            // Landlock does not know who may change a file's mode, owner and times.
            denied.extend(METADATA.iter().map(|call| (*call, Vec::new())));
        }
        let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
        let refused = SeccompFilter::new(denied, SeccompAction::Allow, errno(libc::EPERM), arch)?;
        // As if the kernel did not have them: programs fall back to older calls, whose arguments can be looked at.
        let absent =
            [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
        let absent = absent.map(|call| (call, Vec::new())).into_iter().collect();
        let absent = SeccompFilter::new(absent, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
        let mut filters = vec![BpfProgram::try_from(refused)?, BpfProgram::try_from(absent)?];
        if arch == TargetArch::x86_64 {
            filters.push(no_x32());
        }
        Ok(filters)
    }
}

/// Denies the calls of the x32 interface, which have the same architecture and other numbers: load the number; from
/// 0x4000_0000 on, as if it were not there; else allowed.
fn no_x32() -> BpfProgram {
    const LOAD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32: u32 = 0x4000_0000;
    const ERRNO: u32 = 0x0005_0000;
    const ALLOW: u32 = 0x7fff_0000;
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    vec![
        instruction(LOAD, 0, 0),
        instruction(JUMP_IF_AT_LEAST, 1, X32),
        instruction(RETURN, 0, ERRNO | libc::ENOSYS.unsigned_abs()),
        instruction(RETURN, 0, ALLOW),
    ]
}

/// Calls about processes, and the argument that says which: 0 is the caller.
const OF_PROCESSES: &[(i64, u8)] = &[
    (libc::SYS_prlimit64, 0),
    (libc::SYS_sched_setaffinity, 0),
    (libc::SYS_sched_setscheduler, 0),
    (libc::SYS_sched_setparam, 0),
    (libc::SYS_sched_setattr, 0),
    (libc::SYS_setpriority, 1),
    (libc::SYS_ioprio_set, 1),
];

/// Calls that change what Landlock does not look at, by path.
const METADATA: &[i64] = &[
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Plainly dangerous system calls: other processes' memory, mounts and namespaces, the kernel itself, keys, files by handle, the
/// machine's time and name.
const DENIED: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_move_pages,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    libc::SYS_migrate_pages,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

impl Wall {
    /// Goes behind the wall. Async-signal-safe: system calls only.
    pub(super) fn enter(&self) -> Result<(), rustix::io::Errno> {
        let last_error =
            || rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO);
        // SAFETY: system calls on numbers, and on filters that outlive the calls; they change this process only.
        unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(last_error());
            }
            if let Some(ruleset) = &self.ruleset
                && libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) != 0
            {
                return Err(last_error());
            }
            for filter in &self.filters {
                let program = libc::sock_fprog {
                    len: u16::try_from(filter.len()).unwrap_or(0),
                    // The same in memory: both are the kernel's `struct sock_filter`. It is only read.
                    filter: filter.as_ptr().cast_mut().cast(),
                };
                let program = &raw const program;
                if libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0 as libc::c_ulong, program) != 0 {
                    return Err(last_error());
                }
            }
        }
        Ok(())
    }
}
