//! A file that appears whole or not at all.
//!
//! The bytes go to a file without a name in the target's directory (or, where the file system has none of those, to a
//! hidden temporary name). Persisting makes them durable and gives them the owner and mode of what was there, and publishing renames them
//! over it. Anything else leaves the directory as it was.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::{
    fs::{
        Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, StatxAttributes, StatxFlags, Uid, accessat, fchmod,
        fchown, fdatasync, fstat, linkat, openat, renameat, statat, statx, unlinkat,
    },
    io::Errno,
};

use super::{named::Named, system::is_of_processes};

/// Where an atomic output will be.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    directory: Named,
    name: OsString,
    existing: Option<(u32, u32, u32)>,
}

impl Target {
    /// The directory that it will be in.
    pub(super) fn directory(&self) -> &Named {
        &self.directory
    }
}

/// Finds out whether `path` can be written atomically: resolves symbolic links, so that what they point to is replaced,
/// and refuses what a rename would break. Opens nothing.
///
/// # Errors
///
/// A message for people.
pub(crate) fn target(named: &Named) -> Result<Target, String> {
    let resolved = match named.is_resolved() {
        // A link that came there meanwhile is replaced and not followed.
        true => named.clone(),
        false => Named::anywhere(resolve(named.path()).map_err(|error| error.to_string())?),
    };
    let Some((directory, name)) = resolved.parent() else { return Err("it names no file".into()) };
    let opened = directory.open(OFlags::PATH, Mode::empty());
    let opened = opened.map_err(|error| format!("its directory cannot be used: {error}"))?;
    let around = fstat(&opened).map_err(|error| format!("its directory cannot be used: {}", io::Error::from(error)))?;
    if FileType::from_raw_mode(around.st_mode) != FileType::Directory {
        return Err("its directory is none".into());
    }
    if accessat(&opened, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_err() {
        return Err("its directory is not writable, and an atomic output needs a new name in it".into());
    }
    let existing = match statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            refuse_unreplaceable(&stat, &around)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let attributes = statx(&opened, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
            if attributes.is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
                return Err("it is a mount point, which cannot be replaced".into());
            }
            // A link that came there meanwhile has no mode to keep, and other things are not for a file to take their place.
            match kind {
                FileType::RegularFile => Some((stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)),
                FileType::Symlink => None,
                _ => return Err("it is no regular file".into()),
            }
        }
        Err(Errno::NOENT) => None,
        Err(error) => return Err(io::Error::from(error).to_string()),
    };
    Ok(Target { directory, name: name.to_owned(), existing })
}

fn refuse_unreplaceable(stat: &Stat, around: &Stat) -> Result<(), String> {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err("it is a directory".into());
    }
    if stat.st_nlink > 1 {
        return Err(format!("it has {} names (hard links), and only one would get the new content", stat.st_nlink));
    }
    if stat.st_dev != around.st_dev {
        return Err("it is a mount point, which cannot be replaced".into());
    }
    let user = rustix::process::geteuid();
    if !user.is_root() && stat.st_uid != user.as_raw() {
        return Err("it belongs to another user, and a new file could not".into());
    }
    Ok(())
}

/// Follows symbolic links to the name that would be created or replaced, or to a link to what a process has open.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    // As many as the kernel follows.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let around = path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
        match std::fs::read_link(&path) {
            // What it says is not where it leads.
            Ok(_) if is_of_processes(around) => return Ok(path),
            Ok(link) => path = path.parent().unwrap_or(Path::new("")).join(link),
            Err(_) => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}

/// An atomic output that is being written.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    target: Target,
    directory: OwnedFd,
    file: Arc<OwnedFd>,
    /// The temporary name, where there is one to remove.
    temporary: Option<OsString>,
}

impl AtomicFile {
    /// Opens the file that will take the target's place.
    pub(crate) fn create(target: Target) -> io::Result<Self> {
        let directory = target.directory.open(OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        let mode = Mode::from_raw_mode(0o666);
        // Giving such a file a name takes /proc.
        let has_proc = std::fs::metadata("/proc/self/fd").is_ok();
        let unnamed = if has_proc {
            openat(&directory, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode)
        } else {
            Err(Errno::OPNOTSUPP)
        };
        match unnamed {
            Ok(file) => Ok(Self { target, directory, file: Arc::new(file), temporary: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                let name = temporary_name(&target.name);
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
                let file = openat(&directory, &name, flags, mode)?;
                Ok(Self { target, directory, file: Arc::new(file), temporary: Some(name) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The descriptor to write to.
    pub(crate) fn file(&self) -> Arc<OwnedFd> {
        self.file.clone()
    }

    /// Makes the bytes durable, with the owner and mode of what they will replace. Blocks; nothing is to be seen yet.
    ///
    /// Nobody's output runs with the rights of its owner or group: those bits of the mode are lost, whoever set them.
    pub(crate) fn persist(self) -> io::Result<Self> {
        const PRIVILEGES: u32 = libc::S_ISUID | libc::S_ISGID;
        if let Some((mode, user, group)) = self.target.existing {
            let mode = mode & !PRIVILEGES;
            match fchown(&self.file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))) {
                Ok(()) => fchmod(&self.file, Mode::from_raw_mode(mode))?,
                // An unprivileged user keeps their own files' owner anyway; a group they are not in is lost, and with it
                // what the mode would give to whoever is in the new one.
                Err(Errno::PERM) => fchmod(&self.file, Mode::from_raw_mode(mode & 0o1707))?,
                Err(error) => return Err(error.into()),
            }
        } else {
            // Its writer may have set them.
            let mode = fstat(&self.file)?.st_mode;
            if mode & PRIVILEGES != 0 {
                fchmod(&self.file, Mode::from_raw_mode(mode & !PRIVILEGES))?;
            }
        }
        fdatasync(&self.file)?;
        Ok(self)
    }

    /// Puts the bytes in the target's place.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        if self.temporary.is_none() {
            let name = temporary_name(&self.target.name);
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, unnamed, &self.directory, &name, AtFlags::SYMLINK_FOLLOW)?;
            self.temporary = Some(name);
        }
        let name = self.temporary.as_ref().map_or(OsStr::new(""), OsString::as_os_str);
        renameat(&self.directory, name, &self.directory, &self.target.name)?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // There is nobody to tell, and nothing else to try.
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

/// A hidden name beside the target's, unlike any other.
fn temporary_name(name: &OsStr) -> OsString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    let mut temporary = OsString::from(".");
    // Names have at most 255 bytes; ours must leave room for the rest.
    temporary.push(OsStr::from_bytes(&name.as_bytes()[..name.len().min(150)]));
    temporary.push(format!(".stagehost-{}-{now:x}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed)));
    temporary
}
