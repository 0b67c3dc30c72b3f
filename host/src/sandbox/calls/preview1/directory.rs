//! `fd_readdir`: a directory from the place that the guest names.
//!
//! The stock function reads the whole directory for every call, looks at each entry, and gives up at a name that is not UTF-8.
//! Here a call reads on where the last one ended, by the kernel's own marks, and holds one piece.

use std::{
    collections::VecDeque,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    mem::MaybeUninit,
    os::unix::fs::MetadataExt,
    sync::Arc,
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

use super::call::Call;
use crate::sandbox::guest::listings::Place;

/// What the kernel hands over at once, in bytes.
const PIECE: usize = 8 << 10;
/// What is handed to the guest at once, in bytes. A call that returns less than there is room for says that nothing follows.
const MOST: usize = 64 << 10;
/// What an entry has before its name, in bytes.
const HEAD: usize = 24;

/// Fills the guest's buffer with the entries behind `cookie`: 0, or the mark of an entry that it was given.
pub(super) async fn list(
    call: &mut Call<'_>,
    dir: i32,
    (buffer, length): (i32, i32),
    cookie: i64,
    used: i32,
) -> wasmtime::Result<i32> {
    let known = match call.guest.wasi.fd_filestat_get(&mut call.memory, types::Fd::from(dir)).await {
        Ok(known) if known.filetype == types::Filetype::Directory => known,
        Ok(_) => return Ok(types::Errno::Badf as i32),
        Err(error) => return Ok(error.downcast()? as i32),
    };
    let place = GuestPtr::<u8>::new(buffer.cast_unsigned()).as_array(length.cast_unsigned());
    call.memory.as_slice(place)?;
    // The stock functions keep to themselves which descriptor is which directory; what it is in the file system says it too.
    let table = call.guest.wasi.ctx().table;
    let dirs: Vec<Arc<File>> = table
        .iter_mut()
        .filter_map(|entry| match entry.downcast_ref::<Descriptor>() {
            Some(Descriptor::Dir(dir)) => Some(dir.dir.clone()),
            _ => None,
        })
        .collect();
    let mut filled = 0;
    let mut last = call.guest.granted.listed.take();
    let mut found = false;
    while filled < place.len() {
        let kept = last.take();
        let room = (place.len() - filled) as usize;
        let at = match kept {
            Some(place) if found => Ok(place),
            kept => Place::at(kept, &dirs, known.ino, cookie.cast_unsigned()),
        };
        let listed = at.and_then(|mut place| place.read(room).map(|(bytes, left_out)| (place, bytes, left_out)));
        tokio::task::consume_budget().await;
        let (kept, bytes, left_out) = match listed {
            Ok(listed) => listed,
            Err(Errno::BADF) => return Ok(types::Errno::Badf as i32),
            Err(Errno::INVAL) => return Ok(types::Errno::Inval as i32),
            Err(Errno::ACCESS) => return Ok(types::Errno::Acces as i32),
            Err(_) => return Ok(types::Errno::Io as i32),
        };
        (last, found) = (Some(kept), true);
        if left_out {
            call.guest.denials.note_name_left_out();
        }
        if bytes.is_empty() {
            break;
        }
        let end = filled + u32::try_from(bytes.len()).expect("no more than the guest's buffer");
        let piece = place.get_range(filled..end).expect("no more than the guest's buffer");
        call.memory.copy_from_slice(&bytes, piece)?;
        filled = end;
    }
    call.guest.granted.listed = last;
    call.memory.write(GuestPtr::<u32>::new(used.cast_unsigned()), filled)?;
    Ok(types::Errno::Success as i32)
}

/// An inode number as the stock functions make it of a file.
fn identity(device: u64, inode: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (device, inode).hash(&mut hasher);
    hasher.finish()
}

impl Place {
    /// The place behind `cookie`: where the last call ended, if that is it.
    fn at(last: Option<Self>, dirs: &[Arc<File>], inode: u64, cookie: u64) -> rustix::io::Result<Self> {
        if let Some(mut last) = last.filter(|last| last.inode == inode && cookie != 0) {
            if let Some(at) = last.pending.iter().position(|(mark, _)| *mark == cookie) {
                last.pending.drain(..at);
                return Ok(last);
            }
            if last.next == cookie {
                last.pending.clear();
                return Ok(last);
            }
        }
        let is_it = |dir: &&Arc<File>| dir.metadata().is_ok_and(|it| identity(it.dev(), it.ino()) == inode);
        let dir = dirs.iter().find(is_it).ok_or(Errno::BADF)?;
        let opened = openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if cookie != 0 {
            seek(&opened, SeekFrom::Start(cookie))?;
        }
        let own = rustix::fs::fstat(&opened)?;
        Ok(Self { inode, opened, pending: VecDeque::new(), next: cookie, own: (own.st_dev, own.st_ino) })
    }

    /// Takes entries until there is no room or no entry left; the last one may be cut, and is then asked for again. Says whether a name
    /// was left out that is not UTF-8: preview1 has no place for it. Blocks as long as the file system does.
    fn read(&mut self, room: usize) -> rustix::io::Result<(Vec<u8>, bool)> {
        let (mut bytes, mut left_out, mut ended) = (Vec::new(), false, false);
        while bytes.len() < room.min(MOST) {
            let Some((mark, entry)) = self.pending.pop_front() else {
                if ended {
                    break;
                }
                ended = self.fill(&mut left_out)?;
                continue;
            };
            bytes.extend_from_slice(&entry);
            if bytes.len() > room {
                self.pending.push_front((mark, entry));
            }
        }
        bytes.truncate(room);
        Ok((bytes, left_out))
    }

    /// Reads what the kernel hands over at once. `true`: nothing follows.
    fn fill(&mut self, left_out: &mut bool) -> rustix::io::Result<bool> {
        let (device, own) = self.own;
        let mut buffer = [MaybeUninit::uninit(); PIECE];
        let mut entries = RawDir::new(&self.opened, &mut buffer);
        loop {
            let entry = match entries.next() {
                // A directory that was removed has nothing in it.
                None | Some(Err(Errno::NOENT)) => return Ok(true),
                Some(Err(Errno::INTR)) => continue,
                Some(Err(error)) => return Err(error),
                Some(Ok(entry)) => entry,
            };
            let (name, mark) = (entry.file_name(), std::mem::replace(&mut self.next, entry.next_entry_cookie()));
            if name.to_str().is_ok() {
                let kind = match entry.file_type() {
                    // Not every file system says.
                    FileType::Unknown => statat(&self.opened, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
                    kind => kind,
                };
                // What is above is nobody's business here.
                let inode = if name == c".." { own } else { entry.ino() };
                let name = name.to_bytes();
                let mut bytes = vec![0; HEAD];
                bytes[..8].copy_from_slice(&self.next.to_le_bytes());
                bytes[8..16].copy_from_slice(&identity(device, inode).to_le_bytes());
                bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
                bytes[20] = file_type(kind) as u8;
                bytes.extend_from_slice(name);
                self.pending.push_back((mark, bytes));
            } else {
                *left_out = true;
            }
            if entries.is_buffer_empty() {
                return Ok(false);
            }
        }
    }
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
