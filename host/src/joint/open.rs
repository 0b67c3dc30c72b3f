//! Opening the ends of a pipeline.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{FileType, MemfdFlags, Mode, OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, fstat, memfd_create, open, seek},
    io::fcntl_dupfd_cloexec,
};

use super::{
    AtomicFile, Named, Sink, Source, Stop, atomic,
    descriptor::{DescriptorSink, DescriptorSource, inherited_descriptor},
    file::{FileSink, FileSource},
    system::{ABOVE_STDIO, retry},
};

/// The device and inode of a regular file: to find out whether the output is the input.
pub(crate) type Identity = Option<(u64, u64)>;

/// An end, opened for a stage of one kind or the other.
#[derive(Debug)]
pub(crate) struct Opened<T> {
    /// What the stage gets.
    pub(crate) half: T,
    pub(crate) identity: Identity,
    /// An output that is to be put in its place.
    pub(crate) atomic: Option<AtomicFile>,
    /// The inherited regular file whose offset is set to the first byte not consumed when the run is over.
    pub(crate) rewind: Option<OwnedFd>,
    /// An input file that was handed to a program, and how many bytes it must have to the end.
    pub(crate) whole: Option<(OwnedFd, u64)>,
}

impl<T> Opened<T> {
    /// An end that is no file.
    pub(crate) fn plain(half: T) -> Self {
        Self { half, identity: None, atomic: None, rewind: None, whole: None }
    }

    pub(crate) fn map<U>(self, map: impl FnOnce(T) -> U) -> Opened<U> {
        let Self { half, identity, atomic, rewind, whole } = self;
        Opened { half: map(half), identity, atomic, rewind, whole }
    }
}

fn identity(file: &OwnedFd) -> io::Result<Identity> {
    let stat = fstat(file)?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    Ok(regular.then_some((stat.st_dev, stat.st_ino)))
}

/// Opens the host's standard input (`None`) or a file for a stage in this process. FIFOs are opened without waiting for a
/// writer; the first read waits for one. A file that has fewer than `size` bytes at its end is an error: it was cut.
///
/// # Errors
///
/// What the system says.
pub(crate) fn open_stdin(named: Option<&Named>, line_at_a_time: bool, size: Option<u64>) -> io::Result<Opened<Source>> {
    let Some(named) = named else {
        let file = fcntl_dupfd_cloexec(io::stdin(), ABOVE_STDIO)?;
        let identity = identity(&file)?;
        if identity.is_none() {
            return Ok(Opened::plain(Source::Descriptor(DescriptorSource::inherited(file))));
        }
        let position = seek(&file, SeekFrom::Current(0))?;
        let rewind = Some(file.try_clone()?);
        let half = Source::File(FileSource::new(file, position, line_at_a_time));
        return Ok(Opened { identity, rewind, ..Opened::plain(half) });
    };
    let file = named.open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
    let half = match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => {
            let identity = identity(&file)?;
            let half = Source::File(FileSource::new(file, 0, line_at_a_time).of_size(size));
            return Ok(Opened { identity, ..Opened::plain(half) });
        }
        FileType::Directory => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
        // Devices such as /dev/zero cannot be watched; a FIFO can.
        FileType::Fifo => Source::Descriptor(DescriptorSource::owned(file)?),
        _ => Source::Descriptor(DescriptorSource::inherited(file)),
    };
    Ok(Opened::plain(half))
}

/// Opens the host's standard input (`None`) or a file, to be handed to a program as it is.
///
/// # Errors
///
/// What the system says, or that the run was stopped while a FIFO waited for its writer.
pub(crate) async fn input_descriptor(named: Option<&Named>, stop: &Stop) -> io::Result<Opened<OwnedFd>> {
    let file = match named {
        None => fcntl_dupfd_cloexec(io::stdin(), ABOVE_STDIO)?,
        Some(named) if named.metadata()?.file_type().is_fifo() => open_fifo(named, OFlags::RDONLY, stop).await?,
        Some(named) => open_at_once(named, OFlags::RDONLY)?,
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Directory {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    let identity = identity(&file)?;
    Ok(Opened { identity, ..Opened::plain(file) })
}

/// A text as a file in memory, which a program can read without anybody feeding it.
///
/// # Errors
///
/// Where there are no such files.
pub(crate) fn text_descriptor(text: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("stdin", MemfdFlags::CLOEXEC)?;
    let mut left = text;
    while !left.is_empty() {
        let written = retry(|| rustix::io::write(&file, left))?;
        left = &left[written..];
    }
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

/// `/dev/null`, for reading and writing.
///
/// # Errors
///
/// What the system says.
pub(crate) fn null() -> io::Result<OwnedFd> {
    retry(|| open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
}

/// How an output is written.
#[derive(Clone, Debug)]
pub(crate) enum Output {
    /// The host's standard output.
    Inherit,
    /// A copy of one of the host's descriptors, named by a path such as `/dev/fd/5`.
    Descriptor(i32),
    /// Whole or not at all.
    Atomic(atomic::Target),
    /// Over what is there.
    InPlace { named: Named, append: bool, fifo: bool },
}

impl Output {
    /// The stream of this process that a path names.
    pub(crate) fn stream(path: &Path) -> Option<Self> {
        if path == Path::new("/dev/stdout") {
            return Some(Self::Inherit);
        }
        if path == Path::new("/dev/stderr") {
            return Some(Self::Descriptor(2));
        }
        let descriptor = ["/dev/fd", "/proc/self/fd"].iter().find_map(|around| path.strip_prefix(around).ok());
        descriptor?.to_str()?.parse().ok().map(Self::Descriptor)
    }

    /// Decides how a file is written. Opens nothing.
    ///
    /// # Errors
    ///
    /// A message for people, when an atomic output is impossible there.
    pub(crate) fn of(named: &Named, append: bool, atomic: Option<bool>) -> Result<Self, String> {
        let path = named.path();
        if let Some(stream) = Self::stream(path) {
            return Ok(stream);
        }
        // A descriptor of another process: whatever it is, its file is not replaced.
        let foreign = path.starts_with("/proc") && path.parent().is_some_and(|around| around.ends_with("fd"));
        let append = append || foreign;
        let metadata = named.metadata();
        let special = metadata.as_ref().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        let fifo = metadata.as_ref().is_ok_and(|metadata| metadata.file_type().is_fifo());
        if metadata.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err("it is a directory".into());
        }
        if special || append || atomic == Some(false) {
            return Ok(Self::InPlace { named: named.clone(), append, fifo });
        }
        atomic::target(named).map(Self::Atomic)
    }
}

/// Opens an output for a stage in this process.
///
/// # Errors
///
/// What the system says, or that the run was stopped while a FIFO waited for its reader.
///
/// # Cancel safety
///
/// A file that was opened is closed; an atomic one leaves nothing.
pub(crate) async fn open_stdout(place: &Output, stop: &Stop) -> io::Result<Opened<Sink>> {
    if let Output::Atomic(target) = place {
        let atomic = AtomicFile::create(target.clone())?;
        let sink = Sink::File(FileSink::ours(atomic.file()));
        return Ok(Opened { atomic: Some(atomic), ..Opened::plain(sink) });
    }
    Ok(output_descriptor(place, stop).await?.map(sink_for))
}

/// Opens an output, to be handed to a program as it is.
///
/// # Errors
///
/// What the system says, or that the run was stopped while a FIFO waited for its reader.
///
/// # Cancel safety
///
/// A file that was opened is closed; an atomic one leaves nothing.
pub(crate) async fn output_descriptor(place: &Output, stop: &Stop) -> io::Result<Opened<OwnedFd>> {
    let file = match place {
        Output::Inherit => fcntl_dupfd_cloexec(io::stdout(), ABOVE_STDIO)?,
        Output::Descriptor(number) => inherited_descriptor(u32::try_from(*number).unwrap_or(u32::MAX))?,
        Output::Atomic(target) => {
            let atomic = AtomicFile::create(target.clone())?;
            let file = atomic.file().try_clone()?;
            return Ok(Opened { atomic: Some(atomic), ..Opened::plain(file) });
        }
        Output::InPlace { named, fifo: true, .. } => open_fifo(named, OFlags::WRONLY, stop).await?,
        Output::InPlace { named, append, fifo: false } => open_in_place(named, *append)?,
    };
    let identity = identity(&file)?;
    Ok(Opened { identity, ..Opened::plain(file) })
}

/// Opens a file that a stage's standard error is appended to.
///
/// # Errors
///
/// What the system says, or that the run was stopped while a FIFO waited for its reader.
pub(crate) async fn log_descriptor(named: &Named, stop: &Stop) -> io::Result<OwnedFd> {
    let place = Output::of(named, true, Some(false)).map_err(io::Error::other)?;
    output_descriptor(&place, stop).await.map(|end| end.half)
}

/// The same for a stage in this process.
///
/// # Errors
///
/// As [`log_descriptor`].
pub(crate) async fn open_log(named: &Named, stop: &Stop) -> io::Result<Sink> {
    log_descriptor(named, stop).await.map(sink_for)
}

/// The host's own standard error.
///
/// # Errors
///
/// What the system says.
pub(crate) fn stderr_descriptor() -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(io::stderr(), ABOVE_STDIO)?)
}

/// The same, as a sink.
///
/// # Errors
///
/// What the system says.
pub(crate) fn open_stderr() -> io::Result<Sink> {
    stderr_descriptor().map(sink_for)
}

fn sink_for(file: OwnedFd) -> Sink {
    let kind = fstat(&file).ok().map(|stat| FileType::from_raw_mode(stat.st_mode));
    let watched = if kind == Some(FileType::Fifo) { DescriptorSink::inherited(&file) } else { None };
    match watched {
        Some(pipe) => Sink::Descriptor(pipe),
        None => Sink::File(FileSink::new(Arc::new(file), kind != Some(FileType::RegularFile))),
    }
}

pub(super) fn open_in_place(named: &Named, append: bool) -> io::Result<OwnedFd> {
    let how = if append { OFlags::APPEND } else { OFlags::empty() };
    open_at_once(named, OFlags::WRONLY | OFlags::CREATE | how)
}

/// Opens what may be handed on. Where a file has to be below a directory, it waits for nobody: what was a file may be a FIFO by now, which
/// others put there. Elsewhere it waits as programs do, for a lease that another process gives up, or a line's carrier.
fn open_at_once(named: &Named, how: OFlags) -> io::Result<OwnedFd> {
    let mode = if how.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
    if !named.is_resolved() {
        return named.open(how | OFlags::NOCTTY, mode);
    }
    let file = named.open(how | OFlags::NONBLOCK | OFlags::NOCTTY, mode)?;
    fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
    Ok(file)
}

/// Cuts what an in-place output had before; done once it is known not to be the input.
pub(crate) fn truncate(identity: Identity, place: &Output) -> io::Result<()> {
    if let (Output::InPlace { named, append: false, .. }, Some(identity)) = (place, identity) {
        let file = fs::File::from(named.open(OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?);
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) == identity {
            file.set_len(0)?;
        }
    }
    Ok(())
}

/// Opens a FIFO, which waits for the other side, on a thread that can be called back.
async fn open_fifo(named: &Named, access: OFlags, stop: &Stop) -> io::Result<OwnedFd> {
    let name = named.clone();
    let opening = tokio::task::spawn_blocking(move || name.open(access, Mode::empty()));
    let other_side = if access == OFlags::RDONLY { OFlags::RDWR } else { OFlags::RDONLY };
    let waiting = CalledBack(named.clone(), other_side);
    tokio::select! {
        opened = opening => {
            std::mem::forget(waiting);
            opened.map_err(io::Error::other)?
        }
        _ = stop.requested() => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Releases a thread that waits for a FIFO's other side, by being it for a moment.
struct CalledBack(Named, OFlags);

impl Drop for CalledBack {
    fn drop(&mut self) {
        // If this fails the FIFO is gone, and so is the wait.
        let _ = self.0.open(self.1 | OFlags::NONBLOCK, Mode::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_in_the_place_of_a_file_holds_up_nobody() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let around = fs::canonicalize(place.path()).unwrap();
        let root = super::super::Root::open(around.clone(), around).unwrap();
        let named = Named::below(&path, place.path(), [root].into_iter()).unwrap();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            // Nobody reads it, and nobody will.
            let to_write = open_in_place(&named, false).map_err(|error| error.raw_os_error());
            let _ = tell.send((to_write.err(), open_at_once(&named, OFlags::RDONLY)));
        });
        let (to_write, to_read) = told.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits");
        assert_eq!(to_write, Some(Some(libc::ENXIO)));
        assert!(!fcntl_getfl(to_read.unwrap()).unwrap().contains(OFlags::NONBLOCK), "its user waits as usual");
    }
}
