//! What a guest tried without a grant.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::rights::DirRight;
use crate::spec::{Access, NetGrant};

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
pub(crate) enum Refusal {
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
    pub(crate) fn note(&self, denial: Denial) {
        const MOST: usize = 8;
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.denials.len() < MOST {
            noted.denials.insert(denial);
        }
    }

    /// Notes how an opening ended. Only the last one counts: a program that gets over a refusal opens something else.
    pub(crate) fn note_open(&self, path: &str, refused: Option<Refusal>) {
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
    pub(crate) fn note_name_left_out(&self) {
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
