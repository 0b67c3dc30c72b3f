//! Directories that files have to be below, and how what is below is opened.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fstat, open, openat, openat2, stat},
    io::Errno,
};

/// A directory that files have to be below: held open, so that its name may come to mean something else.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// Its real path.
    pub(super) path: PathBuf,
    /// The paths by which it is known, which may lead over links.
    pub(super) named: Vec<PathBuf>,
    pub(super) directory: Arc<OwnedFd>,
}

impl Root {
    /// Opens a directory by its real path; `named` are the absolute paths by which it is known.
    ///
    /// # Errors
    ///
    /// What the system says, or that it is not there.
    pub(crate) fn open(path: PathBuf, named: Vec<PathBuf>) -> io::Result<Self> {
        let directory =
            open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path, named, directory: Arc::new(directory) })
    }

    /// Whether a real path is one of something below it.
    pub(crate) fn has(&self, path: &Path) -> bool {
        path.starts_with(&self.path)
    }

    /// Whether it is what a real path leads to now.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        if path != self.path {
            return false;
        }
        let is_there = || {
            let (held, found) = (fstat(&*self.directory)?, stat(path)?);
            Ok::<_, Errno>((held.st_dev, held.st_ino) == (found.st_dev, found.st_ino))
        };
        is_there().unwrap_or(false)
    }
}

/// Opens what is below a directory, over no link.
pub(super) fn open_beneath(root: &OwnedFd, beneath: &Path, how: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    /// How often the kernel may say that names were changed under it.
    const TRIES: usize = 64;
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    for _ in 0..TRIES {
        match openat2(root, beneath, how, mode, rules) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Before Linux 5.6, or where a filter does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return walk(root, beneath, how, mode),
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// The same, a name at a time.
pub(super) fn walk(root: &OwnedFd, beneath: &Path, how: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = openat(root, ".", step, Mode::empty())?;
    let mut names = beneath.components().peekable();
    while let Some(name) = names.next() {
        let Component::Normal(name) = name else {
            if name == Component::CurDir {
                continue;
            }
            return Err(Errno::XDEV);
        };
        if names.peek().is_none() {
            return openat(&directory, name, how | OFlags::NOFOLLOW, mode);
        }
        directory = openat(&directory, name, step, Mode::empty())?;
    }
    openat(&directory, ".", how, mode)
}
