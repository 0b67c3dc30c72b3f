//! How a guest is entered.

use wasmtime_wasi::{p2, p3};

use super::guest::Guest;

/// How a guest is entered.
#[derive(Clone)]
pub(super) enum Entry {
    P3(p3::bindings::CommandPre<Guest>),
    P2(p2::bindings::CommandPre<Guest>),
    P1(wasmtime::InstancePre<Guest>),
}

impl Entry {
    /// Its code as it can be loaded by another engine of the same settings.
    pub(super) fn serialize(&self) -> Option<Vec<u8>> {
        match self {
            Self::P3(command) => command.instance_pre().component().serialize().ok(),
            Self::P2(command) => command.instance_pre().component().serialize().ok(),
            Self::P1(module) => module.module().serialize().ok(),
        }
    }

    /// How much code it is, in bytes.
    pub(super) fn code_bytes(&self) -> usize {
        let image = match self {
            Self::P3(command) => command.instance_pre().component().image_range(),
            Self::P2(command) => command.instance_pre().component().image_range(),
            Self::P1(module) => module.module().image_range(),
        };
        image.end.addr() - image.start.addr()
    }
}
