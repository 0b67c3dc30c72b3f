//! Network by grant: the addresses that a guest may use and the names that it may look up.
//!
//! The stock host asks about addresses only, and looks up every name or none. Here the granted names are looked up once,
//! before the guest starts, and pinned: what a name means cannot change under it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use wasmtime_wasi::sockets::SocketAddrUse;

use super::denials::{Denial, Denials};
use crate::spec::NetGrant;

/// The most addresses that are kept of one name.
const MOST_ADDRESSES: usize = 32;

/// What a guest may reach.
#[derive(Debug)]
pub(crate) struct Net {
    names: HashMap<String, Vec<IpAddr>>,
    grants: Vec<(NetGrant, Vec<IpAddr>)>,
    denials: Denials,
}

impl Net {
    /// Looks up the names of the grants. One that cannot be found is one that nobody can connect to; the guest hears so.
    pub(crate) async fn resolve(grants: &[NetGrant], denials: Denials) -> Self {
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
    pub(crate) fn allows(&self, address: SocketAddr, using: SocketAddrUse) -> bool {
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
    pub(crate) fn may_make(&self, protocol: &'static str) -> bool {
        let granted = self.grants.iter().any(|(grant, _)| if protocol == "tcp" { grant.tcp } else { grant.udp });
        if !granted {
            self.denials.note(Denial::Socket(protocol));
        }
        granted
    }

    /// The pinned addresses of a granted name.
    pub(crate) fn addresses(&self, name: &str) -> Found {
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
pub(crate) enum Found {
    Addresses(Vec<IpAddr>),
    /// It is granted, and nobody knows it.
    Nothing,
    Denied,
    /// It cannot be one.
    NoName,
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
