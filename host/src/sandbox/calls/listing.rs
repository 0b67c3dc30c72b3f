//! Listing granted directories a piece at a time.
//!
//! The stock host of WASI 0.2 reads a whole directory before it hands over the first entry, and keeps it as long as the guest keeps the
//! listing: memory of the host's by the size of the directory, for each listing. That of WASI 0.3 holds a thread for each
//! listing instead. Here a listing is an open directory, which keeps its place as the kernel does for every program, and the entries
//! of one piece. In WASI 0.2 it is a resource, which `open_files` bounds; in WASI 0.3 a stream, of which a guest has at most
//! [`AT_ONCE`](crate::sandbox::guest::listings::AT_ONCE). Preview1 has no listings that last, see [`super::preview1`].

use std::{
    collections::VecDeque,
    fs::File,
    io, iter,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat},
    io::Errno,
};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    task::coop::poll_proceed,
};
use wasmtime::{
    StoreContextMut,
    component::{
        Destination, FutureReader, Linker, Resource, ResourceType, StreamProducer, StreamReader, StreamResult,
        VecBuffer,
    },
};
use wasmtime_wasi::{
    WasiView,
    filesystem::Descriptor,
    p2::{ReaddirIterator, bindings::filesystem::types as fs2},
    p3::bindings::filesystem::types as fs3,
};

use crate::sandbox::guest::{Guest, denials::Denials};

/// What is read at once, in bytes as the kernel hands it over: about 200 entries.
const PIECE: usize = 8 << 10;

/// An entry of a directory. One whose name is not UTF-8 has no place in WASI: it is left out, and the report says so.
type Entry = (FileType, String);

/// What was read at once.
#[derive(Default)]
struct Piece {
    entries: VecDeque<Entry>,
    /// Whether a name was left out.
    left_out: bool,
    /// Whether nothing follows.
    is_last: bool,
}

/// A directory that a guest lists.
struct Listing {
    dir: Arc<File>,
    /// The directory, opened for this listing alone: it knows what was read of it.
    opened: OwnedFd,
}

impl Listing {
    /// Opens a directory for listing. Blocks as long as the file system does.
    fn open(dir: Arc<File>) -> rustix::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&dir, c".", flags, Mode::empty())?;
        Ok(Self { dir, opened })
    }

    /// Reads on, until there is something or the end. Blocks as long as the file system does.
    fn read(&self) -> rustix::io::Result<Piece> {
        let mut piece = Piece::default();
        let mut buffer = [MaybeUninit::uninit(); PIECE];
        let mut entries = RawDir::new(&self.opened, &mut buffer);
        loop {
            match entries.next() {
                // A directory that was removed has nothing in it.
                None | Some(Err(Errno::NOENT)) => return Ok(Piece { is_last: true, ..piece }),
                Some(Err(Errno::INTR)) => continue,
                Some(Err(error)) => return Err(error),
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if name != c"." && name != c".." {
                        let kind = match entry.file_type() {
                            // Not every file system says.
                            FileType::Unknown => statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
                                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                            kind => kind,
                        };
                        match name.to_str() {
                            Ok(name) => piece.entries.push_back((kind, name.to_owned())),
                            Err(_) => piece.left_out = true,
                        }
                    }
                }
            }
            if entries.is_buffer_empty() && !piece.entries.is_empty() {
                return Ok(piece);
            }
        }
    }
}

/// Puts our listings in the place of the stock ones. Shadowing must be allowed.
pub(crate) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    add_resources(components)?;
    components.instance("wasi:filesystem/types@0.3.0")?.func_wrap(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, Guest>, (dir,): (Resource<Descriptor>,)| {
            let guest = store.data_mut();
            let dir = match guest.wasi.ctx().table.get(&dir)? {
                Descriptor::Dir(dir) => Ok(dir.dir.clone()),
                Descriptor::File(_) => Err(fs3::ErrorCode::NotDirectory),
            };
            let turn = guest.granted.listings.0.clone().try_acquire_owned();
            let (told, result) = oneshot::channel();
            let stream = match (dir, turn) {
                (Ok(dir), Ok(turn)) => {
                    let next = Next::Open(dir);
                    let denials = guest.denials.clone();
                    StreamReader::new(&mut store, Streamed { next, told: Some(told), _turn: turn, denials })?
                }
                (dir, _) => {
                    let refused = dir.err().unwrap_or(fs3::ErrorCode::InsufficientMemory);
                    // The guest cannot have let go of the other end yet.
                    let _ = told.send(Err(refused));
                    StreamReader::new(&mut store, iter::empty())?
                }
            };
            Ok(((stream, FutureReader::new(&mut store, result)?),))
        },
    )
}

/// A listing of WASI 0.3. Nothing is read before the guest asks for it.
struct Streamed {
    next: Next,
    /// Where its end is told to; `None`: it was.
    told: Option<oneshot::Sender<Result<(), fs3::ErrorCode>>>,
    /// Comes back with the listing's end.
    _turn: OwnedSemaphorePermit,
    denials: Denials,
}

/// What is next.
enum Next {
    Open(Arc<File>),
    Read(Listing),
    /// Nothing: it was read to its end.
    End,
}

impl Streamed {
    fn end(&mut self, how: Result<(), fs3::ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(told) = self.told.take() {
            // Nobody may want to know.
            let _ = told.send(how);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // What the guest did not read is no error.
        let _ = self.end(Ok(()));
    }
}

impl<D: 'static> StreamProducer<D> for Streamed {
    type Item = fs3::DirectoryEntry;
    type Buffer = VecBuffer<fs3::DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if self.told.is_none() {
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        // Whether there is more is not known before it is read.
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let budget = match poll_proceed(cx) {
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            budget => ready!(budget),
        };
        budget.made_progress();
        let listing = match std::mem::replace(&mut self.next, Next::End) {
            Next::End => return self.end(Ok(())),
            Next::Open(dir) => Listing::open(dir),
            Next::Read(listing) => Ok(listing),
        };
        let (listing, piece) = match listing.and_then(|listing| listing.read().map(|piece| (listing, piece))) {
            Ok(read) => read,
            Err(error) => return self.end(Err(io::Error::from(error).into())),
        };
        if piece.left_out {
            self.denials.note_name_left_out();
        }
        self.next = if piece.is_last { Next::End } else { Next::Read(listing) };
        if piece.entries.is_empty() {
            return self.end(Ok(()));
        }
        let entries: Vec<_> = piece.entries.into_iter().map(entry3).collect();
        destination.set_buffer(entries.into());
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

fn entry3((kind, name): Entry) -> fs3::DirectoryEntry {
    use fs3::DescriptorType;
    let type_ = match kind {
        FileType::Directory => DescriptorType::Directory,
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        // As the stock host names them.
        _ => DescriptorType::Other(None),
    };
    fs3::DirectoryEntry { type_, name }
}

/// A listing of WASI 0.2.
struct OpenListing {
    listing: Listing,
    piece: VecDeque<Entry>,
    /// How it ended, once it has.
    over: Option<Result<(), fs2::ErrorCode>>,
}

fn add_resources(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut files = components.instance("wasi:filesystem/types@0.2.12")?;
    // For the component model a listing is of the stock kind; what stands for it in the table is ours.
    files.resource("directory-entry-stream", ResourceType::host::<ReaddirIterator>(), |mut store, listing| {
        store.data_mut().wasi.ctx().table.delete(Resource::<OpenListing>::new_own(listing))?;
        Ok(())
    })?;
    files.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, Guest>, (dir,): (Resource<Descriptor>,)| {
            Box::new(async move {
                let dir = match store.data_mut().wasi.ctx().table.get(&dir)? {
                    Descriptor::Dir(dir) => dir.dir.clone(),
                    Descriptor::File(_) => return Ok((Err(fs2::ErrorCode::NotDirectory),)),
                };
                let listing = match Listing::open(dir) {
                    Ok(listing) => OpenListing { listing, piece: VecDeque::new(), over: None },
                    Err(error) => return Ok((Err(io::Error::from(error).into()),)),
                };
                let listing = store.data_mut().wasi.ctx().table.push(listing)?;
                Ok((Ok(Resource::<ReaddirIterator>::new_own(listing.rep())),))
            })
        },
    )?;
    files.func_wrap_async(
        "[method]directory-entry-stream.read-directory-entry",
        |mut store: StoreContextMut<'_, Guest>, (listing,): (Resource<ReaddirIterator>,)| {
            Box::new(async move {
                let held = || Resource::<OpenListing>::new_borrow(listing.rep());
                loop {
                    let OpenListing { listing, piece, over } = store.data_mut().wasi.ctx().table.get_mut(&held())?;
                    if let Some(entry) = piece.pop_front() {
                        return Ok((Ok(Some(entry2(entry))),));
                    }
                    if let Some(over) = over {
                        // An error is told once.
                        return Ok((std::mem::replace(over, Ok(())).map(|()| None),));
                    }
                    let read = listing.read();
                    tokio::task::consume_budget().await;
                    if read.as_ref().is_ok_and(|read| read.left_out) {
                        store.data().denials.note_name_left_out();
                    }
                    let held = store.data_mut().wasi.ctx().table.get_mut(&held())?;
                    match read {
                        Ok(read) => {
                            held.piece = read.entries;
                            held.over = read.is_last.then_some(Ok(()));
                        }
                        Err(error) => held.over = Some(Err(io::Error::from(error).into())),
                    }
                }
            })
        },
    )
}

fn entry2((kind, name): Entry) -> fs2::DirectoryEntry {
    use fs2::DescriptorType;
    let type_ = match kind {
        FileType::Directory => DescriptorType::Directory,
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        // As the stock host names them.
        _ => DescriptorType::Unknown,
    };
    fs2::DirectoryEntry { type_, name }
}
