//! Files by their names, and where they have to be.
//!
//! A name is looked at when a run is planned and opened when it runs; whoever can write to a directory on its way may put a link there
//! in between. So a file that has to be below a directory is opened below it, link by link or not at all: what it was found to be then
//! is its real path, and no link is on that. Nothing is looked at on the way that is outside: no answer tells what is there.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{
        Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, accessat, fstat, open, openat, openat2, readlinkat,
        stat,
    },
    io::Errno,
};

/// A directory that files have to be below: held open, so that its name may come to mean something else.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    /// Its real path.
    path: PathBuf,
    /// Its path as it was named, which may lead over links.
    named: PathBuf,
    directory: Arc<OwnedFd>,
}

impl Root {
    /// Opens a directory by its real path; `named` is the absolute path by which it is known.
    ///
    /// # Errors
    ///
    /// What the system says, or that it is not there.
    pub(crate) fn open(path: PathBuf, named: PathBuf) -> io::Result<Self> {
        let directory =
            open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path, named, directory: Arc::new(directory) })
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
    /// outside of them that is not known to be there. What is not there yet is where its directory is. `base` is the directory that a relative path
    /// was joined to, which may lead over links.
    pub(crate) fn below(path: &Path, base: &Path, roots: impl Iterator<Item = Root>) -> Option<Self> {
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

/// The way to a file that has to be below one of some directories.
struct Walk<'a> {
    roots: &'a [Root],
    /// How many links were followed.
    links: usize,
    /// What is still to be gone, the next name last.
    left: Vec<OsString>,
    /// Whether what is left is where a link leads that was the last name.
    ends_in_link: bool,
    /// How many names may still be gone through.
    steps: usize,
}

impl Walk<'_> {
    /// As many links as the kernel follows.
    const MAX_LINKS: usize = 40;
    /// More names than a path has, with what links add to it.
    const MAX_STEPS: usize = 4096;

    fn new(roots: &[Root]) -> Walk<'_> {
        Walk { roots, links: 0, left: Vec::new(), ends_in_link: false, steps: Self::MAX_STEPS }
    }

    /// The root that a path is below, and its real path.
    fn find(mut self, path: &Path, base: &Path) -> Option<(Root, PathBuf)> {
        /// As long as the system takes one (Linux: `PATH_MAX`).
        const LONGEST: usize = 4096;
        if path.as_os_str().len() >= LONGEST {
            return None;
        }
        let here = if base == Path::new("") { Path::new(".") } else { base };
        // One that is below a root was found there. The others are the operator's word, who may know what is on the way to them.
        let is_held = self.roots.iter().any(|root| base.starts_with(&root.path)) && is_plain(base);
        let (start, rest) = match path.strip_prefix(base) {
            Ok(rest) if is_held => (base.to_owned(), rest),
            Ok(rest) if !path.is_absolute() || base.is_absolute() => (fs::canonicalize(here).ok()?, rest),
            _ if path.is_absolute() => ("/".into(), path),
            _ => (fs::canonicalize(".").ok()?, path),
        };
        self.push(rest);
        // Whether it is known that no link is in what was gone.
        let (mut at, mut is_real) = (start.clone(), true);
        loop {
            let is_there = |root: &&Root| at == root.named || at == root.path || is_real && at.starts_with(&root.path);
            // The outermost, from which the way to all below it is free.
            if let Some(root) = self.roots.iter().filter(is_there).min_by_key(|root| root.path.as_os_str().len()) {
                let beneath = at.strip_prefix(&root.path).unwrap_or(Path::new("")).to_owned();
                match self.inside(root, &beneath)? {
                    Inside::Found(beneath) => return Some((root.clone(), root.path.join(beneath))),
                    // A link leads elsewhere, which may be another of them.
                    Inside::Link => at = "/".into(),
                    Inside::Out => at = root.path.parent().unwrap_or(&root.path).to_owned(),
                }
                is_real = true;
                if self.roots.iter().any(|root| at.starts_with(&root.path)) {
                    continue;
                }
            }
            // Out here only names are looked at that are known anyway: those on the way to a root, or to where this began.
            match Path::new(&self.left.pop()?).components().next() {
                Some(Component::Normal(name)) => at.push(name),
                Some(Component::ParentDir) if is_real => _ = at.pop(),
                Some(Component::CurDir) | None => continue,
                _ => return None,
            }
            is_real = start.starts_with(&at) || self.roots.iter().any(|root| root.path.starts_with(&at));
            if !is_real && !self.roots.iter().any(|root| root.named.starts_with(&at)) {
                return None;
            }
        }
    }

    fn push(&mut self, path: &Path) {
        // An absolute one is gone from the root directory on.
        let names = path.components().rev().filter(|component| *component != Component::RootDir);
        self.left.extend(names.map(|component| component.as_os_str().to_owned()));
    }

    /// Goes on from what is `beneath` a root, where everything may be looked at. `None`: it leads nowhere.
    fn inside(&mut self, root: &Root, beneath: &Path) -> Option<Inside> {
        const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
        // Anew from the root, over no link: `..` of what is open may be elsewhere by now.
        let open = |path: &Path| {
            let path = if path == Path::new("") { Path::new(".") } else { path };
            open_beneath(&root.directory, path, LOOK, Mode::empty())
        };
        let mut at = beneath.to_owned();
        let mut directory = open(&at).ok()?;
        while let Some(next) = self.left.pop() {
            self.steps = self.steps.checked_sub(1)?;
            let name = match Path::new(&next).components().next() {
                Some(Component::Normal(name)) => name,
                Some(Component::ParentDir) if at.pop() => {
                    directory = open(&at).ok()?;
                    continue;
                }
                Some(Component::ParentDir) => return Some(Inside::Out),
                Some(Component::CurDir) | None => continue,
                _ => return None,
            };
            let opened = match openat(&directory, name, LOOK, Mode::empty()) {
                // It would be made. A link that leads nowhere could lead anywhere once it is written through.
                Err(Errno::NOENT) if self.left.is_empty() && !self.ends_in_link => {
                    return Some(Inside::Found(at.join(name)));
                }
                opened => opened.ok()?,
            };
            match FileType::from_raw_mode(fstat(&opened).ok()?.st_mode) {
                FileType::Directory => {
                    at.push(name);
                    directory = opened;
                }
                FileType::Symlink => {
                    self.links += 1;
                    if self.links > Self::MAX_LINKS {
                        return None;
                    }
                    let target = readlinkat(&opened, "", Vec::new()).ok()?;
                    let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                    self.ends_in_link |= self.left.is_empty();
                    self.push(target);
                    if target.is_absolute() {
                        return Some(Inside::Link);
                    }
                }
                _ if self.left.iter().all(|left| left == ".") => return Some(Inside::Found(at.join(name))),
                _ => return None,
            }
        }
        Some(Inside::Found(at))
    }
}

/// Where a way inside a root leads.
enum Inside {
    /// To what is beneath the root.
    Found(PathBuf),
    /// To what an absolute link names.
    Link,
    /// To what is around the root.
    Out,
}

/// Whether a path is absolute and names nothing but directories below each other.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().skip(1).all(|component| matches!(component, Component::Normal(_)))
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
        [Root::open(path.clone(), path).unwrap()].into_iter()
    }

    fn below(place: &tempfile::TempDir, name: &str) -> Option<Named> {
        Named::below(&place.path().join(name), place.path(), root(place))
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
        let whole = Root::open("/".into(), "/".into()).unwrap();
        assert!(Named::below(&place.path().join("root/in"), Path::new(""), [whole].into_iter()).is_some());
        // From a base, the way may lead up over what is known to be there.
        let base = place.path().join("root/d");
        let up = Named::below(&base.join("../../root/d/file"), &base, root(&place));
        assert!(up.is_some(), "out of the root and back");
        fs::create_dir(place.path().join("jobs")).unwrap();
        symlink("jobs", place.path().join("link")).unwrap();
        for base in ["jobs", "link"].map(|name| place.path().join(name)) {
            assert!(Named::below(&base.join("../root/in"), &base, root(&place)).is_some());
            assert!(Named::below(&base.join("../outside/../root/in"), &base, root(&place)).is_none());
        }
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
