//! Core dumps of guests, in the format that debuggers read.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use wasmtime::{Store, WasmCoreDump};

/// The directory that they go to: what it was when the run began, whatever its name leads to later.
#[derive(Clone, Debug)]
pub(crate) struct Dumps(Arc<(PathBuf, io::Result<OwnedFd>)>);

impl Dumps {
    /// In that directory. One that cannot be opened is told with the first dump.
    pub(crate) fn at(path: &Path) -> Self {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        Self(Arc::new((path.to_owned(), openat(CWD, path, flags, Mode::empty()).map_err(io::Error::from))))
    }

    /// Writes what is left of a guest. What is said of it comes back.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        error: wasmtime::Error,
        mut store: Store<T>,
        name: &str,
    ) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let name: String = name.chars().map(|c| if c == '/' { '-' } else { c }).collect();
        let number = NUMBER.fetch_add(1, Relaxed);
        let file_name = format!("{name}.{}.{number}.coredump", std::process::id());
        let path = self.0.0.join(&file_name);
        let directory = self.0.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let directory = directory.1.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
            let dump = error.downcast_ref::<WasmCoreDump>();
            let dump = dump.ok_or_else(|| io::Error::other("the sandbox kept nothing of it"))?;
            let bytes = dump.serialize(&mut store, &name);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // It holds whatever the guest was given.
            let file = openat(directory, &file_name, flags, Mode::RUSR | Mode::WUSR)?;
            File::from(file).write_all(&bytes)
        });
        match writing.await.map_err(io::Error::other).flatten() {
            Ok(()) => format!("its core dump is {}", path.display()),
            Err(error) => format!("its core dump {} could not be written: {error}", path.display()),
        }
    }
}
