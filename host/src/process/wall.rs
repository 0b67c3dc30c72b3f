//! The wall around a command: what the kernel denies it, and everything it starts.
//!
//! Four parts, each of which a program keeps for good: no new privileges, so that set-uid programs are plain ones; of root's
//! capabilities only those over files, signals and ids; Landlock, which leaves it the directories and TCP ports it was granted; and seccomp filters,
//! which let the usual system calls through. All of it is made before the child is born, because there nothing may be allocated. The
//! child leads a session, and the host is asked before there is another: so its limits count whatever it starts.

mod calls;
mod filters;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::{
    fs,
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use seccompiler::{BpfProgram, TargetArch};

use super::sessions::Handover;
use crate::{
    joint::Named,
    spec::{Access, Sandboxing},
};

/// What a walled command may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WallSpec {
    /// Whether to do without what this kernel does not have.
    pub(crate) best_effort: bool,
    /// The program itself.
    pub(crate) program: Option<Planned>,
    pub(crate) dirs: Vec<WalledDir>,
    /// TCP ports that may be connected to. Empty: no network at all.
    pub(crate) ports: Vec<u16>,
}

/// A directory that a walled command is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalledDir {
    pub(crate) dir: Planned,
    pub(crate) access: Access,
    /// Whether the files in it may be run.
    pub(crate) runs: bool,
}

/// A wall that is ready to be put around a child.
#[derive(Debug)]
pub(crate) struct Wall {
    ruleset: Option<OwnedFd>,
    filters: Vec<BpfProgram>,
    /// Asks about new sessions, through a listener.
    asking: Option<BpfProgram>,
    /// Whether it must be there.
    is_strict: bool,
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

/// The file systems that are the kernel's own, by their magic numbers (Linux: `uapi/linux/magic.h`, and those that stand elsewhere).
const KERNELS: &[fs::FsWord] = &[
    // procfs, sysfs, devpts, cgroup, cgroup2
    0x9fa0,
    0x6265_6572,
    0x1cd1,
    0x0027_e0eb,
    0x6367_7270,
    // tracefs, debugfs, securityfs, selinuxfs, smackfs, configfs
    0x7472_6163,
    0x6462_6720,
    0x7363_6673,
    0xf97c_ff8c,
    0x4341_5d53,
    0x6265_6570,
    // pstore, efivarfs, bpf, binfmt_misc, nsfs, fusectl, resctrl
    0x6165_676c,
    0xde5e_81e4,
    0xcafe_4a11,
    0x4249_4e4d,
    0x6e73_6673,
    0x6573_5543,
    0x0765_5821,
];

/// Whether a file system is the one of the devices, wherever it is mounted: its magic number is that of any in memory.
fn is_of_devices(device: u64) -> bool {
    let of = |path: &str| fs::stat(path).ok().map(|found| found.st_dev);
    of("/dev").is_some_and(|devices| devices == device) && of("/").is_some_and(|root| root != device)
}

/// What a path named when it was planned.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// Its real path then, or the path as it was written, where the real one is longer than the system takes.
    path: PathBuf,
    device: u64,
    inode: u64,
    is_dir: bool,
    /// Whether its file system is one of the kernel's own.
    is_kernels: bool,
    /// What it is opened by where it has to be below a directory.
    below: Option<Named>,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.device, self.inode) == (&other.path, other.device, other.inode)
    }
}

impl Eq for Planned {}

impl Planned {
    /// What a path names now. Links are followed where it may be anywhere.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub(crate) fn now(named: Named) -> io::Result<Self> {
        let opened = named.open(fs::OFlags::PATH, fs::Mode::empty())?;
        let found = fs::fstat(&opened)?;
        // The path of what was opened: a name may lead elsewhere the next moment.
        let path = match real_path(&opened) {
            _ if named.is_resolved() => named.path().to_owned(),
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => named.path().to_owned(),
            Err(_) => std::fs::canonicalize(named.path())?,
            Ok(real) => real,
        };
        let is_dir = fs::FileType::from_raw_mode(found.st_mode).is_dir();
        let below = named.is_resolved().then_some(named);
        let is_kernels = fs::fstatfs(&opened).is_ok_and(|system| KERNELS.contains(&system.f_type))
            || is_dir && is_of_devices(found.st_dev);
        Ok(Self { path, device: found.st_dev, inode: found.st_ino, is_dir, is_kernels, below })
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.is_dir
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its device and inode.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether it is the root directory, or the kernel itself: through `/proc` a stage would have this process's memory.
    pub(crate) fn is_the_systems(&self) -> bool {
        // What is mounted below these is the kernel's as well, whatever kind of file system it is.
        let is_below = |path: &str| self.path.starts_with(path);
        let is_there = ["/proc", "/sys"].into_iter().any(is_below) || is_below("/dev") && !is_below("/dev/shm");
        self.is_kernels || is_there || self.path == Path::new("/")
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// What the system says, or that something else is there now: a link may have been put in its place.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let opened = match &self.below {
            Some(named) => named.open(fs::OFlags::PATH, fs::Mode::empty())?,
            None => open_path(&self.path)?,
        };
        let found = fs::fstat(&opened)?;
        let moved =
            self.below.is_none() && self.path.is_absolute() && real_path(&opened).is_ok_and(|now| now != self.path);
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
        let of = |access: Access| self.dirs.iter().filter(move |granted| granted.access == access);
        let dirs = of(Access::Read).chain(of(Access::Write));
        let dirs = dirs.map(|WalledDir { dir, access, runs }| {
            let but = if *runs { "" } else { ", nothing to run" };
            format!("directory {} ({access}{but})", dir.path.display())
        });
        dirs.chain(self.ports.iter().map(|port| format!("TCP port {port}"))).collect()
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
        let filters = TargetArch::try_from(std::env::consts::ARCH)
            .and_then(|arch| filters::filters(arch, self.may_write(), !self.ports.is_empty()));
        let (filters, asking) = match filters {
            Ok(filters) => (filters, Some(filters::asking())),
            Err(_) if self.best_effort => (Vec::new(), None),
            Err(error) => return Err(io::Error::other(error)),
        };
        Ok(Wall { ruleset, filters, asking, is_strict: !self.best_effort })
    }

    fn may_write(&self) -> bool {
        self.dirs.iter().any(|granted| granted.access == Access::Write)
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
        let granted = self.dirs.iter().map(|WalledDir { dir, access, runs }| {
            let rights = if *access == Access::Write { all } else { read };
            (dir, if *runs { rights } else { rights & !AccessFs::Execute })
        });
        for (planned, access) in granted.chain(self.program.iter().map(|program| (program, read))) {
            let failed =
                |error| io::Error::other(super::at_path::AtPath { what: "a grant", path: planned.path.clone(), error });
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
}

impl Wall {
    /// Goes behind the wall. Async-signal-safe: system calls only.
    pub(super) fn enter(&self, handover: Option<&Handover>) -> Result<(), rustix::io::Errno> {
        // What root may do to files, and to be another user; not to limits, priorities, the network or the machine.
        const KEPT: CapabilitySet = CapabilitySet::CHOWN
            .union(CapabilitySet::DAC_OVERRIDE)
            .union(CapabilitySet::DAC_READ_SEARCH)
            .union(CapabilitySet::FOWNER)
            .union(CapabilitySet::KILL)
            .union(CapabilitySet::SETGID)
            .union(CapabilitySet::SETUID);
        let mut own = capabilities(None)?;
        own.permitted &= KEPT;
        own.effective &= KEPT;
        own.inheritable &= KEPT;
        set_capabilities(None, own)?;
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
                install(filter, 0)?;
            }
            if let (Some(filter), Some(handover)) = (&self.asking, handover) {
                match install(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
                    Ok(listener) => handover.give(OwnedFd::from_raw_fd(listener).as_fd())?,
                    Err(_) if !self.is_strict => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Puts a filter around this process. Returns what the kernel answers: a descriptor, if a listener is asked for.
fn install(filter: &BpfProgram, flags: libc::c_ulong) -> Result<libc::c_int, rustix::io::Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(0),
        // The same in memory: both are the kernel's `struct sock_filter`. It is only read.
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: a system call on a filter that outlives it; it changes this process only.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if answer < 0 { Err(last_error()) } else { Ok(libc::c_int::try_from(answer).unwrap_or(-1)) }
}

fn last_error() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}
