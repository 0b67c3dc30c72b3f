//! Opening the ends of a pipeline.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{FileType, MemfdFlags, Mode, OFlags, SeekFrom, fcntl_getfl, fcntl_setfl, fstat, memfd_create, open, seek},
    io::fcntl_dupfd_cloexec,
    pipe::{PipeFlags, SpliceFlags, pipe_with, tee},
};

use super::{
    AtomicFile, Named, Sink, Source, Stop, atomic,
    descriptor::{DescriptorSink, DescriptorSource, inherited_descriptor},
    file::{FileSink, FileSource},
    system::{ABOVE_STDIO, is_of_processes, retry},
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
    /// The file that is written, or the directory that it will appear in, if it has a name.
    pub(crate) fn file(&self) -> Option<&Named> {
        match self {
            Self::Inherit | Self::Descriptor(_) => None,
            Self::Atomic(target) => Some(target.directory()),
            Self::InPlace { named, .. } => Some(named),
        }
    }

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
        let leads_to = if named.is_resolved() { None } else { atomic::resolve(path).ok() };
        if let Some(stream) = Self::stream(path).or_else(|| Self::stream(leads_to.as_ref()?)) {
            return Ok(stream);
        }
        // A descriptor of another process: whatever it is, its file is not replaced.
        let foreign = leads_to.is_some_and(|path| {
            fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink())
                && path.parent().is_some_and(is_of_processes)
        });
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

/// Opens a FIFO once it has its other side. No thread waits for that in a call that nobody could end. What came into its place meanwhile
/// is opened as it is.
async fn open_fifo(named: &Named, access: OFlags, stop: &Stop) -> io::Result<OwnedFd> {
    tokio::select! {
        opened = open_patiently(named, access) => opened,
        _ = stop.requested() => Err(io::ErrorKind::Interrupted.into()),
    }
}

async fn open_patiently(named: &Named, access: OFlags) -> io::Result<OwnedFd> {
    const MOST: Duration = Duration::from_millis(20);
    let mut pause = Duration::from_millis(1);
    let opened = loop {
        match named.open(access | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
            // Nobody reads it yet. A socket would say the same for ever.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) && named.metadata()?.file_type().is_fifo() => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MOST);
            }
            opened => break opened?,
        }
    };
    if access == OFlags::RDONLY && FileType::from_raw_mode(fstat(&opened)?.st_mode) == FileType::Fifo {
        let receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(opened)?;
        // Where bytes would be copied to without being taken: how that is refused tells whether there is a writer.
        let (_read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        while matches!(tee(&receiver, &write, 1, SpliceFlags::NONBLOCK), Ok(0)) {
            // One that came and went is seen by what it left, if only an end.
            if tokio::time::timeout(pause, receiver.readable()).await.is_ok() {
                break;
            }
            pause = (pause * 2).min(MOST);
        }
        return receiver.into_blocking_fd();
    }
    fcntl_setfl(&opened, fcntl_getfl(&opened)?.difference(OFlags::NONBLOCK))?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, os::unix::fs::PermissionsExt, task::Poll};

    use rustix::fs::{CWD, mknodat};

    use super::{super::StopReason, *};

    #[test]
    fn a_fifo_in_the_place_of_a_file_holds_up_nobody() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let around = fs::canonicalize(place.path()).unwrap();
        let root = super::super::Root::open(around.clone(), vec![around]).unwrap();
        let base = super::super::Base::new("", None);
        let named = base.below(&path, [root].into_iter()).unwrap();
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

    /// Runs something on a runtime that is over only when no thread of it waits any more.
    fn run_out<T>(doing: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(doing);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            drop(runtime);
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_secs(20)).expect("a thread waits for good");
        done
    }

    #[test]
    fn who_waits_for_a_fifo_can_be_stopped_whatever_became_of_it() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fifo");
        for (access, becomes) in [(OFlags::RDONLY, "moved"), (OFlags::RDONLY, "gone"), (OFlags::WRONLY, "unreadable")] {
            mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
            let stop = Stop::default();
            let opened = run_out(async {
                let named = Named::anywhere(&path);
                let mut opening = std::pin::pin!(open_fifo(&named, access, &stop));
                let mut is_pending =
                    async || poll_fn(|context| Poll::Ready(opening.as_mut().poll(context).is_pending())).await;
                assert!(is_pending().await, "it waits");
                match becomes {
                    "moved" => fs::rename(&path, place.path().join(becomes)).unwrap(),
                    "gone" => fs::remove_file(&path).unwrap(),
                    _ => fs::set_permissions(&path, fs::Permissions::from_mode(0o200)).unwrap(),
                }
                assert!(is_pending().await, "it waits on");
                stop.request(StopReason::Caller);
                opening.await
            });
            assert_eq!(opened.unwrap_err().kind(), io::ErrorKind::Interrupted);
        }
    }

    #[test]
    fn a_fifo_is_opened_once_it_has_its_other_side() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        run_out(async {
            let named = Named::anywhere(&path);
            // It is there as soon as a writer is, and not only when that writes.
            let (reader, writer) =
                tokio::join!(open_patiently(&named, OFlags::RDONLY), open_patiently(&named, OFlags::WRONLY));
            let (reader, writer) = (reader.unwrap(), writer.unwrap());
            rustix::io::write(&writer, b"x").unwrap();
            for end in [&reader, &writer] {
                assert!(!fcntl_getfl(end).unwrap().contains(OFlags::NONBLOCK), "its user waits as usual");
            }
            let mut bytes = [0; 2];
            assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(1));
            // What came into its place is no reason to wait.
            fs::remove_file(&path).unwrap();
            let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
            assert!(open_patiently(&named, OFlags::WRONLY).await.is_err());
            drop(socket);
            fs::remove_file(&path).unwrap();
            fs::write(&path, "x").unwrap();
            assert!(open_patiently(&named, OFlags::RDONLY).await.is_ok());
        });
    }
}
