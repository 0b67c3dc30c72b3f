//! What a guest was granted, and what it tried without.

use std::{
    collections::BTreeSet,
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
};

use chacha20::{ChaCha20Rng, rand_core::SeedableRng};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

use super::{
    clock::{Hand, VirtualClock},
    listing::Listings,
    net::Net,
    preview1::directory::Place,
};
use crate::{
    process::{AtPath, Planned},
    spec::{Access, ClockSpec, NetGrant, RandomSpec},
};

/// The rights of a guest. The default has none, the real clock and real random numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) dirs: Vec<DirRight>,
    pub(crate) net: Vec<NetGrant>,
    pub(crate) clock: ClockSpec,
    pub(crate) random: RandomSpec,
}

impl Rights {
    /// Whether a guest that has them takes descriptors of the host.
    pub(crate) fn need_descriptors(&self) -> bool {
        !self.dirs.is_empty() || !self.net.is_empty()
    }
}

/// A directory that a guest may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirRight {
    /// The directory that was there when it was planned.
    pub(crate) host: Planned,
    pub(crate) guest: String,
    pub(crate) access: Access,
}

/// What a guest tried without a grant: a few of them, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Denials(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    denials: BTreeSet<Denial>,
    /// The last opening of a file, if it was refused.
    open: Option<RefusedOpen>,
}

/// An opening that was refused.
#[derive(Clone, Debug)]
struct RefusedOpen {
    path: String,
    why: Refusal,
}

/// Why an opening was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was to be written or made, in a directory that is granted for reading.
    ReadOnly,
    /// It was to be written or made; which right its directory has is not known here.
    Writing,
    /// It is a FIFO, a socket or a device.
    Special,
    /// Anything else: it leads out of its directory, or the system refuses it.
    Other,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Denial {
    /// An address, as a grant would name it.
    Address(String),
    /// A name that was looked up.
    Name(String),
    /// A socket of that protocol.
    Socket(&'static str),
    /// An address was to be listened at.
    Listening(String),
    /// A directory was listed in which a name is not UTF-8.
    NameLeftOut,
}

impl Denials {
    /// Notes one, unless there are many already: the guest chooses them.
    pub(super) fn note(&self, denial: Denial) {
        const MOST: usize = 8;
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.denials.len() < MOST {
            noted.denials.insert(denial);
        }
    }

    /// Notes how an opening ended. Only the last one counts: a program that gets over a refusal opens something else.
    pub(super) fn note_open(&self, path: &str, refused: Option<Refusal>) {
        const LONGEST: usize = 200;
        let refused = refused.map(|why| RefusedOpen { path: path.chars().take(LONGEST).collect(), why });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open = refused;
    }

    /// What is to be said of a stage that failed after its last opening was refused; `dirs` is what it was granted.
    pub(crate) fn refused_open(&self, place: &str, dirs: &[DirRight]) -> Option<String> {
        let RefusedOpen { path, why } = self.0.lock().unwrap_or_else(PoisonError::into_inner).open.clone()?;
        let read_only =
            why == Refusal::ReadOnly || why == Refusal::Writing && dirs.iter().all(|dir| dir.access == Access::Read);
        Some(if why == Refusal::Special {
            format!("was refused to open {path:?}: it is no file, directory or link, and nothing else is opened")
        } else if read_only {
            format!(
                "was refused to open {path:?} for writing: a directory of `{place}.grants.dirs` is granted for reading \
                 (\"access\": \"write\" grants both)"
            )
        } else {
            format!(
                "was refused to open {path:?}: it leads out of what `{place}.grants.dirs` grants, or the system refuses it"
            )
        })
    }

    /// Notes that a listing lacks an entry.
    pub(super) fn note_name_left_out(&self) {
        self.note(Denial::NameLeftOut);
    }

    /// All of them, for people; `place` is the stage's in the file.
    pub(crate) fn notes(&self, place: &str) -> Vec<String> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let note = |denial: &Denial| match denial {
            Denial::Address(address) => {
                format!("tried to use {address}, which is not granted: add \"{address}\" to `{place}.grants.net`")
            }
            Denial::Name(name) if format!("{name}:1").parse::<NetGrant>().is_ok() => {
                format!("tried to look up {name}, which is not granted: add \"{name}:PORT\" to `{place}.grants.net`")
            }
            Denial::Name(name) => format!("tried to look up {name:?}, which is no name"),
            Denial::Socket(protocol) => {
                format!(
                    "tried to use the network, which is not granted: add \"{protocol}:HOST:PORT\" to `{place}.grants.net`"
                )
            }
            Denial::Listening(address) => format!("tried to listen at {address}, which no stage may"),
            Denial::NameLeftOut => {
                "listed a directory that has a name which is not UTF-8: WASI has no place for it, and it was left out"
                    .into()
            }
        };
        noted.denials.iter().map(note).collect()
    }
}

/// What of a guest's rights lives in its store.
pub(super) struct Held {
    pub(super) clock: Option<Arc<VirtualClock>>,
    pub(super) net: Arc<Net>,
    pub(super) listings: Listings,
    /// Where a preview1 guest stopped listing.
    pub(super) listed: Option<Place>,
}

/// Gives a context the rights.
///
/// # Errors
///
/// A directory that cannot be opened.
pub(super) fn apply(wasi: &mut WasiCtxBuilder, rights: &Rights, net: Arc<Net>) -> wasmtime::Result<Held> {
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
    Ok(Held { clock, net, listings: Listings::default(), listed: None })
}
