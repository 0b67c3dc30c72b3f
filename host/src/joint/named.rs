//! Files by their names, and where they have to be.
//!
//! A name is looked at when a run is planned and opened when it runs; whoever can write to a directory on its way may put a link there
//! in between. So a file that has to be below a directory is opened below it, link by link or not at all: what it was found to be then
//! is its real path, and no link is on that. Nothing is looked at on the way that is outside: no answer tells what is there.

mod base;
mod walk;

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Access, AtFlags, CWD, Mode, OFlags, ResolveFlags, accessat, fstat, open, openat, openat2, stat},
    io::Errno,
};

pub(crate) use base::Base;
use walk::Walk;

/// A directory that files have to be below: held open, so that its name may come to mean something else.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// Its real path.
    path: PathBuf,
    /// The paths by which it is known, which may lead over links.
    named: Vec<PathBuf>,
    directory: Arc<OwnedFd>,
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

    /// One that has to be below one of these directories, wherever links lead; `None`: it is not, or the way there leads over something
    /// outside of them that is not known to be there. What is not there yet is where its directory is. `base` is what a relative path was
    /// joined to.
    pub(crate) fn below(path: &Path, base: &Base, roots: impl Iterator<Item = Root>) -> Option<Self> {
        let roots: Vec<_> = roots.collect();
        let (root, path) = Walk::new(&roots).find(path, base)?;
        Some(Self { path, root: Some(root) })
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
        let Some(root) = &self.root else { return super::system::retry(|| open(&self.path, how, mode)) };
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
        let file = self.open_regular()?;
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

    fn root(place: &tempfile::TempDir) -> impl Iterator<Item = Root> {
        let path = fs::canonicalize(place.path().join("root")).unwrap();
        [Root::open(path.clone(), vec![path]).unwrap()].into_iter()
    }

    fn base(path: &Path) -> Base {
        Base::found(path, Named::anywhere(path))
    }

    fn below(place: &tempfile::TempDir, name: &str) -> Option<Named> {
        Named::below(&place.path().join(name), &base(place.path()), root(place))
    }

    #[test]
    fn a_root_is_what_it_was_when_it_was_opened() {
        let place = place();
        let file = below(&place, "root/d/file").unwrap();
        fs::rename(place.path().join("root"), place.path().join("was")).unwrap();
        symlink("outside", place.path().join("root")).unwrap();
        fs::create_dir(place.path().join("outside/d")).unwrap();
        fs::write(place.path().join("outside/d/file"), "outside").unwrap();
        assert_eq!(file.read(100).unwrap(), b"inside");
    }

    #[test]
    fn what_is_below_is_what_links_lead_to() {
        let place = place();
        let below = |name: &str| below(&place, name);
        symlink(fs::canonicalize(place.path().join("root/d")).unwrap(), place.path().join("root/all")).unwrap();
        symlink("../../root/in", place.path().join("root/d/round")).unwrap();
        for name in
            ["root/d/file", "root/in", "root/d/../in", "./root/./d/file", "root/all/file", "root/all/../all/../in"]
        {
            assert_eq!(below(name).unwrap().read(100).unwrap(), b"inside", "{name}");
        }
        assert!(below("root/new").is_some() && below("root/d/new").is_some());
        for name in ["outside/file", "outside/none", "root/out", "root/dangling", "root/../outside/new", "none/none"] {
            assert!(below(name).is_none(), "{name}");
        }
        assert!(below("root").is_some() && below(".").is_none());
        // Whether there is an outside or not, nothing leads over it.
        for name in ["root/../in", "root/../outside/../root/in", "outside/../root/in", "none/../root/in", "root/in/x"] {
            assert!(below(name).is_none(), "{name}");
        }
        // Out and back over what is known to be there is no way over it.
        for name in ["root/../root/in", "root/d/round", "root/d/../../root/in"] {
            assert_eq!(below(name).unwrap().read(100).unwrap(), b"inside", "{name}");
        }
        // However long the way is, it takes a descriptor or two and ends.
        let (deep, round) = ("d/../".repeat(700), format!("{}in", "d/../".repeat(3000)));
        assert_eq!(below(&format!("root/{deep}in")).unwrap().read(100).unwrap(), b"inside");
        assert!(below(&format!("root/{round}")).is_none());
        let whole = Root::open("/".into(), vec!["/".into()]).unwrap();
        assert!(Named::below(&place.path().join("root/in"), &base(Path::new("")), [whole].into_iter()).is_some());
        // From a base, the way may lead up over what is known to be there.
        let inner = place.path().join("root/d");
        let up = Named::below(&inner.join("../../root/d/file"), &base(&inner), root(&place));
        assert!(up.is_some(), "out of the root and back");
        fs::create_dir(place.path().join("jobs")).unwrap();
        symlink("jobs", place.path().join("link")).unwrap();
        for around in ["jobs", "link"].map(|name| place.path().join(name)) {
            let below = |name: &str| Named::below(&around.join(name), &base(&around), root(&place));
            assert!(below("../root/in").is_some());
            assert!(below("../outside/../root/in").is_none());
        }
        // One that ends as a directory's does names no file.
        for name in ["root/d/file/", "root/d/file/.", "root/new/", "root/new/."] {
            assert!(below(name).is_none(), "{name}");
        }
        symlink("d/file/", place.path().join("root/as-a-directory")).unwrap();
        assert!(below("root/as-a-directory").is_none() && below("root/d/").is_some() && below("root/d/.").is_some());
    }

    #[test]
    fn a_base_is_where_it_was_found() {
        let place = place();
        let way = |name: &str| place.path().join(name);
        fs::create_dir_all(way("work/sub")).unwrap();
        let work = fs::canonicalize(way("work")).unwrap();
        let roots = || [Root::open(work.clone(), vec![work.clone()]).unwrap()].into_iter();
        let judged = Named::below(&way("work/sub"), &base(place.path()), roots()).unwrap();
        let around = Base::found(judged.path().to_owned(), judged);
        // A guest puts a link in its place: wherever that leads, by what other directories a file is judged tells nothing of it.
        for target in ["outside", "nowhere", "root/d"] {
            let _ = fs::remove_dir(way("work/sub"));
            let _ = fs::remove_file(way("work/sub"));
            symlink(way(target), way("work/sub")).unwrap();
            let below = |name: &str| Named::below(&around.join(name), &around, root(&place));
            assert!(below("../../root/in").is_some(), "{target}");
            assert!(below("../root/in").is_none() && below("../in").is_none() && below("file").is_none(), "{target}");
        }
        // One by way of a link within the directory is where that leads.
        symlink("d", way("root/current")).unwrap();
        let current = base(&way("root/current"));
        assert!(Named::below(&way("root/current/file"), &current, root(&place)).is_some());
        // And where it is not known, nothing is relative to it.
        let unknown = Base::new(way("root"), None);
        assert!(Named::below(&way("root/in"), &unknown, root(&place)).is_none());
    }

    #[test]
    fn a_link_that_came_later_leads_nowhere() {
        let place = place();
        let directory = fs::File::open(place.path().join("root")).unwrap().into();
        let named = |name: &str| below(&place, name).unwrap();
        let (file, new) = (named("root/d/file"), named("root/d/new"));
        fs::rename(place.path().join("root/d"), place.path().join("root/was")).unwrap();
        symlink(place.path().join("outside"), place.path().join("root/d")).unwrap();
        assert!(file.read(100).unwrap_err().to_string().contains("is not where it was"));
        assert!(new.open(OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).is_err());
        assert!(!place.path().join("outside/new").exists());
        for way in [open_beneath, walk] {
            let open = |name: &str| way(&directory, Path::new(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            assert!(open("was/file").is_ok() && open(".").is_ok());
            for name in ["d/file", "out", "../outside/file", "d/../was/file"] {
                assert!(open(name).is_err(), "{name}");
            }
        }
    }
}
