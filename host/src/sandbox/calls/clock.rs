//! The clocks' functions of WASI 0.2 and 0.3, for guests with a clock of their own.

use std::sync::Arc;

use wasmtime::component::{Accessor, Linker, Resource};
use wasmtime_wasi::{
    WasiView,
    clocks::{WasiClocks, WasiClocksView},
    p2::{DynPollable, Pollable, bindings::clocks::monotonic_clock as clock2},
    p3::bindings::clocks::monotonic_clock as clock3,
};

use crate::sandbox::guest::{
    Guest, Ours,
    clock::{Sleep, VirtualClock},
    itself,
};

struct Alarm(Arc<VirtualClock>, u64);

#[wasmtime_wasi::async_trait]
impl Pollable for Alarm {
    async fn ready(&mut self) {
        Sleep::until(self.0.clone(), self.1).await;
    }
}

impl Guest {
    fn alarm(&mut self, clock: Arc<VirtualClock>, deadline: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let table = self.wasi.ctx().table;
        let alarm = table.push(Alarm(clock, deadline))?;
        wasmtime_wasi::p2::subscribe(table, alarm)
    }
}

impl clock2::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        clock2::Host::now(&mut self.wasi.clocks())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        clock2::Host::resolution(&mut self.wasi.clocks())
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        match self.granted.clock.clone() {
            Some(clock) => self.alarm(clock, when),
            None => clock2::Host::subscribe_instant(&mut self.wasi.clocks(), when),
        }
    }

    fn subscribe_duration(&mut self, time: u64) -> wasmtime::Result<Resource<DynPollable>> {
        match self.granted.clock.clone() {
            Some(clock) => {
                let deadline = clock.peek().saturating_add(time);
                self.alarm(clock, deadline)
            }
            None => clock2::Host::subscribe_duration(&mut self.wasi.clocks(), time),
        }
    }
}

impl clock3::Host for Guest {
    fn now(&mut self) -> wasmtime::Result<u64> {
        clock3::Host::now(&mut self.wasi.clocks())
    }

    fn get_resolution(&mut self) -> wasmtime::Result<u64> {
        clock3::Host::get_resolution(&mut self.wasi.clocks())
    }
}

impl clock3::HostWithStore<Guest> for Ours {
    async fn wait_until(store: &Accessor<Guest, Self>, when: u64) -> wasmtime::Result<()> {
        match store.with(|mut access| access.get().granted.clock.clone()) {
            Some(clock) => {
                Sleep::until(clock, when).await;
                Ok(())
            }
            None => {
                let stock = store.with_getter::<WasiClocks>(WasiClocksView::clocks);
                <WasiClocks as clock3::HostWithStore<Guest>>::wait_until(&stock, when).await
            }
        }
    }

    async fn wait_for(store: &Accessor<Guest, Self>, time: u64) -> wasmtime::Result<()> {
        match store.with(|mut access| access.get().granted.clock.clone()) {
            Some(clock) => {
                let deadline = clock.peek().saturating_add(time);
                Sleep::until(clock, deadline).await;
                Ok(())
            }
            None => {
                let stock = store.with_getter::<WasiClocks>(WasiClocksView::clocks);
                <WasiClocks as clock3::HostWithStore<Guest>>::wait_for(&stock, time).await
            }
        }
    }
}

/// Puts the clock's functions in the place of the stock ones. Shadowing must be allowed.
pub(crate) fn add_to_linker(components: &mut Linker<Guest>) -> wasmtime::Result<()> {
    clock2::add_to_linker::<Guest, Ours>(components, itself)?;
    clock3::add_to_linker::<Guest, Ours>(components, itself)
}
