//! A guest: the data of its store, over what each part of it keeps. The host's functions work on it; nothing here knows them.

pub(super) mod clock;
pub(super) mod denials;
pub(super) mod granted;
pub(super) mod listings;
pub(super) mod memory;
pub(super) mod meter;
pub(super) mod net;
pub(super) mod noting;
pub(super) mod rights;
pub(super) mod spec;
pub(super) mod stdio;

use std::sync::Arc;

use wasmtime::component::HasData;
use wasmtime_wasi::{WasiCtxView, WasiView, p1::WasiP1Ctx};

use crate::joint::Stop;
use denials::Denials;
use granted::Granted;
use memory::MemoryLimiter;
use meter::Usage;
use stdio::Stdio;

/// A store's data.
pub(crate) struct Guest {
    pub(crate) wasi: WasiP1Ctx,
    pub(crate) memory: MemoryLimiter,
    pub(crate) granted: Granted,
    pub(crate) stdio: Stdio,
    pub(crate) denials: Denials,
    pub(crate) stop: Stop,
    pub(crate) usage: Arc<Usage>,
    /// Free again when the guest is gone.
    pub(crate) _slot: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Our own host functions over a guest.
pub(crate) struct Ours;

impl HasData for Ours {
    type Data<'a> = &'a mut Guest;
}

pub(crate) fn itself(guest: &mut Guest) -> &mut Guest {
    guest
}

/// The run was stopped from outside; carried through the guest's frames.
#[derive(Debug, thiserror::Error)]
#[error("the run was stopped")]
pub(crate) struct Stopped;

/// The guest has no entry of the type that a command's has.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotACommand(pub(crate) String);
