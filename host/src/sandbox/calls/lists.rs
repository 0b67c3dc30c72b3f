//! Lists that WASI 0.2 guests hand over, taken as far as they are used.
//!
//! The stock functions copy every list out of the guest before they look at it, so that whatever bounds that copy bounds honest
//! programs too: some write a file in one call. Here a list stays where it is, in the guest's memory: files are written in pieces,
//! and of everything else no more is copied than may be used. What the host makes for a guest, random bytes, counts to the
//! guest's own memory while the host has it.
//!
//! So what one call may hand over ([`LONGEST_LIST`](crate::sandbox::limits::LONGEST_LIST)) may be far more than what is copied of it. That holds
//! for components that are plain in this sense ([`Inspection::is_plain`](crate::Inspection)): functions of WASI 0.3, streams
//! and futures between components, and strings that are not UTF-8 are copied whole.

use std::sync::Arc;

use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker, Resource, WasmList},
};
use wasmtime_wasi::{
    WasiView,
    filesystem::{Descriptor, WasiFilesystemView},
    p2::{
        DynOutputStream, DynPollable, StreamError,
        bindings::{
            filesystem::types as files,
            random::{insecure, random},
            sockets::{
                network::{ErrorCode, IpSocketAddress},
                udp,
            },
        },
    },
    random::WasiRandomCtx,
    sockets::WasiSocketsView,
};
use wasmtime_wasi_io::bindings::wasi::io::{poll, streams};

use crate::sandbox::guest::{Guest, clock::yield_awake};

/// How much of a list is written to a file at a time, in bytes.
const PIECE: usize = 256 << 10;
/// More than any stream permits to be written at once, in bytes.
const MOST_PERMITTED: usize = 2 << 20;
/// As WASI 0.2 has it for writes that wait, in bytes.
const MOST_WAITED_FOR: usize = 4096;
/// How many datagrams one call may send, as the stock host permits.
const MOST_DATAGRAMS: usize = 16;
/// The most bytes of a datagram: its length has 16 bits.
const LONGEST_DATAGRAM: usize = u16::MAX as usize;
/// The most random bytes of one call, as in the stock host.
const MOST_RANDOM: u64 = 64 << 20;

/// Puts our functions in the place of the stock ones. Shadowing must be allowed.
pub(crate) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    add_streams(components)?;
    add_polling(components)?;
    components.instance("wasi:filesystem/types@0.2.12")?.func_wrap_async(
        "[method]descriptor.write",
        |store: StoreContextMut<'_, Guest>, (file, bytes, at): (Resource<Descriptor>, WasmList<u8>, u64)| {
            Box::new(write_file(store, file, bytes, at))
        },
    )?;
    components.instance("wasi:sockets/udp@0.2.12")?.func_wrap(
        "[method]outgoing-datagram-stream.send",
        |store: StoreContextMut<'_, Guest>, (stream, datagrams): (Resource<Outgoing>, WasmList<Datagram>)| {
            send(store, stream, &datagrams)
        },
    )?;
    components.instance("wasi:random/random@0.2.12")?.func_wrap_async(
        "get-random-bytes",
        |store: StoreContextMut<'_, Guest>, (length,): (u64,)| {
            Box::new(random_bytes(store, length, <WasiRandomCtx as random::Host>::get_random_bytes))
        },
    )?;
    components.instance("wasi:random/insecure@0.2.12")?.func_wrap_async(
        "get-insecure-random-bytes",
        |store: StoreContextMut<'_, Guest>, (length,): (u64,)| {
            Box::new(random_bytes(store, length, <WasiRandomCtx as insecure::Host>::get_insecure_random_bytes))
        },
    )
}

fn add_streams(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    type Written = wasmtime::Result<(Result<(), streams::StreamError>,)>;
    fn answer(guest: &mut Guest, written: Result<(), StreamError>) -> Written {
        match written {
            Ok(()) => Ok((Ok(()),)),
            Err(error) => Ok((Err(streams::Host::convert_stream_error(guest.wasi.ctx().table, error)?),)),
        }
    }
    let mut io = components.instance("wasi:io/streams@0.2.12")?;
    io.func_wrap(
        "[method]output-stream.write",
        |mut store: StoreContextMut<'_, Guest>, (stream, bytes): (Resource<DynOutputStream>, WasmList<u8>)| {
            if bytes.len() > MOST_PERMITTED {
                return Err(wasmtime::Error::msg("more was written than check-write permitted"));
            }
            let bytes = bytes.as_le_slice(&store).to_vec();
            let guest = store.data_mut();
            let written = streams::HostOutputStream::write(guest.wasi.ctx().table, stream, bytes);
            answer(guest, written)
        },
    )?;
    io.func_wrap_async(
        "[method]output-stream.blocking-write-and-flush",
        |mut store: StoreContextMut<'_, Guest>, (stream, bytes): (Resource<DynOutputStream>, WasmList<u8>)| {
            Box::new(async move {
                if bytes.len() > MOST_WAITED_FOR {
                    let message = format!("blocking-write-and-flush takes {MOST_WAITED_FOR} bytes at most");
                    return Err(wasmtime::Error::msg(message));
                }
                let bytes = bytes.as_le_slice(&store).to_vec();
                let guest = store.data_mut();
                let table = guest.wasi.ctx().table;
                let written = streams::HostOutputStream::blocking_write_and_flush(table, stream, bytes).await;
                answer(guest, written)
            })
        },
    )
}

fn add_polling(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    components.instance("wasi:io/poll@0.2.12")?.func_wrap_async(
        "poll",
        |mut store: StoreContextMut<'_, Guest>, (polled,): (WasmList<Resource<DynPollable>>,)| {
            Box::new(async move {
                // Each takes a handle, of which there are so many.
                let polled: Vec<_> = polled.iter(&mut store)?.collect::<wasmtime::Result<_>>()?;
                Ok((poll::Host::poll(store.data_mut().wasi.ctx().table, polled).await?,))
            })
        },
    )
}

/// Writes all of a list to a file, or as much as can be written before an error.
async fn write_file(
    mut store: StoreContextMut<'_, Guest>,
    file: Resource<Descriptor>,
    bytes: WasmList<u8>,
    at: u64,
) -> wasmtime::Result<(Result<u64, files::ErrorCode>,)> {
    let mut done = 0;
    loop {
        let end = bytes.len().min(done + PIECE);
        let piece = bytes.as_le_slice(&store)[done..end].to_vec();
        let length = piece.len();
        let place = at.saturating_add(done as u64);
        let mut wasi = store.data_mut().wasi.filesystem();
        let file = Resource::new_borrow(file.rep());
        let moved = match files::HostDescriptor::write(&mut wasi, file, piece, place).await {
            Ok(moved) => usize::try_from(moved).unwrap_or(length).min(length),
            Err(error) => {
                // A trap is one whatever was written before.
                let error = error.downcast()?;
                return Ok((if done > 0 { Ok(done as u64) } else { Err(error) },));
            }
        };
        done += moved;
        if moved < length || done == bytes.len() {
            return Ok((Ok(done as u64),));
        }
        tokio::task::consume_budget().await;
    }
}

type Outgoing = udp::OutgoingDatagramStream;

/// One datagram, of which nothing is copied yet.
#[derive(ComponentType, Lift)]
#[component(record)]
struct Datagram {
    data: WasmList<u8>,
    #[component(name = "remote-address")]
    remote_address: Option<IpSocketAddress>,
}

fn send(
    mut store: StoreContextMut<'_, Guest>,
    stream: Resource<Outgoing>,
    datagrams: &WasmList<Datagram>,
) -> wasmtime::Result<(Result<u64, ErrorCode>,)> {
    if datagrams.len() > MOST_DATAGRAMS {
        return Err(wasmtime::Error::msg("more datagrams were sent than check-send permitted"));
    }
    let mut sent = Vec::new();
    let all: Vec<_> = datagrams.iter(&mut store)?.collect::<wasmtime::Result<_>>()?;
    for Datagram { data, remote_address } in all {
        if data.len() > LONGEST_DATAGRAM {
            if sent.is_empty() {
                return Ok((Err(ErrorCode::DatagramTooLarge),));
            }
            // What stands before it is sent, and the answer says how many that were.
            break;
        }
        sent.push(udp::OutgoingDatagram { data: data.as_le_slice(&store).to_vec(), remote_address });
    }
    let mut sockets = store.data_mut().wasi.sockets();
    let sent = udp::HostOutgoingDatagramStream::send(&mut sockets, stream, sent);
    sent.map_or_else(|error| Ok((Err(error.downcast()?),)), |sent| Ok((Ok(sent),)))
}

/// As many random bytes as the guest has memory for.
async fn random_bytes(
    mut store: StoreContextMut<'_, Guest>,
    length: u64,
    some: fn(&mut WasiRandomCtx, u64) -> wasmtime::Result<Vec<u8>>,
) -> wasmtime::Result<(Arc<Vec<u8>>,)> {
    const AT_ONCE: u64 = 1 << 16;
    if length > MOST_RANDOM {
        let message = format!("{length} random bytes were asked for in one call, which gives {MOST_RANDOM} at most");
        return Err(wasmtime::Error::msg(message));
    }
    let guest = store.data_mut();
    guest.memory.make_room(length)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length)?);
    while (bytes.len() as u64) < length {
        let n = AT_ONCE.min(length - bytes.len() as u64);
        bytes.extend(some(wasmtime_wasi::random::WasiRandomView::random(&mut guest.wasi), n)?);
        if bytes.len().is_multiple_of(1 << 20) {
            // Its time and the wish to stop are looked at between two polls.
            yield_awake().await;
        }
    }
    let bytes = Arc::new(bytes);
    guest.memory.lend(&bytes);
    Ok((bytes,))
}
