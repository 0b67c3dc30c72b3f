//! A file by its name.

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, open},
    io::Errno,
};

use super::root::{Root, open_beneath};
use crate::joint::system::retry;

/// A file by its name.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    path: PathBuf,
    /// The directory that it has to be below. Its path and the file's are real ones then.
    root: Option<Root>,
}

impl Named {
    /// One that may be anywhere.
    pub(crate) fn anywhere(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), root: None }
    }

    /// One below a directory, by the real paths of both.
    pub(super) fn below(path: PathBuf, root: Root) -> Self {
        Self { path, root: Some(root) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is around it, and its name there.
    pub(crate) fn parent(&self) -> Option<(Self, &std::ffi::OsStr)> {
        let around = self.path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
        Some((Self { path: around.to_owned(), root: self.root.clone() }, self.path.file_name()?))
    }

    /// Whether its path is its real one, with no links to follow.
    pub(crate) fn is_resolved(&self) -> bool {
        self.root.is_some()
    }

    /// What is there. Links are followed where it may be anywhere.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(crate) fn metadata(&self) -> io::Result<fs::Metadata> {
        fs::File::from(self.open(OFlags::PATH, Mode::empty())?).metadata()
    }

    /// Whether this process may write to it.
    pub(crate) fn is_writable(&self) -> bool {
        self.may(Access::WRITE_OK)
    }

    /// Whether this process may run it, or go into it.
    pub(crate) fn is_executable(&self) -> bool {
        self.may(Access::EXEC_OK)
    }

    fn may(&self, access: Access) -> bool {
        let may = |path: &Path| accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
        if self.root.is_none() {
            return may(&self.path);
        }
        let opened = self.open(OFlags::PATH, Mode::empty());
        opened.is_ok_and(|opened| may(Path::new(&format!("/proc/self/fd/{}", opened.as_raw_fd()))))
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// What the system says, or that a link has come in its way.
    pub(crate) fn open(&self, how: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let how = how | OFlags::CLOEXEC;
        let Some(root) = &self.root else { return retry(|| open(&self.path, how, mode)) };
        let beneath = self.path.strip_prefix(&root.path).map_err(io::Error::other)?;
        let beneath = if beneath == Path::new("") { Path::new(".") } else { beneath };
        open_beneath(&root.directory, beneath, how, mode).map_err(|error| match error {
            Errno::LOOP | Errno::XDEV => io::Error::other("it is not where it was when this was planned"),
            error => error.into(),
        })
    }

    /// How many bytes the file has.
    pub(crate) fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    /// Reads it: a regular file of so many bytes at most.
    ///
    /// # Errors
    ///
    /// What the system says, or what it is instead.
    pub(crate) fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        Self::read_from(&self.open_regular()?, most)
    }

    /// The same of one that is open.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn read_from(file: &fs::File, most: u64) -> io::Result<Vec<u8>> {
        let metadata = file.metadata()?;
        if metadata.len() > most {
            let message = format!("it has {} bytes, and at most {most} are read", metadata.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        // It may grow meanwhile.
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Named {
    /// Opens it to be read: a regular file.
    ///
    /// # Errors
    ///
    /// What the system says, or what it is instead.
    pub(crate) fn open_regular(&self) -> io::Result<fs::File> {
        // Whatever stands there, opening it waits for nobody.
        let file = fs::File::from(self.open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?);
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(file)
    }
}
