//! Streams from and to files of granted directories.
//!
//! The stock ones of WASI 0.2 wait for disks on threads of their own, whose time nobody counts to the guest; those of WASI 0.3 would,
//! where a file is copied to a file, go on for ever within one poll. Ours read and write where they are polled, which is a thread
//! that may wait (see [`metered_apart`](crate::sandbox::guest::meter::metered_apart)), and take a unit of the runtime's budget for each piece.

use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    os::unix::fs::FileExt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, ReadWriteFlags, pwritev2},
};
use tokio::{sync::oneshot, task::coop::poll_proceed};
use wasmtime::{
    StoreContextMut,
    component::{
        Destination, FutureReader, Linker, Resource, Source, StreamConsumer, StreamProducer, StreamReader, StreamResult,
    },
};
use wasmtime_wasi::{
    WasiView, async_trait,
    filesystem::Descriptor,
    p2::{
        DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError,
        bindings::filesystem::types as fs2,
    },
    p3::bindings::filesystem::types as fs3,
};

use crate::sandbox::guest::Guest;

/// How much is moved at a time for WASI 0.2, as in the stock host, and for WASI 0.3, in bytes.
const PIECE: usize = 64 << 10;
const PIECE3: usize = 256 << 10;

/// Where the next byte goes.
#[derive(Clone, Copy, Debug)]
enum Place {
    At(u64),
    End,
}

/// A file and where a stream is in it.
struct Open {
    file: Arc<File>,
    place: Place,
    /// Whether it ended or failed.
    over: bool,
}

impl Open {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Place::At(at) = self.place else { return Ok(0) };
        let read = loop {
            match self.file.read_at(into, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.over = !matches!(read, Ok(1..)) && !into.is_empty();
        let n = read?;
        self.place = Place::At(at.checked_add(n as u64).ok_or(io::ErrorKind::InvalidInput)?);
        Ok(n)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = loop {
            let written = match self.place {
                Place::At(at) => self.file.write_at(bytes, at),
                Place::End => append(&self.file, bytes),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        self.over = written.is_err();
        let n = written?;
        if let Place::At(at) = &mut self.place {
            *at = at.checked_add(n as u64).ok_or(io::ErrorKind::InvalidInput)?;
        }
        Ok(n)
    }
}

/// Writes at a file's end, wherever that is.
fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    match pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
        // File systems that do not know it. The descriptor is the guest's alone, and the guest waits for this.
        Err(Errno::NOSYS | Errno::NOTSUP) => {
            let flags = fcntl_getfl(file)?;
            fcntl_setfl(file, flags | OFlags::APPEND)?;
            let written = (&*file).write(bytes);
            fcntl_setfl(file, flags)?;
            written
        }
        written => Ok(written?),
    }
}

/// Puts our streams in the place of the stock ones. Shadowing must be allowed.
pub(crate) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut files = components.instance("wasi:filesystem/types@0.2.12")?;
    type Made2<T> = wasmtime::Result<(Result<Resource<T>, fs2::ErrorCode>,)>;
    fn writer2(guest: &mut Guest, file: &Resource<Descriptor>, place: Place) -> Made2<DynOutputStream> {
        let table = guest.wasi.ctx().table;
        let opened = match table.get(file)? {
            Descriptor::File(file) if file.perms.write_not_permitted() => Err(fs2::ErrorCode::NotPermitted),
            Descriptor::File(file) => Ok(Open { file: file.file.clone(), place, over: false }),
            Descriptor::Dir(_) => Err(fs2::ErrorCode::BadDescriptor),
        };
        Ok((match opened {
            Ok(open) => Ok(table.push(Box::new(Writer(open)) as DynOutputStream)?),
            Err(refused) => Err(refused),
        },))
    }
    files.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (file, at): (Resource<Descriptor>, u64)| -> Made2<DynInputStream> {
            let table = store.data_mut().wasi.ctx().table;
            let file = match table.get(&file)? {
                Descriptor::File(file) => file.file.clone(),
                Descriptor::Dir(_) => return Ok((Err(fs2::ErrorCode::IsDirectory),)),
            };
            let reader = Reader(Open { file, place: Place::At(at), over: false });
            Ok((Ok(table.push(Box::new(reader) as DynInputStream)?),))
        },
    )?;
    files.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (file, at): (Resource<Descriptor>, u64)| {
            writer2(store.data_mut(), &file, Place::At(at))
        },
    )?;
    files.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (file,): (Resource<Descriptor>,)| {
            writer2(store.data_mut(), &file, Place::End)
        },
    )?;

    let mut files = components.instance("wasi:filesystem/types@0.3.0")?;
    files.func_wrap(
        "[method]descriptor.read-via-stream",
        |mut store: StoreContextMut<'_, Guest>, (file, at): (Resource<Descriptor>, u64)| {
            let opened = match store.data_mut().wasi.ctx().table.get(&file)? {
                Descriptor::File(file) => Ok(Open { file: file.file.clone(), place: Place::At(at), over: false }),
                Descriptor::Dir(_) => Err(fs3::ErrorCode::IsDirectory),
            };
            let (tell, told) = oneshot::channel();
            let stream = match opened {
                Ok(open) => StreamReader::new(&mut store, Streamed { open, tell: Some(tell) })?,
                Err(refused) => {
                    // The guest cannot have let go of the other end yet.
                    let _ = tell.send(Err(refused));
                    StreamReader::new(&mut store, std::iter::empty::<u8>())?
                }
            };
            Ok(((stream, FutureReader::new(&mut store, told)?),))
        },
    )?;
    type Told3 = wasmtime::Result<(FutureReader<Result<(), fs3::ErrorCode>>,)>;
    fn write3(
        mut store: StoreContextMut<'_, Guest>,
        file: &Resource<Descriptor>,
        mut bytes: StreamReader<u8>,
        place: Place,
    ) -> Told3 {
        let opened = match store.data_mut().wasi.ctx().table.get(file)? {
            Descriptor::File(file) if file.perms.write_not_permitted() => Err(fs3::ErrorCode::NotPermitted),
            Descriptor::File(file) => Ok(Open { file: file.file.clone(), place, over: false }),
            Descriptor::Dir(_) => Err(fs3::ErrorCode::BadDescriptor),
        };
        let (tell, told) = oneshot::channel();
        match opened {
            Ok(open) => bytes.pipe(&mut store, Streamed { open, tell: Some(tell) })?,
            Err(refused) => {
                bytes.close(&mut store)?;
                // The guest cannot have let go of the other end yet.
                let _ = tell.send(Err(refused));
            }
        }
        Ok((FutureReader::new(&mut store, told)?,))
    }
    files.func_wrap(
        "[method]descriptor.write-via-stream",
        |store: StoreContextMut<'_, Guest>, (file, bytes, at): (Resource<Descriptor>, StreamReader<u8>, u64)| {
            write3(store, &file, bytes, Place::At(at))
        },
    )?;
    files.func_wrap(
        "[method]descriptor.append-via-stream",
        |store: StoreContextMut<'_, Guest>, (file, bytes): (Resource<Descriptor>, StreamReader<u8>)| {
            write3(store, &file, bytes, Place::End)
        },
    )
}

/// A file that a guest of WASI 0.2 reads.
struct Reader(Open);

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        tokio::task::consume_budget().await;
    }
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> Result<Bytes, StreamError> {
        if self.0.over {
            return Err(StreamError::Closed);
        }
        let mut bytes = BytesMut::zeroed(size.min(PIECE));
        let n = self.0.read(&mut bytes).map_err(|error| StreamError::LastOperationFailed(error.into()))?;
        if self.0.over {
            return Err(StreamError::Closed);
        }
        bytes.truncate(n);
        Ok(bytes.freeze())
    }
}

/// A file that a guest of WASI 0.2 writes.
struct Writer(Open);

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        tokio::task::consume_budget().await;
    }
}

impl OutputStream for Writer {
    fn write(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            if self.0.over {
                return Err(StreamError::Closed);
            }
            let written =
                self.0.write(&bytes).and_then(|n| if n > 0 { Ok(n) } else { Err(io::ErrorKind::WriteZero.into()) });
            let n = written.map_err(|error| {
                self.0.over = true;
                StreamError::LastOperationFailed(error.into())
            })?;
            drop(bytes.split_to(n));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        if self.0.over { Err(StreamError::Closed) } else { Ok(()) }
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        if self.0.over { Err(StreamError::Closed) } else { Ok(PIECE) }
    }
}

/// A file that a guest of WASI 0.3 reads or writes by a stream.
struct Streamed {
    open: Open,
    /// Where its end is told to; `None`: it was.
    tell: Option<oneshot::Sender<Result<(), fs3::ErrorCode>>>,
}

impl Streamed {
    fn end(&mut self, how: Result<(), fs3::ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(tell) = self.tell.take() {
            // Nobody may want to know.
            let _ = tell.send(how);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        let _ = self.end(Ok(()));
    }
}

impl<D: 'static> StreamProducer<D> for Streamed {
    type Item = u8;
    type Buffer = BytesMut;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let budget = match poll_proceed(cx) {
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            budget => ready!(budget),
        };
        let mut destination = destination.as_direct(store, PIECE3);
        let room = destination.remaining();
        let length = room.len().min(PIECE3);
        if length == 0 {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        budget.made_progress();
        match self.open.read(&mut room[..length]) {
            Ok(0) => self.end(Ok(())),
            Ok(n) => {
                destination.mark_written(n);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => self.end(Err(error.into())),
        }
    }
}

impl<D: 'static> StreamConsumer<D> for Streamed {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'_, D>,
        source: Source<'_, Self::Item>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let budget = match poll_proceed(cx) {
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            budget => ready!(budget),
        };
        let mut source = source.as_direct(store);
        let bytes = source.remaining();
        let length = bytes.len().min(PIECE3);
        if length == 0 {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        budget.made_progress();
        match self.open.write(&bytes[..length]) {
            Ok(n) => {
                source.mark_read(n);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => self.end(Err(error.into())),
        }
    }
}
