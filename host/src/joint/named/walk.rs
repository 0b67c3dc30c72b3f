//! The way to a file that has to be below one of some directories, gone name by name.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, fstat, openat, readlinkat},
    io::Errno,
};

use super::root::{Root, open_beneath};

/// The way to a file that has to be below one of some directories.
pub(super) struct Walk<'a> {
    roots: &'a [Root],
    /// How many links were followed.
    links: usize,
    /// What is still to be gone, the next name last.
    left: Vec<OsString>,
    /// Whether what is left is where a link leads that was the last name.
    ends_in_link: bool,
    /// Whether a way ended as only a directory's may.
    is_directory: bool,
    /// How many names may still be gone through.
    steps: usize,
}

impl Walk<'_> {
    /// As many links as the kernel follows.
    const MAX_LINKS: usize = 40;
    /// More names than a path has, with what links add to it.
    const MAX_STEPS: usize = 4096;

    pub(super) fn new(roots: &[Root]) -> Walk<'_> {
        Walk { roots, links: 0, left: Vec::new(), ends_in_link: false, is_directory: false, steps: Self::MAX_STEPS }
    }

    /// The root that a path is below, and its real path. `base` is what a relative path was joined to, and `real` where that is.
    pub(super) fn find(mut self, path: &Path, base: &Path, real: Option<&Path>) -> Option<(Root, PathBuf)> {
        /// As long as the system takes one (Linux: `PATH_MAX`).
        const LONGEST: usize = 4096;
        if path.as_os_str().len() >= LONGEST {
            return None;
        }
        let (start, rest) = match path.strip_prefix(base) {
            Ok(rest) if !path.is_absolute() || base.is_absolute() => (real?, rest),
            _ if path.is_absolute() => (Path::new("/"), path),
            _ => return None,
        };
        self.is_directory = is_of_directory(path);
        self.push(rest);
        // Whether it is known that no link is in what was gone.
        let (mut at, mut is_real) = (start.to_owned(), true);
        loop {
            let is_there =
                |root: &&Root| root.named.contains(&at) || at == root.path || is_real && at.starts_with(&root.path);
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
                Some(Component::ParentDir) => at.push(".."),
                Some(Component::CurDir) | None => continue,
                _ => return None,
            }
            is_real = start.starts_with(&at) || self.roots.iter().any(|root| root.path.starts_with(&at));
            let is_on_the_way = |root: &Root| root.named.iter().any(|named| named.starts_with(&at));
            if !is_real && !self.roots.iter().any(is_on_the_way) {
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
                Err(Errno::NOENT) if self.left.is_empty() && !self.ends_in_link && !self.is_directory => {
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
                    if self.left.is_empty() {
                        self.ends_in_link = true;
                        self.is_directory |= is_of_directory(target);
                    }
                    self.push(target);
                    if target.is_absolute() {
                        return Some(Inside::Link);
                    }
                }
                _ if self.left.is_empty() && !self.is_directory => return Some(Inside::Found(at.join(name))),
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

/// Whether a path is one of a directory by how it ends.
fn is_of_directory(path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    path.ends_with(b"/") || path.ends_with(b"/.")
}
