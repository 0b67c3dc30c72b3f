//! Files by their names, and where they have to be.
//!
//! A name is looked at when a run is planned and opened when it runs; whoever can write to a directory on its way may put a link there
//! in between. So a file that has to be below a directory is opened below it, link by link or not at all: what it was found to be then
//! is its real path, and no link is on that.

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat, openat2},
    io::Errno,
};

/// A file by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    path: PathBuf,
    /// The directory that it has to be below. Its path and the file's are real ones then.
    root: Option<PathBuf>,
}

impl Named {
    /// One that may be anywhere.
    pub(crate) fn anywhere(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), root: None }
    }

    /// One that has to be below one of these directories, wherever links lead; `None`: it is not. What is not there yet is where its
    /// directory is.
    pub(crate) fn below(path: &Path, roots: impl Iterator<Item = PathBuf>) -> Option<Self> {
        let path = real_path(path).ok()?;
        let mut roots = roots.filter_map(|root| fs::canonicalize(root).ok());
        let root = roots.find(|root| path.starts_with(root))?;
        Some(Self { path, root: Some(root) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is around it, and its name there.
    pub(super) fn parent(&self) -> Option<(Self, &std::ffi::OsStr)> {
        let around = self.path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
        Some((Self { path: around.to_owned(), root: self.root.clone() }, self.path.file_name()?))
    }

    /// The same file by another name, if no links were followed to it yet.
    pub(super) fn resolved(&self, path: PathBuf) -> Self {
        Self { path, root: self.root.clone() }
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// What the system says, or that a link has come in its way.
    pub(crate) fn open(&self, how: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let how = how | OFlags::CLOEXEC;
        let Some(root) = &self.root else { return super::file::retry(|| open(&self.path, how, mode)) };
        let beneath = self.path.strip_prefix(root).map_err(io::Error::other)?;
        let beneath = if beneath == Path::new("") { Path::new(".") } else { beneath };
        let root = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        open_beneath(&root, beneath, how, mode).map_err(|error| match error {
            Errno::LOOP | Errno::XDEV => io::Error::other("it is not where it was when this was planned"),
            error => error.into(),
        })
    }

    /// How many bytes the file has.
    pub(crate) fn size(&self) -> io::Result<u64> {
        let file = fs::File::from(self.open(OFlags::PATH, Mode::empty())?);
        Ok(file.metadata()?.len())
    }

    /// Reads it: a regular file of so many bytes at most.
    ///
    /// # Errors
    ///
    /// What the system says, or what it is instead.
    pub(crate) fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        // Whatever stands there, opening it waits for nobody.
        let file = fs::File::from(self.open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?);
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
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

/// The real path of what a name leads to, or of where it would be made.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let real = |path: &Path| {
        let opened = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // The path of what was opened: a name may lead elsewhere the next moment.
        fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).or_else(|_| fs::canonicalize(path))
    };
    match real(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            let name = path.file_name().ok_or(error)?;
            let around = path.parent().filter(|around| *around != Path::new("")).unwrap_or(Path::new("."));
            Ok(real(around)?.join(name))
        }
        // A link that leads nowhere could lead anywhere once it is written through.
        real => real,
    }
}

/// Opens what is below a directory, over no link.
fn open_beneath(root: &OwnedFd, beneath: &Path, how: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
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
fn walk(root: &OwnedFd, beneath: &Path, how: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["root", "root/d", "outside"] {
            fs::create_dir(at(directory)).unwrap();
        }
        fs::write(at("root/d/file"), "inside").unwrap();
        fs::write(at("outside/file"), "outside").unwrap();
        symlink("d/file", at("root/in")).unwrap();
        symlink(at("outside/file"), at("root/out")).unwrap();
        symlink("nowhere", at("root/dangling")).unwrap();
        place
    }

    #[test]
    fn what_is_below_is_what_links_lead_to() {
        let place = place();
        let below = |name: &str| Named::below(&place.path().join(name), [place.path().join("root")].into_iter());
        for name in ["root/d/file", "root/in", "root/d/../in"] {
            assert_eq!(below(name).unwrap().read(100).unwrap(), b"inside", "{name}");
        }
        assert!(below("root/new").is_some() && below("root/d/new").is_some());
        for name in ["outside/file", "outside/none", "root/out", "root/dangling", "root/../outside/new", "none/none"] {
            assert!(below(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_link_that_came_later_leads_nowhere() {
        let place = place();
        let root = fs::File::open(place.path().join("root")).unwrap().into();
        let named =
            |name: &str| Named::below(&place.path().join(name), [place.path().join("root")].into_iter()).unwrap();
        let (file, new) = (named("root/d/file"), named("root/d/new"));
        fs::rename(place.path().join("root/d"), place.path().join("root/was")).unwrap();
        symlink(place.path().join("outside"), place.path().join("root/d")).unwrap();
        assert!(file.read(100).unwrap_err().to_string().contains("is not where it was"));
        assert!(new.open(OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).is_err());
        assert!(!place.path().join("outside/new").exists());
        for way in [open_beneath, walk] {
            let open = |name: &str| way(&root, Path::new(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            assert!(open("was/file").is_ok() && open(".").is_ok());
            for name in ["d/file", "out", "../outside/file", "d/../was/file"] {
                assert!(open(name).is_err(), "{name}");
            }
        }
    }
}
