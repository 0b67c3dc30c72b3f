//! Listing granted directories a piece at a time.
//!
//! The stock host reads a whole directory before it hands over the first entry, and keeps it as long as the guest keeps the
//! listing: memory of the host's by the size of the directory, for each listing. Here a listing keeps one piece, and the
//! position of the next as the kernel counts it, which holds when the directory is opened anew; so it costs no descriptor either.
//! WASI 0.3 has streams, which the stock host fills as they are read. Preview1's listings are not kept, see [`super::preview1`].

use std::{collections::VecDeque, fs::File, io, mem::MaybeUninit, sync::Arc};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, openat, seek, statat};
use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    WasiView,
    filesystem::Descriptor,
    p2::{
        ReaddirIterator,
        bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode},
    },
};

use super::store::Guest;

/// What is read at once, in bytes as the kernel hands it over: about 200 entries.
const PIECE: usize = 8 << 10;

type Entries = VecDeque<Result<DirectoryEntry, ErrorCode>>;

/// A directory that a guest lists.
struct Listing {
    dir: Arc<File>,
    piece: Entries,
    /// Where the next piece starts; `None`: there is none.
    next: Option<u64>,
}

impl Listing {
    async fn open(dir: Arc<File>) -> Result<Self, ErrorCode> {
        let (piece, next) = read(dir.clone(), 0).await?;
        Ok(Self { dir, piece, next })
    }
}

/// Puts our listing in the place of the stock one. Shadowing must be allowed.
pub(super) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut files = components.instance("wasi:filesystem/types@0.2.12")?;
    // For the component model a listing is of the stock kind; what stands for it in the table is ours.
    files.resource("directory-entry-stream", ResourceType::host::<ReaddirIterator>(), |mut store, listing| {
        store.data_mut().wasi.ctx().table.delete(Resource::<Listing>::new_own(listing))?;
        Ok(())
    })?;
    files.func_wrap_async(
        "[method]descriptor.read-directory",
        |mut store: StoreContextMut<'_, Guest>, (dir,): (Resource<Descriptor>,)| {
            Box::new(async move {
                let dir = match store.data_mut().wasi.ctx().table.get(&dir)? {
                    Descriptor::Dir(dir) => dir.dir.clone(),
                    Descriptor::File(_) => return Ok((Err(ErrorCode::NotDirectory),)),
                };
                let listing = match Listing::open(dir).await {
                    Ok(listing) => listing,
                    Err(error) => return Ok((Err(error),)),
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
                let of_ours = || Resource::<Listing>::new_borrow(listing.rep());
                loop {
                    let listing = store.data_mut().wasi.ctx().table.get_mut(&of_ours())?;
                    if let Some(entry) = listing.piece.pop_front() {
                        return Ok((entry.map(Some),));
                    }
                    let Some(from) = listing.next.take() else { return Ok((Ok(None),)) };
                    let (piece, next) = match read(listing.dir.clone(), from).await {
                        Ok(read) => read,
                        Err(error) => return Ok((Err(error),)),
                    };
                    let listing = store.data_mut().wasi.ctx().table.get_mut(&of_ours())?;
                    (listing.piece, listing.next) = (piece, next);
                }
            })
        },
    )
}

/// Reads a piece of a directory, and returns where the next one starts.
async fn read(dir: Arc<File>, from: u64) -> Result<(Entries, Option<u64>), ErrorCode> {
    let read = tokio::task::spawn_blocking(move || read_piece(&dir, from)).await;
    read.map_err(io::Error::other)?.map_err(|error| io::Error::from(error).into())
}

fn read_piece(dir: &File, from: u64) -> rustix::io::Result<(Entries, Option<u64>)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(dir, c".", flags, Mode::empty())?;
    if from > 0 {
        seek(&opened, SeekFrom::Start(from))?;
    }
    let mut buffer = [MaybeUninit::uninit(); PIECE];
    let mut entries = RawDir::new(&opened, &mut buffer);
    let mut piece = Entries::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let next = entry.next_entry_cookie();
        let name = entry.file_name();
        if name != c"." && name != c".." {
            piece.push_back(match name.to_str() {
                Ok(text) => {
                    let kind = match entry.file_type() {
                        // Not every file system says.
                        FileType::Unknown => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                            .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                        kind => kind,
                    };
                    Ok(DirectoryEntry { type_: type_of(kind), name: text.to_owned() })
                }
                Err(_) => Err(ErrorCode::IllegalByteSequence),
            });
        }
        if entries.is_buffer_empty() && !piece.is_empty() {
            return Ok((piece, Some(next)));
        }
    }
    Ok((piece, None))
}

/// As the stock host names the types of files.
fn type_of(kind: FileType) -> DescriptorType {
    match kind {
        FileType::Directory => DescriptorType::Directory,
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        _ => DescriptorType::Unknown,
    }
}
