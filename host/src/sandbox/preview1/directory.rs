//! `fd_readdir`: a directory from the place that the guest names.
//!
//! The stock function reads the whole directory for every call, looks at each entry, and gives up at a name that is not UTF-8.
//! Here a call reads on where the last one ended, by the kernel's own marks, and holds one piece.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    mem::MaybeUninit,
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, openat, seek, statat},
    io::Errno,
};
use wasmtime_wasi::{
    WasiView,
    filesystem::Descriptor,
    p1::{types, wasi_snapshot_preview1::WasiSnapshotPreview1},
};
use wiggle::GuestPtr;

use super::Call;
use crate::sandbox::meter::thread_time;

/// What the kernel hands over at once, in bytes.
const PIECE: usize = 8 << 10;
/// The most that one call returns, in bytes. The guest asks again.
const MOST: usize = 64 << 10;
/// What an entry has before its name, in bytes.
const HEAD: usize = 24;

/// Fills the guest's buffer with the entries behind `cookie`: 0, or the mark of an entry that it was given.
pub(super) async fn list(call: &mut Call<'_>, dir: i32, (buffer, length): (i32, i32), cookie: i64, used: i32) -> wasmtime::Result<i32> {
    let known = match call.guest.wasi.fd_filestat_get(&mut call.memory, types::Fd::from(dir)).await {
        Ok(known) if known.filetype == types::Filetype::Directory => known,
        Ok(_) => return Ok(types::Errno::Badf as i32),
        Err(error) => return Ok(error.downcast()? as i32),
    };
    let place = GuestPtr::<u8>::new(buffer.cast_unsigned()).as_array(length.cast_unsigned());
    call.memory.as_slice(place)?;
    let room = (place.len() as usize).min(MOST);
    // The stock functions keep to themselves which descriptor is which directory; what it is in the file system says it too.
    let table = call.guest.wasi.ctx().table;
    let dirs: Vec<Arc<File>> = table
        .iter_mut()
        .filter_map(|entry| match entry.downcast_ref::<Descriptor>() {
            Some(Descriptor::Dir(dir)) => Some(dir.dir.clone()),
            _ => None,
        })
        .collect();
    let listing = tokio::task::spawn_blocking(move || {
        let began = thread_time();
        let dir = dirs.into_iter().find(|dir| dir.metadata().is_ok_and(|it| identity(it.dev(), it.ino()) == known.ino));
        let read = dir.ok_or(Errno::BADF).and_then(|dir| read(&dir, cookie.cast_unsigned(), room));
        (read, thread_time().saturating_sub(began))
    });
    let (read, took): (rustix::io::Result<Listed>, Duration) = listing.await.map_err(io::Error::other)?;
    call.guest.usage.meter.add(took);
    let listed = match read {
        Ok(listed) => listed,
        Err(Errno::BADF) => return Ok(types::Errno::Badf as i32),
        Err(Errno::INVAL) => return Ok(types::Errno::Inval as i32),
        Err(Errno::ACCESS) => return Ok(types::Errno::Acces as i32),
        Err(_) => return Ok(types::Errno::Io as i32),
    };
    if listed.left_out {
        call.guest.denials.note_name_left_out();
    }
    let filled = u32::try_from(listed.bytes.len()).expect("no more than the guest's buffer");
    let place = place.get_range(0..filled).expect("no more than the guest's buffer");
    call.memory.copy_from_slice(&listed.bytes, place)?;
    call.memory.write(GuestPtr::<u32>::new(used.cast_unsigned()), filled)?;
    Ok(types::Errno::Success as i32)
}

/// An inode number as the stock functions make it of a file.
fn identity(device: u64, inode: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (device, inode).hash(&mut hasher);
    hasher.finish()
}

#[derive(Default)]
struct Listed {
    bytes: Vec<u8>,
    /// Whether a name was left out that is not UTF-8: preview1 has no place for it.
    left_out: bool,
}

/// Reads entries until there is no room or no entry left; the last one may be cut. Blocks as long as the file system does.
fn read(dir: &File, cookie: u64, room: usize) -> rustix::io::Result<Listed> {
    let opened = openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if cookie != 0 {
        seek(&opened, SeekFrom::Start(cookie))?;
    }
    let own = rustix::fs::fstat(dir)?;
    let mut listed = Listed::default();
    let mut buffer = [MaybeUninit::uninit(); PIECE];
    let mut entries = RawDir::new(&opened, &mut buffer);
    while listed.bytes.len() < room {
        let entry = match entries.next() {
            // A directory that was removed has nothing in it.
            None | Some(Err(Errno::NOENT)) => break,
            Some(Err(Errno::INTR)) => continue,
            Some(Err(error)) => return Err(error),
            Some(Ok(entry)) => entry,
        };
        let name = entry.file_name();
        if name.to_str().is_err() {
            listed.left_out = true;
            continue;
        }
        let kind = match entry.file_type() {
            // Not every file system says.
            FileType::Unknown => statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            kind => kind,
        };
        // What is above is nobody's business here.
        let inode = if name == c".." { own.st_ino } else { entry.ino() };
        let name = name.to_bytes();
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&entry.next_entry_cookie().to_le_bytes());
        head[8..16].copy_from_slice(&identity(own.st_dev, inode).to_le_bytes());
        head[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[20] = file_type(kind) as u8;
        listed.bytes.extend_from_slice(&head);
        listed.bytes.extend_from_slice(name);
    }
    listed.bytes.truncate(room);
    Ok(listed)
}

fn file_type(kind: FileType) -> types::Filetype {
    match kind {
        FileType::Directory => types::Filetype::Directory,
        FileType::RegularFile => types::Filetype::RegularFile,
        FileType::Symlink => types::Filetype::SymbolicLink,
        FileType::BlockDevice => types::Filetype::BlockDevice,
        FileType::CharacterDevice => types::Filetype::CharacterDevice,
        FileType::Socket => types::Filetype::SocketStream,
        // As the stock host names them.
        _ => types::Filetype::Unknown,
    }
}
