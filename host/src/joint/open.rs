//! Opening the ends of a pipeline.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FileType, Mode, OFlags, SeekFrom, fstat, open, seek},
    io::fcntl_dupfd_cloexec,
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

use super::{
    AtomicFile, Sink, Source, Stop, atomic,
    descriptor::{DescriptorSink, DescriptorSource},
    file::{FileSink, FileSource, retry},
};

/// What the first stage reads, opened.
#[derive(Debug)]
pub(crate) struct StdinEnd {
    pub(crate) source: Source,
    /// The inherited regular file whose offset is set to the first byte not consumed when the run is over.
    pub(crate) rewind: Option<OwnedFd>,
    /// Device and inode of a regular file, to find out whether the output is the same one.
    identity: Option<(u64, u64)>,
}

/// What takes the last stage's output, opened.
#[derive(Debug)]
pub(crate) struct StdoutEnd {
    pub(crate) sink: Sink,
    pub(crate) atomic: Option<AtomicFile>,
    identity: Option<(u64, u64)>,
}

impl StdinEnd {
    /// An input that is no file.
    pub(crate) fn plain(source: Source) -> Self {
        Self { source, rewind: None, identity: None }
    }
}

impl StdoutEnd {
    /// An output that is no file.
    pub(crate) fn plain(sink: Sink) -> Self {
        Self { sink, atomic: None, identity: None }
    }
}

/// Whether the output would overwrite the input while it is read.
pub(crate) fn same_file(stdin: &StdinEnd, stdout: &StdoutEnd) -> bool {
    stdin.identity.is_some() && stdin.identity == stdout.identity
}

/// The lowest descriptor that a copy of an inherited one gets: above the standard streams.
const ABOVE_STDIO: i32 = 3;

/// Opens the host's standard input (`None`) or a file for reading. FIFOs are opened without waiting for a writer; the
/// first read waits for one.
///
/// # Errors
///
/// What the system says.
pub(crate) fn open_stdin(path: Option<&Path>, line_at_a_time: bool) -> io::Result<StdinEnd> {
    let Some(path) = path else {
        let file = fcntl_dupfd_cloexec(io::stdin(), ABOVE_STDIO)?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let position = seek(&file, SeekFrom::Current(0))?;
            let rewind = file.try_clone()?;
            return Ok(StdinEnd {
                source: Source::File(FileSource::new(file, position, line_at_a_time)),
                rewind: Some(rewind),
                identity: Some((stat.st_dev, stat.st_ino)),
            });
        }
        return Ok(StdinEnd {
            source: Source::Descriptor(DescriptorSource::inherited(file)),
            rewind: None,
            identity: None,
        });
    };
    let file =
        retry(|| open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()))?;
    let stat = fstat(&file)?;
    let (source, identity) = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            (Source::File(FileSource::new(file, 0, line_at_a_time)), Some((stat.st_dev, stat.st_ino)))
        }
        FileType::Directory => return Err(io::Error::from(io::ErrorKind::IsADirectory)),
        // Devices such as /dev/zero cannot be watched; a FIFO can.
        FileType::Fifo => (Source::Descriptor(DescriptorSource::owned(file)?), None),
        _ => (Source::Descriptor(DescriptorSource::inherited(file)), None),
    };
    Ok(StdinEnd { source, rewind: None, identity })
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
    InPlace { path: PathBuf, append: bool, fifo: bool },
}

impl Output {
    /// Decides how `path` is written. Opens nothing.
    ///
    /// # Errors
    ///
    /// A message for people, when an atomic output is impossible there.
    pub(crate) fn of(path: &Path, append: bool, atomic: Option<bool>) -> Result<Self, String> {
        if path == Path::new("/dev/stdout") {
            return Ok(Self::Inherit);
        }
        let descriptor = ["/dev/fd", "/proc/self/fd"].iter().find_map(|around| path.strip_prefix(around).ok());
        if path == Path::new("/dev/stderr") {
            return Ok(Self::Descriptor(2));
        }
        if let Some(number) = descriptor.and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) {
            return Ok(Self::Descriptor(number));
        }
        // A descriptor of another process: whatever it is, its file is not replaced.
        let foreign = path.starts_with("/proc") && path.parent().is_some_and(|around| around.ends_with("fd"));
        let append = append || foreign;
        let metadata = fs::metadata(path);
        let special = metadata.as_ref().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        let fifo = metadata.as_ref().is_ok_and(|metadata| metadata.file_type().is_fifo());
        if metadata.as_ref().is_ok_and(fs::Metadata::is_dir) {
            return Err("it is a directory".into());
        }
        if special || append || atomic == Some(false) {
            return Ok(Self::InPlace { path: path.to_owned(), append, fifo });
        }
        atomic::target(path).map(Self::Atomic)
    }
}

/// Opens an output.
///
/// # Errors
///
/// What the system says, or that the run was stopped while a FIFO waited for its reader.
///
/// # Cancel safety
///
/// A file that was opened is closed; an atomic one leaves nothing.
pub(crate) async fn open_stdout(place: &Output, stop: &Stop) -> io::Result<StdoutEnd> {
    match place {
        Output::Inherit => inherited(io::stdout().as_fd()),
        Output::Descriptor(number) => inherited_descriptor(u32::try_from(*number).unwrap_or(u32::MAX)).map(sink_for),
        Output::Atomic(target) => {
            let atomic = AtomicFile::create(target.clone())?;
            let sink = Sink::File(FileSink::new(atomic.file(), false));
            Ok(StdoutEnd { sink, atomic: Some(atomic), identity: None })
        }
        Output::InPlace { path, append, fifo } => {
            let file = if *fifo { open_fifo(path, stop).await? } else { open_in_place(path, *append)? };
            Ok(sink_for(file))
        }
    }
}

/// Opens a file that a stage's standard error is appended to.
///
/// # Errors
///
/// What the system says, or that the run was stopped while a FIFO waited for its reader.
pub(crate) async fn open_log(path: &Path, stop: &Stop) -> io::Result<Sink> {
    let place = Output::of(path, true, Some(false)).map_err(io::Error::other)?;
    open_stdout(&place, stop).await.map(|end| end.sink)
}

/// A copy of one of the process's own descriptors, by its number: it shares the offset with the original.
///
/// # Errors
///
/// What the system says; `EBADF` when there is none of that number.
pub fn inherited_descriptor(number: u32) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(|_| rustix::io::Errno::BADF)?;
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(&ourselves, number, PidfdGetfdFlags::empty())?)
}

/// The host's own standard error, as a sink.
pub(crate) fn open_stderr() -> io::Result<Sink> {
    inherited(io::stderr().as_fd()).map(|end| end.sink)
}

fn inherited(file: BorrowedFd<'_>) -> io::Result<StdoutEnd> {
    Ok(sink_for(fcntl_dupfd_cloexec(file, ABOVE_STDIO)?))
}

fn sink_for(file: OwnedFd) -> StdoutEnd {
    let stat = fstat(&file).ok();
    let kind = stat.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode));
    let regular = kind == Some(FileType::RegularFile);
    let identity = stat.filter(|_| regular).map(|stat| (stat.st_dev, stat.st_ino));
    let watched = if kind == Some(FileType::Fifo) { DescriptorSink::inherited(&file) } else { None };
    let sink = match watched {
        Some(pipe) => Sink::Descriptor(pipe),
        None => Sink::File(FileSink::new(Arc::new(file), !regular)),
    };
    StdoutEnd { sink, atomic: None, identity }
}

fn open_in_place(path: &Path, append: bool) -> io::Result<OwnedFd> {
    let how = if append { OFlags::APPEND } else { OFlags::empty() };
    let file = retry(|| {
        open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::NOCTTY | OFlags::CLOEXEC | how, Mode::from_raw_mode(0o666))
    })?;
    Ok(file)
}

/// Cuts what an in-place output had before; done once it is known not to be the input.
pub(crate) fn truncate(end: &StdoutEnd, place: &Output) -> io::Result<()> {
    if let (Output::InPlace { path, append: false, .. }, Some(identity)) = (place, end.identity) {
        let file = fs::OpenOptions::new().write(true).open(path)?;
        let metadata = file.metadata()?;
        if (metadata.dev(), metadata.ino()) == identity {
            file.set_len(0)?;
        }
    }
    Ok(())
}

/// Opens a FIFO for writing, which waits for a reader, on a thread that can be called back.
async fn open_fifo(path: &Path, stop: &Stop) -> io::Result<OwnedFd> {
    let name = path.to_owned();
    let opening =
        tokio::task::spawn_blocking(move || retry(|| open(&name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())));
    let waiting = CalledBack(path.to_owned());
    tokio::select! {
        opened = opening => {
            std::mem::forget(waiting);
            opened.map_err(io::Error::other)?
        }
        _ = stop.requested() => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Releases a thread that waits for a FIFO's reader, by being one for a moment.
struct CalledBack(PathBuf);

impl Drop for CalledBack {
    fn drop(&mut self) {
        // If this fails the FIFO is gone, and so is the wait.
        let _ = open(&self.0, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    }
}
