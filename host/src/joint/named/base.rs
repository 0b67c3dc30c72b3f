//! Directories that relative paths are relative to.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{file::Named, root::Root, walk::Walk};

/// A directory that relative paths are joined to.
///
/// Where files have to be below directories, a path is gone from where its base was found to be: the name is not looked at again, by
/// whichever directories a path is judged. It may have been in one that guests write to.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// As it is written.
    path: PathBuf,
    /// Its real path, if that is known.
    real: Option<PathBuf>,
    /// What it is gone into by, where it has to be below a directory.
    at: Option<Named>,
}

impl Base {
    /// One by its path as it is written, and its real one. Without that, nothing relative to it is below any directory.
    pub(crate) fn new(path: impl Into<PathBuf>, real: Option<PathBuf>) -> Self {
        Self { path: path.into(), real, at: None }
    }

    /// One that was found below a directory; `path` is as it is written.
    pub(crate) fn found(path: impl Into<PathBuf>, at: Named) -> Self {
        let real = match at.is_resolved() {
            true => Some(at.path().to_owned()),
            // It may be anywhere: there is nothing that must not be looked at.
            false => {
                fs::canonicalize(Some(at.path()).filter(|path| *path != Path::new("")).unwrap_or(Path::new("."))).ok()
            }
        };
        Self { path: path.into(), real, at: Some(at).filter(Named::is_resolved) }
    }

    /// The same directory, written so.
    pub(crate) fn written(&self, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..self.clone() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// A file that has to be below one of these directories, wherever links lead; `None`: it is not, or the way there leads over something
    /// outside of them that is not known to be there. What is not there yet is where its directory is. `path` was joined to this if it is
    /// relative.
    pub(crate) fn below(&self, path: &Path, roots: impl Iterator<Item = Root>) -> Option<Named> {
        let roots: Vec<_> = roots.collect();
        let (root, path) = Walk::new(&roots).find(path, &self.path, self.real.as_deref())?;
        Some(Named::below(path, root))
    }

    /// What it is gone into by, where it has to be below a directory.
    pub(crate) fn at(&self) -> Option<&Named> {
        self.at.as_ref()
    }
}
