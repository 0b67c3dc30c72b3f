//! Reads and writes of preview1, of whatever size a program asks for, in pieces.
//!
//! The stock functions take one buffer of the guest's and make one copy of all of it, which a bound on that copy then refuses. C
//! programs read a file by its size and write a result in one call; many look at nothing but whether the call failed. So a call is
//! cut into pieces here, each of which the stock function moves from and to a small memory of its own: the host holds one piece,
//! and a call may be as large as the guest's memory. Whole calls are moved at files and in writing; a read of a stream returns what
//! is there.

use wasmtime_wasi::p1::{
    types,
    wasi_snapshot_preview1::{self as stock, WasiSnapshotPreview1},
};
use wiggle::{GuestMemory, GuestPtr};

use super::call::Call;
use crate::{joint::PERMIT, sandbox::guest::clock::yield_awake};

/// How much is moved at a time, in bytes.
const PIECE: usize = PERMIT;
/// The most buffers that one call uses; it moves no more than they hold. As on Linux.
const MOST_BUFFERS: usize = 1024;

/// The small memory that the stock function sees: one buffer's place and length, the result, and the buffer.
struct Piece(Vec<u8>);

impl Piece {
    const RESULT: i32 = 8;
    const START: usize = 16;

    /// A piece of that many bytes, at most [`PIECE`].
    fn new(length: usize) -> Self {
        let mut piece = Self(vec![0; Self::START + length]);
        piece.0[..4].copy_from_slice(&16_u32.to_le_bytes());
        piece.set_length(length);
        piece
    }

    fn set_length(&mut self, length: usize) {
        let length = u32::try_from(length).expect("a piece is small");
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[Self::START..]
    }

    /// How much was moved.
    fn moved(&self) -> usize {
        let bytes = [self.0[8], self.0[9], self.0[10], self.0[11]];
        (u32::from_le_bytes(bytes) as usize).min(self.0.len() - Self::START)
    }

    fn memory(&mut self) -> GuestMemory<'_> {
        GuestMemory::Unshared(&mut self.0)
    }
}

/// The buffers of one call, in the guest's memory, as far as they are not used up.
struct Buffers {
    left: std::collections::VecDeque<(u32, u32)>,
}

impl Buffers {
    /// Reads a call's list of buffers. All of them are in the guest's memory: one that is not is a trap, before anything has moved.
    fn of(call: &Call<'_>, list: i32, count: i32) -> wasmtime::Result<Result<Self, types::Errno>> {
        let list = GuestPtr::<types::Ciovec>::new(list.cast_unsigned()).as_array(count.cast_unsigned());
        if (list.len() as usize).saturating_mul(size_of::<[u32; 2]>()) > call.fuel {
            // As the stock function.
            return Ok(Err(types::Errno::Nomem));
        }
        let mut left = std::collections::VecDeque::new();
        for buffer in list.iter() {
            let buffer = call.memory.read(buffer?)?;
            if buffer.buf_len == 0 {
                continue;
            }
            if left.len() == MOST_BUFFERS {
                break;
            }
            call.memory.as_slice(buffer.buf.as_array(buffer.buf_len))?;
            left.push_back((buffer.buf.offset(), buffer.buf_len));
        }
        Ok(Ok(Self { left }))
    }

    /// How much the next piece moves, in bytes.
    fn next_length(&self) -> usize {
        let mut length = 0;
        for (_, buffer) in &self.left {
            length += *buffer as usize;
            if length >= PIECE {
                return PIECE;
            }
        }
        length
    }

    /// Goes through the guest's memory from where the last piece ended.
    fn advance(
        &mut self,
        mut bytes: usize,
        mut each: impl FnMut(GuestPtr<[u8]>, usize) -> wasmtime::Result<()>,
    ) -> wasmtime::Result<()> {
        let mut done = 0;
        while bytes > 0
            && let Some((at, length)) = self.left.pop_front()
        {
            let n = bytes.min(length as usize);
            let taken = u32::try_from(n).expect("no more than a buffer's length");
            each(GuestPtr::<u8>::new(at).as_array(taken), done)?;
            if taken < length {
                self.left.push_front((at + taken, length - taken));
            }
            done += n;
            bytes -= n;
        }
        Ok(())
    }
}

const SUCCESS: i32 = types::Errno::Success as i32;

/// `fd_write`, or with a place `fd_pwrite`: writes all that the call has, or what can be written before an error.
pub(super) async fn write(
    call: &mut Call<'_>,
    fd: i32,
    (list, count): (i32, i32),
    mut at: Option<i64>,
    result: i32,
) -> wasmtime::Result<i32> {
    let mut buffers = match Buffers::of(call, list, count)? {
        Ok(buffers) => buffers,
        Err(errno) => return Ok(errno as i32),
    };
    let mut written: u32 = 0;
    loop {
        let mut piece = Piece::new(buffers.next_length());
        let length = piece.bytes().len();
        // What was taken and is not written is not asked for again: the call ends with less.
        let memory = &call.memory;
        buffers.advance(length, |from, to| {
            let taken = from.len() as usize;
            if let Some(bytes) = memory.as_slice(from)? {
                piece.bytes()[to..to + taken].copy_from_slice(bytes);
            }
            Ok(())
        })?;
        let wasi = &mut call.guest.wasi;
        wasi.set_hostcall_fuel(call.fuel);
        let errno = match at {
            None => stock::fd_write(wasi, &mut piece.memory(), fd, 0, 1, Piece::RESULT).await?,
            Some(at) => stock::fd_pwrite(wasi, &mut piece.memory(), fd, 0, 1, at, Piece::RESULT).await?,
        };
        let moved = piece.moved();
        if errno != SUCCESS {
            if written > 0 {
                // The next call is told.
                break;
            }
            return Ok(call.broken_pipe_or(errno, fd).await);
        }
        written = written.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
        at = at.map(|at| at.saturating_add_unsigned(moved as u64));
        if moved < length || buffers.left.is_empty() {
            break;
        }
        tokio::task::consume_budget().await;
    }
    call.memory.write(GuestPtr::<u32>::new(result.cast_unsigned()), written)?;
    Ok(SUCCESS)
}

/// `fd_read`, or with a place `fd_pread`: reads all that the call has room for from a file, and what is there from a stream.
pub(super) async fn read(
    call: &mut Call<'_>,
    fd: i32,
    (list, count): (i32, i32),
    mut at: Option<i64>,
    result: i32,
) -> wasmtime::Result<i32> {
    let mut buffers = match Buffers::of(call, list, count)? {
        Ok(buffers) => buffers,
        Err(errno) => return Ok(errno as i32),
    };
    let mut is_file = None;
    let mut read: u32 = 0;
    let mut piece = Piece::new(buffers.next_length());
    loop {
        let length = buffers.next_length().min(piece.bytes().len());
        piece.set_length(length);
        let wasi = &mut call.guest.wasi;
        wasi.set_hostcall_fuel(call.fuel);
        let errno = match at {
            None => stock::fd_read(wasi, &mut piece.memory(), fd, 0, 1, Piece::RESULT).await?,
            Some(at) => stock::fd_pread(wasi, &mut piece.memory(), fd, 0, 1, at, Piece::RESULT).await?,
        };
        if errno != SUCCESS {
            if read > 0 {
                break;
            }
            return Ok(errno);
        }
        let moved = piece.moved();
        let memory = &mut call.memory;
        buffers.advance(moved, |to, from| {
            let bytes = &piece.bytes()[from..from + to.len() as usize];
            Ok(memory.copy_from_slice(bytes, to)?)
        })?;
        read = read.saturating_add(u32::try_from(moved).unwrap_or(u32::MAX));
        at = at.map(|at| at.saturating_add_unsigned(moved as u64));
        if moved == 0 || buffers.left.is_empty() {
            break;
        }
        let is_file = match is_file {
            Some(known) => known,
            None => *is_file.insert(call.is_file(fd).await),
        };
        if !is_file {
            break;
        }
        tokio::task::consume_budget().await;
    }
    call.memory.write(GuestPtr::<u32>::new(result.cast_unsigned()), read)?;
    Ok(SUCCESS)
}

/// `random_get`: as many as the guest's memory holds.
pub(super) async fn random(call: &mut Call<'_>, buffer: i32, length: i32) -> wasmtime::Result<i32> {
    let whole = GuestPtr::<u8>::new(buffer.cast_unsigned()).as_array(length.cast_unsigned());
    call.memory.as_slice(whole)?;
    let mut done = 0;
    while done < whole.len() {
        let n = (whole.len() - done).min(u32::try_from(PIECE).expect("a piece is small"));
        let mut piece = vec![0; n as usize];
        let numbers = call.guest.wasi.random_get(&mut GuestMemory::Unshared(&mut piece), GuestPtr::new(0), n);
        if let Err(error) = numbers {
            return Ok(error.downcast()? as i32);
        }
        let place = whole.get_range(done..done + n).expect("it is within");
        call.memory.copy_from_slice(&piece, place)?;
        done += n;
        if done % (1 << 20) == 0 {
            // Its time and the wish to stop are looked at between two polls.
            yield_awake().await;
        }
    }
    Ok(SUCCESS)
}

impl Call<'_> {
    /// Whether a descriptor is a regular file.
    async fn is_file(&mut self, fd: i32) -> bool {
        let known = self.guest.wasi.fd_fdstat_get(&mut self.memory, types::Fd::from(fd)).await;
        known.is_ok_and(|known| known.fs_filetype == types::Filetype::RegularFile)
    }

    /// The stock functions tell of a reader that left as of any failure.
    async fn broken_pipe_or(&mut self, errno: i32, fd: i32) -> i32 {
        let broken = self.guest.stdio.stdout.is_broken() || self.guest.stdio.stderr.is_broken();
        match errno == types::Errno::Io as i32 && broken && !self.is_file(fd).await {
            true => types::Errno::Pipe as i32,
            false => errno,
        }
    }
}
