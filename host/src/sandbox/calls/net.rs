//! Names and sockets by grant: our functions in the place of the stock ones.

use std::net::IpAddr;

use wasmtime::{
    StoreContextMut,
    component::{Accessor, Linker, Resource, ResourceType, WasmStr},
};
use wasmtime_wasi::{
    WasiView,
    p2::{
        Network, Pollable,
        bindings::sockets::{
            network::{ErrorCode, IpAddress, IpAddressFamily},
            tcp_create_socket, udp_create_socket,
        },
    },
    p3::bindings::sockets::{
        ip_name_lookup as names3,
        types::{self as sockets3, IpAddress as IpAddress3},
    },
    sockets::{UdpSocket, WasiSockets, WasiSocketsView},
};

use crate::sandbox::guest::{Guest, Ours, itself, net::Found};

/// The most bytes of a datagram.
const LONGEST_DATAGRAM: u64 = 64 << 10;
/// The addresses of a name, one after the other.
struct Pinned(std::vec::IntoIter<IpAddr>);

#[wasmtime_wasi::async_trait]
impl Pollable for Pinned {
    async fn ready(&mut self) {}
}

/// Puts our look-up of names in the place of the stock one. Shadowing must be allowed.
pub(crate) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    // The version that the stock bindings define; imports of other 0.2 versions are given this one.
    let mut names = components.instance("wasi:sockets/ip-name-lookup@0.2.12")?;
    let drop = |mut store: StoreContextMut<'_, Guest>, rep| {
        store.data_mut().wasi.ctx().table.delete(Resource::<Pinned>::new_own(rep))?;
        Ok(())
    };
    names.resource("resolve-address-stream", ResourceType::host::<Pinned>(), drop)?;
    names.func_wrap(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, Guest>, (_, name): (Resource<Network>, WasmStr)| {
            let found = store.data().granted.net.addresses(&name.to_str(&store)?);
            let guest = store.data_mut();
            let found: Result<Resource<Pinned>, ErrorCode> = match found {
                Found::Addresses(found) => Ok(guest.wasi.ctx().table.push(Pinned(found.into_iter()))?),
                Found::Nothing => Err(ErrorCode::NameUnresolvable),
                Found::Denied => Err(ErrorCode::AccessDenied),
                Found::NoName => Err(ErrorCode::InvalidArgument),
            };
            Ok((found,))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, Guest>, (stream,): (Resource<Pinned>,)| {
            let next = store.data_mut().wasi.ctx().table.get_mut(&stream)?.0.next();
            Ok((Ok::<Option<IpAddress>, ErrorCode>(next.map(IpAddress::from)),))
        },
    )?;
    names.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, Guest>, (stream,): (Resource<Pinned>,)| {
            Ok((wasmtime_wasi::p2::subscribe(store.data_mut().wasi.ctx().table, stream)?,))
        },
    )?;
    names3::add_to_linker::<Guest, Ours>(components, itself)?;
    add_sockets_to_linker(components)
}

/// Puts our making of sockets in the place of the stock one.
fn add_sockets_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    type Made2<T> = (Result<Resource<T>, ErrorCode>,);
    type Made3<T> = (Result<Resource<T>, sockets3::ErrorCode>,);
    components.instance("wasi:sockets/tcp-create-socket@0.2.12")?.func_wrap(
        "create-tcp-socket",
        |mut store: StoreContextMut<'_, Guest>, (family,): (IpAddressFamily,)| -> wasmtime::Result<Made2<_>> {
            let guest = store.data_mut();
            if !guest.granted.net.may_make("tcp") {
                return Ok((Err(ErrorCode::AccessDenied),));
            }
            let made = tcp_create_socket::Host::create_tcp_socket(&mut guest.wasi.sockets(), family);
            made.map_or_else(|error| Ok((Err(error.downcast()?),)), |made| Ok((Ok(made),)))
        },
    )?;
    components.instance("wasi:sockets/udp-create-socket@0.2.12")?.func_wrap_async(
        "create-udp-socket",
        |mut store: StoreContextMut<'_, Guest>, (family,): (IpAddressFamily,)| {
            Box::new(async move {
                let guest = store.data_mut();
                if !guest.granted.net.may_make("udp") {
                    return Ok((Err(ErrorCode::AccessDenied),));
                }
                let made = udp_create_socket::Host::create_udp_socket(&mut guest.wasi.sockets(), family).await;
                made.map_or_else(|error| Ok((Err(error.downcast()?),)), |made| Ok((Ok(made),)))
            })
        },
    )?;
    let mut sockets = components.instance("wasi:sockets/types@0.3.0")?;
    sockets.func_wrap_concurrent(
        "[method]udp-socket.receive",
        |store: &Accessor<Guest>, (socket,): (Resource<UdpSocket>,)| {
            Box::pin(async move {
                use sockets3::HostUdpSocketWithStore as Stock;
                // The stock function holds a whole datagram's room for each call that waits.
                let Ok(room) = store.with(|mut access| access.get().memory.hold(LONGEST_DATAGRAM)) else {
                    return Ok((Err(sockets3::ErrorCode::OutOfMemory),));
                };
                let sockets = store.with_getter::<WasiSockets>(WasiSocketsView::sockets);
                let received = <WasiSockets as Stock<Guest>>::receive(&sockets, socket).await;
                drop(room);
                received.map_or_else(|error| Ok((Err(error.downcast()?),)), |received| Ok((Ok(received),)))
            })
        },
    )?;
    sockets.func_wrap(
        "[static]tcp-socket.create",
        |mut store: StoreContextMut<'_, Guest>,
         (family,): (sockets3::IpAddressFamily,)|
         -> wasmtime::Result<Made3<_>> {
            let guest = store.data_mut();
            if !guest.granted.net.may_make("tcp") {
                return Ok((Err(sockets3::ErrorCode::AccessDenied),));
            }
            let made = sockets3::HostTcpSocket::create(&mut guest.wasi.sockets(), family);
            made.map_or_else(|error| Ok((Err(error.downcast()?),)), |made| Ok((Ok(made),)))
        },
    )?;
    sockets.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: StoreContextMut<'_, Guest>, (family,): (sockets3::IpAddressFamily,)| {
            Box::new(async move {
                let guest = store.data_mut();
                if !guest.granted.net.may_make("udp") {
                    return Ok((Err(sockets3::ErrorCode::AccessDenied),));
                }
                let made = sockets3::HostUdpSocket::create(&mut guest.wasi.sockets(), family).await;
                made.map_or_else(|error| Ok((Err(error.downcast()?),)), |made| Ok((Ok(made),)))
            })
        },
    )
}

impl names3::Host for Guest {}

impl names3::HostWithStore<Guest> for Ours {
    async fn resolve_addresses(
        store: &Accessor<Guest, Self>,
        name: String,
    ) -> wasmtime::Result<Result<Vec<IpAddress3>, names3::ErrorCode>> {
        let found = store.with(|mut access| access.get().granted.net.addresses(&name));
        Ok(match found {
            Found::Addresses(found) => Ok(found.into_iter().map(IpAddress3::from).collect()),
            Found::Nothing => Err(names3::ErrorCode::NameUnresolvable),
            Found::Denied => Err(names3::ErrorCode::AccessDenied),
            Found::NoName => Err(names3::ErrorCode::InvalidArgument),
        })
    }
}
