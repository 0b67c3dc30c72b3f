//! What a function of preview1 is called with.

use wasmtime::{AsContextMut, Caller, Extern};
use wasmtime_wasi::p1::{types, wasi_snapshot_preview1::WasiSnapshotPreview1};
use wiggle::{GuestMemory, GuestPtr};

use crate::sandbox::guest::{Guest, denials::Refusal};

/// What a function is called with.
pub(super) struct Call<'a> {
    pub(super) guest: &'a mut Guest,
    pub(super) memory: GuestMemory<'a>,
    /// What the guest may have the host copy at once, in bytes.
    pub(super) fuel: usize,
}

pub(super) fn enter<'a>(caller: &'a mut Caller<'_, Guest>) -> wasmtime::Result<Call<'a>> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("missing required memory export"));
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, guest) = memory.data_and_store_mut(caller);
    guest.wasi.set_hostcall_fuel(fuel);
    Ok(Call { guest, memory: GuestMemory::Unshared(bytes), fuel })
}

impl Call<'_> {
    /// Notes how an opening ended.
    pub(super) fn note_open(&self, (path, length): (i32, i32), refused: Option<Refusal>) {
        let named = GuestPtr::<str>::new((path.cast_unsigned(), length.cast_unsigned()));
        let named = if refused.is_some() { self.memory.as_cow_str(named) } else { Ok("".into()) };
        self.guest.denials.note_open(&named.unwrap_or_default(), refused);
    }

    /// Whether what stands at a path can be opened without waiting for anybody. What is not there may be made.
    pub(super) async fn may_open(&mut self, (dir, follow, path, length): (i32, i32, i32, i32)) -> bool {
        use types::Filetype::{Directory, RegularFile, SymbolicLink};
        let Ok(follow) = types::Lookupflags::try_from(follow) else { return true };
        let named = GuestPtr::<str>::new((path.cast_unsigned(), length.cast_unsigned()));
        let wasi = &mut self.guest.wasi;
        let seen = wasi.path_filestat_get(&mut self.memory, types::Fd::from(dir), follow, named).await;
        // The look used some.
        self.guest.wasi.set_hostcall_fuel(self.fuel);
        seen.map_or(true, |seen| matches!(seen.filetype, RegularFile | Directory | SymbolicLink))
    }
}

pub(super) type Move4 = (i32, i32, i32, i32);
pub(super) type Move5 = (i32, i32, i32, i64, i32);
pub(super) type Times7 = (i32, i32, i32, i32, i64, i64, i32);
pub(super) type Poll4 = (i32, i32, i32, i32);
pub(super) type List5 = (i32, i32, i32, i64, i32);
pub(super) type Open9 = (i32, i32, i32, i32, i32, i64, i64, i32, i32);
