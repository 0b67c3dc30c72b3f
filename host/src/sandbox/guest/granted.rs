//! A guest's rights as its store has them.

use std::{os::fd::AsRawFd, sync::Arc};

use chacha20::{ChaCha20Rng, rand_core::SeedableRng};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::{
    clock::{Hand, VirtualClock},
    listings::{Listings, Place},
    net::Net,
    rights::Rights,
};
use crate::{
    process::AtPath,
    spec::{Access, RandomSpec},
};

/// What of a guest's rights lives in its store.
pub(crate) struct Granted {
    pub(crate) clock: Option<Arc<VirtualClock>>,
    pub(crate) net: Arc<Net>,
    pub(crate) listings: Listings,
    /// Where a preview1 guest stopped listing.
    pub(crate) listed: Option<Place>,
}

/// Gives a context the rights.
///
/// # Errors
///
/// A directory that cannot be opened.
pub(crate) fn apply(wasi: &mut WasiCtxBuilder, rights: &Rights, net: Arc<Net>) -> wasmtime::Result<Granted> {
    // Guests with directories are polled where one may wait: see `metered_apart`.
    wasi.allow_blocking_current_thread(!rights.dirs.is_empty());
    for dir in &rights.dirs {
        let permissions = match dir.access {
            Access::Read => FsPerms::ReadOnly,
            Access::Write => FsPerms::ReadWrite,
        };
        // Another stage may have put a link in its place since it was planned: what was looked at is what is opened.
        if std::fs::metadata("/proc/self/fd").is_err() {
            return Err(wasmtime::Error::msg("a directory can be granted only where /proc is mounted"));
        }
        let path = || dir.host.path().to_owned();
        let opened = dir.host.open().map_err(|error| AtPath { what: "a granted directory", path: path(), error })?;
        wasi.preopened_dir(format!("/proc/self/fd/{}", opened.as_raw_fd()), &dir.guest, permissions)?;
    }
    let clock = VirtualClock::of(rights.clock).map(Arc::new);
    if let Some(clock) = &clock {
        wasi.wall_clock(Hand(clock.clone())).monotonic_clock(Hand(clock.clone()));
    }
    if let RandomSpec::Seed(seed) = rights.random {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        // One stream for each kind, so that none tells of another.
        let stream = |number: u64| {
            let mut generator = ChaCha20Rng::from_seed(bytes);
            generator.set_stream(number);
            generator
        };
        let mut third = [0; 16];
        wasmtime_wasi::Rng::fill_bytes(&mut stream(2), &mut third);
        wasi.secure_random(stream(0)).insecure_random(stream(1)).insecure_random_seed(u128::from_le_bytes(third));
    }
    // Sockets are there and refuse: what is tried without a grant can be named.
    let check = net.clone();
    wasi.allow_tcp(true)
        .allow_udp(true)
        .socket_addr_check(move |address, using| Box::pin(std::future::ready(check.allows(address, using))));
    Ok(Granted { clock, net, listings: Listings::default(), listed: None })
}
