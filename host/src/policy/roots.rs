//! The directories that a policy names, found so that nobody whom it lets write anything can lead them elsewhere.
//!
//! Whoever may write to a directory may put a link in the place of anything in it. So what a policy allows must not be found by way of
//! names that stand in a directory which it lets guests write to: the next run would look at something else.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::joint::{Root, is_of_processes};

/// Roots that were found, held open. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots(Arc<Mutex<HashMap<PathBuf, Root>>>);

/// What is held says nothing about what a policy allows.
impl PartialEq for Roots {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Roots {
    /// The directory of a path, if it is there and nobody can lead it elsewhere by writing to what is below `writable`.
    pub(super) fn find(&self, path: &Path, writable: &[PathBuf]) -> Option<Root> {
        let way = Route::to(path);
        let real = way.end.real()?;
        if misled(&way.around, writable).is_some() {
            return None;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = known.get(path).filter(|root| root.is_at(&real)) {
            return Some(root.clone());
        }
        let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let root = Root::open(real, vec![straightened(&named), named]).ok()?;
        known.insert(path.to_owned(), root.clone());
        Some(root)
    }
}

/// An absolute path without `..` behind what is no link.
fn straightened(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir if fs::canonicalize(&straight).is_ok_and(|real| real == straight) => {
                straight.pop();
            }
            component => straight.push(component),
        }
    }
    straight
}

/// The first of these directories below which one of those that were gone through is.
pub(super) fn misled<'a>(around: &[PathBuf], writable: &'a [PathBuf]) -> Option<&'a PathBuf> {
    writable.iter().find(|writable| around.iter().any(|around| around.starts_with(writable)))
}

/// How a path leads to what it names.
pub(crate) struct Route {
    /// The real path of that, or where it was left.
    pub(crate) end: End,
    /// The real paths of all directories in which a name of the path stands, or of a link on its way, as far as it leads.
    pub(crate) around: Vec<PathBuf>,
}

/// Where a way ends.
pub(crate) enum End {
    /// At what its path names, by its real path.
    There(PathBuf),
    /// Nowhere.
    Nowhere,
    /// It cannot be told, such as where this process's own directory is gone: links on it may lead anywhere.
    Unknown,
    /// In a directory where guests may put anything: what is left of it is not looked at.
    Left { at: PathBuf, rest: PathBuf },
}

impl End {
    /// The real path of what is named, if it is there.
    pub(crate) fn real(self) -> Option<PathBuf> {
        match self {
            Self::There(real) => Some(real),
            Self::Nowhere | Self::Unknown | Self::Left { .. } => None,
        }
    }
}

impl Route {
    /// Goes along a path. The empty one is where this process is.
    pub(crate) fn to(path: &Path) -> Self {
        Self::outside(path, &[])
    }

    /// The same, up to the first name that stands below one of these directories.
    pub(super) fn outside(path: &Path, writable: &[PathBuf]) -> Self {
        let mut around = Vec::new();
        let end = Self::go(path, writable, &mut around).unwrap_or(End::Unknown);
        Self { end, around }
    }

    fn go(path: &Path, writable: &[PathBuf], around: &mut Vec<PathBuf>) -> io::Result<End> {
        // As many as the kernel follows.
        const MAX_LINKS: usize = 40;
        let mut left: Vec<OsString> = Vec::new();
        let push = |left: &mut Vec<OsString>, path: &Path| {
            left.extend(path.components().rev().map(|component| component.as_os_str().to_owned()));
        };
        push(&mut left, path);
        let mut at = if path.is_absolute() { "/".into() } else { std::env::current_dir()? };
        around.extend(at.ancestors().skip(1).map(Path::to_owned));
        let mut links = 0;
        while let Some(name) = left.pop() {
            match Path::new(&name).components().next() {
                Some(Component::RootDir | Component::Prefix(_)) => at = "/".into(),
                Some(Component::ParentDir) => _ = at.pop(),
                Some(Component::CurDir) | None => {}
                Some(Component::Normal(_)) if writable.iter().any(|writable| at.starts_with(writable)) => {
                    left.push(name);
                    return Ok(End::Left { at, rest: left.iter().rev().collect() });
                }
                Some(Component::Normal(_)) => {
                    let next = at.join(&name);
                    around.push(at.clone());
                    match fs::read_link(&next) {
                        // Whoever counts them otherwise may follow it all the same.
                        Ok(_) if links == MAX_LINKS => return Ok(End::Unknown),
                        Ok(target) if is_of_processes(&at) && !leads_to(&next, &at.join(&target)) => {
                            // What is open is no directory, or its path is not known: that goes on from wherever it is.
                            let is_directory = fs::metadata(&next).is_ok_and(|found| found.is_dir());
                            return Ok(if is_directory { End::Unknown } else { End::Nowhere });
                        }
                        Ok(target) => {
                            links += 1;
                            push(&mut left, &target);
                        }
                        // No link.
                        Err(error) if error.kind() == io::ErrorKind::InvalidInput => at = next,
                        // Nor would anybody else find it.
                        Err(error)
                            if matches!(
                                error.kind(),
                                io::ErrorKind::NotFound
                                    | io::ErrorKind::NotADirectory
                                    | io::ErrorKind::PermissionDenied
                            ) =>
                        {
                            return Ok(End::Nowhere);
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(End::There(at))
    }
}

/// Whether a link leads to the directory that it says it does.
fn leads_to(link: &Path, said: &Path) -> bool {
    let (Ok(found), Ok(said)) = (fs::metadata(link), fs::metadata(said)) else { return false };
    found.is_dir() && (found.dev(), found.ino()) == (said.dev(), said.ino())
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsRawFd, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn every_directory_on_the_way_is_seen() {
        let place = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(place.path()).unwrap();
        for directory in ["a/b", "c/d", "e"] {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        symlink("../c", place.join("a/to-c")).unwrap();
        symlink(place.join("a/to-c/d"), place.join("e/to-d")).unwrap();
        let Route { end, around } = Route::to(&place.join("e/../e/./to-d"));
        assert_eq!(end.real().unwrap(), place.join("c/d"));
        for expected in ["", "e", "a", "c"] {
            assert!(around.contains(&place.join(expected)), "{expected}: {around:?}");
        }
        assert!(!around.contains(&place.join("c/d")) && !around.contains(&place.join("a/b")));
        assert!(Route::to(&place.join("none")).end.real().is_none());
        symlink("round", place.join("round")).unwrap();
        assert!(Route::to(&place.join("round")).end.real().is_none());
        // What leads nowhere tells where its names stand all the same.
        symlink("nowhere", place.join("a/lost")).unwrap();
        assert!(Route::to(&place.join("a/lost/x")).around.contains(&place.join("a")));
        // Which links are followed is not for two to count.
        for index in 0..45 {
            symlink(format!("many-{}", index + 1), place.join(format!("many-{index}"))).unwrap();
        }
        assert!(matches!(Route::to(&place.join("many-0")).end, End::Unknown));
        // A directory that is open is where it is, and what has no path is nowhere.
        let opened = fs::File::open(place.join("a")).unwrap();
        let by_number = PathBuf::from(format!("/proc/self/fd/{}/to-c", opened.as_raw_fd()));
        let Route { end: End::Left { at, rest }, .. } = Route::outside(&by_number, &[place.join("a")]) else {
            panic!("it is followed");
        };
        assert_eq!((at, rest), (place.join("a"), PathBuf::from("to-c")));
        let file = fs::File::create(place.join("a/file")).unwrap();
        let by_number = PathBuf::from(format!("/dev/fd/{}", file.as_raw_fd()));
        assert!(matches!(Route::outside(&by_number, &[place.join("a")]).end, End::Nowhere));
        fs::create_dir(place.join("gone")).unwrap();
        let gone = fs::File::open(place.join("gone")).unwrap();
        fs::remove_dir(place.join("gone")).unwrap();
        let by_number = PathBuf::from(format!("/dev/fd/{}/../a", gone.as_raw_fd()));
        assert!(matches!(Route::to(&by_number).end, End::Unknown));
        // Where guests may put anything nothing is looked at.
        let Route { end: End::Left { at, rest }, .. } =
            Route::outside(&place.join("e/../e/./to-d/x/.."), &[place.join("a")])
        else {
            panic!("it goes on");
        };
        assert_eq!((at, rest), (place.join("a"), PathBuf::from("to-c/d/x/..")));
        let here = fs::canonicalize(".").unwrap();
        assert_eq!(Route::to(Path::new("")).end.real().unwrap(), here);
        assert!(Route::to(Path::new("")).around.contains(&here.parent().unwrap().to_owned()));
    }

    #[test]
    fn what_guests_could_lead_elsewhere_is_no_root() {
        let place = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(place.path()).unwrap();
        fs::create_dir_all(place.join("open/in")).unwrap();
        fs::create_dir(place.join("other")).unwrap();
        symlink("../other", place.join("open/link")).unwrap();
        let (roots, writable) = (Roots::default(), [place.join("open")]);
        assert!(roots.find(&place.join("open"), &writable).is_some());
        assert!(roots.find(&place.join("other"), &writable).is_some());
        assert!(roots.find(&place.join("open/in"), &writable).is_none());
        assert!(roots.find(&place.join("open/link"), &writable).is_none());
        assert!(roots.find(&place.join("open/in"), &[]).is_some());
    }
}
