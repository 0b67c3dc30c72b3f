//! Network by grant: the addresses that a guest may use and the names that it may look up.
//!
//! The stock host asks about addresses only, and looks up every name or none. Here the granted names are looked up once,
//! before the guest starts, and pinned: what a name means cannot change under it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

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
    sockets::{SocketAddrUse, UdpSocket, WasiSockets, WasiSocketsView},
};

use super::{
    clock::{Ours, itself},
    rights::{Denial, Denials},
    store::Guest,
};
use crate::spec::NetGrant;

/// The most bytes of a datagram.
const LONGEST_DATAGRAM: u64 = 64 << 10;
/// The most addresses that are kept of one name.
const MOST_ADDRESSES: usize = 32;

/// What a guest may reach.
#[derive(Debug)]
pub(super) struct Net {
    names: HashMap<String, Vec<IpAddr>>,
    grants: Vec<(NetGrant, Vec<IpAddr>)>,
    denials: Denials,
}

impl Net {
    /// Looks up the names of the grants. One that cannot be found is one that nobody can connect to; the guest hears so.
    pub(super) async fn resolve(grants: &[NetGrant], denials: Denials) -> Self {
        let mut net = Self { names: HashMap::new(), grants: Vec::new(), denials };
        for grant in grants {
            let addresses = match grant.host.parse::<IpAddr>() {
                Ok(address) => vec![address.to_canonical()],
                Err(_) => match net.names.get(&grant.host) {
                    Some(known) => known.clone(),
                    None => match tokio::net::lookup_host((grant.host.as_str(), grant.port.unwrap_or(0))).await {
                        Ok(found) => {
                            let mut found: Vec<_> = found.map(|address| address.ip().to_canonical()).collect();
                            found.dedup();
                            found.truncate(MOST_ADDRESSES);
                            found
                        }
                        Err(_) => Vec::new(),
                    },
                },
            };
            net.names.insert(grant.host.clone(), addresses.clone());
            net.grants.push((grant.clone(), addresses));
        }
        net
    }

    /// Whether an address may be used so. What may not is noted.
    pub(super) fn allows(&self, address: SocketAddr, using: SocketAddrUse) -> bool {
        let granted = |is_of: fn(&NetGrant) -> bool| {
            self.grants.iter().any(|(grant, addresses)| {
                is_of(grant)
                    && grant.port.is_none_or(|port| port == address.port())
                    && addresses.contains(&address.ip().to_canonical())
            })
        };
        let (allowed, protocol) = match using {
            // Every connection asks for this first, whoever it is to; by itself it reaches nobody.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind if address.port() == 0 && address.ip().is_unspecified() => {
                return true;
            }
            SocketAddrUse::TcpConnect => (granted(|grant| grant.tcp), "tcp"),
            SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => (granted(|grant| grant.udp), "udp"),
            // An address of its own, which has to be granted as any other; whom it hears there is asked for each datagram.
            SocketAddrUse::UdpBind => (granted(|grant| grant.udp), "udp"),
            SocketAddrUse::TcpBind | SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => {
                self.denials.note(Denial::Listening(format!("tcp:{address}")));
                return false;
            }
        };
        if !allowed && !matches!(using, SocketAddrUse::UdpReceive) {
            self.denials.note(Denial::Address(format!("{protocol}:{address}")));
        }
        allowed
    }

    /// Whether sockets of that protocol may be made. Each takes a descriptor of the host, so that none are made in vain.
    fn may_make(&self, protocol: &'static str) -> bool {
        let granted = self.grants.iter().any(|(grant, _)| if protocol == "tcp" { grant.tcp } else { grant.udp });
        if !granted {
            self.denials.note(Denial::Socket(protocol));
        }
        granted
    }

    /// The pinned addresses of a granted name.
    fn addresses(&self, name: &str) -> Found {
        // Longer than any name, with its brackets and dot; refused before it is copied.
        if name.len() > 256 {
            self.denials.note(Denial::Name(name.chars().take(100).collect()));
            return Found::NoName;
        }
        let plain = name.trim_end_matches('.').to_ascii_lowercase();
        let inside = plain.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&plain);
        if let Ok(address) = inside.parse() {
            return Found::Addresses(vec![address]);
        }
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if plain.is_empty() || plain.len() > 253 || !plain.chars().all(fits) || plain.split('.').any(str::is_empty) {
            self.denials.note(Denial::Name(plain.chars().take(100).collect()));
            return Found::NoName;
        }
        match self.names.get(&plain) {
            Some(found) if found.is_empty() => Found::Nothing,
            Some(found) => Found::Addresses(found.clone()),
            None => {
                self.denials.note(Denial::Name(plain.chars().take(100).collect()));
                Found::Denied
            }
        }
    }
}

/// What became of a name.
enum Found {
    Addresses(Vec<IpAddr>),
    /// It is granted, and nobody knows it.
    Nothing,
    Denied,
    /// It cannot be one.
    NoName,
}

/// The addresses of a name, one after the other.
struct Pinned(std::vec::IntoIter<IpAddr>);

#[wasmtime_wasi::async_trait]
impl Pollable for Pinned {
    async fn ready(&mut self) {}
}

/// Puts our look-up of names in the place of the stock one. Shadowing must be allowed.
pub(super) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
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
            let found = store.data().held.net.addresses(&name.to_str(&store)?);
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
            if !guest.held.net.may_make("tcp") {
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
                if !guest.held.net.may_make("udp") {
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
            if !guest.held.net.may_make("tcp") {
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
                if !guest.held.net.may_make("udp") {
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
        let found = store.with(|mut access| access.get().held.net.addresses(&name));
        Ok(match found {
            Found::Addresses(found) => Ok(found.into_iter().map(IpAddress3::from).collect()),
            Found::Nothing => Err(names3::ErrorCode::NameUnresolvable),
            Found::Denied => Err(names3::ErrorCode::AccessDenied),
            Found::NoName => Err(names3::ErrorCode::InvalidArgument),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_what_it_meant_at_first() {
        // A name that nobody knows by now (RFC 6761).
        let (name, address) = ("moved.invalid", IpAddr::from([192, 0, 2, 7]));
        let names = HashMap::from([(name.to_owned(), vec![address])]);
        let net = Net { names, grants: Vec::new(), denials: Denials::default() };
        for asked in [name, "MOVED.invalid."] {
            assert!(matches!(net.addresses(asked), Found::Addresses(found) if found == [address]), "{asked}");
        }
    }
}
