//! A small file that is written whole or not at all, for programs around the library: reports, locks.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
};

use super::{AtomicFile, Named, Output, inherited_descriptor, open::open_in_place};

/// A file that appears whole, in the place of what was there, or not at all. Devices, FIFOs and descriptors of the process
/// (`/dev/fd/3`) are written in place.
#[derive(Debug)]
pub struct WholeFile(Way);

#[derive(Debug)]
enum Way {
    Atomic(AtomicFile),
    InPlace(File),
}

impl WholeFile {
    /// Makes sure that a file can be written there. Nothing is to be seen of it yet; dropping it leaves nothing.
    ///
    /// # Errors
    ///
    /// What the system says, or why the file there cannot be replaced.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::at(&Named::anywhere(path))
    }

    /// The same of a file that was found.
    pub(crate) fn at(named: &Named) -> io::Result<Self> {
        let file = |file: OwnedFd| Self(Way::InPlace(file.into()));
        match Output::of(named, false, None).map_err(io::Error::other)? {
            Output::Atomic(target) => AtomicFile::create(target).map(|file| Self(Way::Atomic(file))),
            Output::Inherit => inherited_descriptor(1).map(file),
            Output::Descriptor(number) => inherited_descriptor(u32::try_from(number).unwrap_or(u32::MAX)).map(file),
            Output::InPlace { named, append, .. } => open_in_place(&named, append).map(file),
        }
    }

    /// Whether it takes the place of what is there, rather than being written into it.
    pub fn replaces(&self) -> bool {
        matches!(self.0, Way::Atomic(_))
    }

    /// Writes the file and puts it in its place.
    ///
    /// # Errors
    ///
    /// What the system says. What was there is untouched then, unless it is written in place.
    pub fn write(self, bytes: &[u8]) -> io::Result<()> {
        match self.0 {
            Way::Atomic(atomic) => {
                File::from(atomic.file().try_clone()?).write_all(bytes)?;
                atomic.persist()?.publish()
            }
            Way::InPlace(mut file) => file.write_all(bytes),
        }
    }
}
