//! Functions of preview1 that are not the stock ones: exit codes of any byte, sleeping on a guest's own clock, looking before
//! opening, and a bound on listing.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use wasmtime::{AsContextMut, Caller, Extern, Linker};
use wasmtime_wasi::{
    I32Exit,
    p1::{
        WasiP1Ctx, types,
        wasi_snapshot_preview1::{self as stock, WasiSnapshotPreview1},
    },
};
use wiggle::{GuestMemory, GuestPtr};

use super::{
    clock::{Sleep, VirtualClock},
    store::Guest,
};

const MODULE: &str = "wasi_snapshot_preview1";

/// Puts our functions in the place of the stock ones. Shadowing must be allowed.
pub(super) fn add_to_linker(modules: &mut Linker<Guest>) -> wasmtime::Result<()> {
    // The stock one refuses codes from 126 on; a program may exit with any byte.
    modules.func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) })?;
    modules.func_wrap_async(MODULE, "poll_oneoff", |mut caller: Caller<'_, Guest>, args: Poll4| {
        Box::new(async move {
            let Call { guest, mut memory, fuel } = enter(&mut caller)?;
            match guest.held.clock.clone() {
                Some(clock) => poll_virtually(&mut guest.wasi, &clock, &mut memory, fuel, args).await,
                None => stock::poll_oneoff(&mut guest.wasi, &mut memory, args.0, args.1, args.2, args.3).await,
            }
        })
    })?;
    modules.func_wrap_async(MODULE, "path_open", |mut caller: Caller<'_, Guest>, args: Open9| {
        Box::new(async move {
            let mut call = enter(&mut caller)?;
            let (dir, follow, path, length, how, base, inheriting, flags, opened) = args;
            if !call.may_open((dir, follow, path, length)).await {
                return Ok(types::Errno::Perm as i32);
            }
            let (wasi, memory) = (&mut call.guest.wasi, &mut call.memory);
            stock::path_open(wasi, memory, dir, follow, path, length, how, base, inheriting, flags, opened).await
        })
    })?;
    modules.func_wrap_async(MODULE, "path_filestat_set_times", |mut caller: Caller<'_, Guest>, args: Times7| {
        Box::new(async move {
            let mut call = enter(&mut caller)?;
            let (dir, follow, path, length, accessed, modified, which) = args;
            if !call.may_open((dir, follow, path, length)).await {
                return Ok(types::Errno::Perm as i32);
            }
            let (wasi, memory) = (&mut call.guest.wasi, &mut call.memory);
            stock::path_filestat_set_times(wasi, memory, dir, follow, path, length, accessed, modified, which).await
        })
    })?;
    modules.func_wrap_async(MODULE, "fd_readdir", |mut caller: Caller<'_, Guest>, args: List5| {
        Box::new(async move {
            let mut call = enter(&mut caller)?;
            let (dir, buffer, length, cookie, used) = args;
            if !call.may_list(dir).await {
                return Ok(types::Errno::Overflow as i32);
            }
            let (wasi, memory) = (&mut call.guest.wasi, &mut call.memory);
            stock::fd_readdir(wasi, memory, dir, buffer, length, cookie, used).await
        })
    })?;
    Ok(())
}

/// The largest directory that can be listed, as its own size in bytes: some ten thousand names. The stock host reads all of it for
/// each call, into memory of the host's.
const MOST_LISTED: u64 = 1 << 20;

/// What a function is called with.
struct Call<'a> {
    guest: &'a mut Guest,
    memory: GuestMemory<'a>,
    /// What the guest may have the host copy.
    fuel: usize,
}

fn enter<'a>(caller: &'a mut Caller<'_, Guest>) -> wasmtime::Result<Call<'a>> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("missing required memory export"));
    };
    let fuel = caller.as_context_mut().hostcall_fuel();
    let (bytes, guest) = memory.data_and_store_mut(caller);
    guest.wasi.set_hostcall_fuel(fuel);
    Ok(Call { guest, memory: GuestMemory::Unshared(bytes), fuel })
}

impl Call<'_> {
    /// Whether what stands at a path can be opened without waiting for anybody. What is not there may be made.
    async fn may_open(&mut self, (dir, follow, path, length): (i32, i32, i32, i32)) -> bool {
        use types::Filetype::{Directory, RegularFile, SymbolicLink};
        let Ok(follow) = types::Lookupflags::try_from(follow) else { return true };
        let named = GuestPtr::<str>::new((path.cast_unsigned(), length.cast_unsigned()));
        let wasi = &mut self.guest.wasi;
        let seen = wasi.path_filestat_get(&mut self.memory, types::Fd::from(dir), follow, named).await;
        // The look used some.
        self.guest.wasi.set_hostcall_fuel(self.fuel);
        seen.map_or(true, |seen| matches!(seen.filetype, RegularFile | Directory | SymbolicLink))
    }

    /// Whether a directory is small enough to be listed. What is none is the stock function's to refuse.
    async fn may_list(&mut self, dir: i32) -> bool {
        let seen = self.guest.wasi.fd_filestat_get(&mut self.memory, types::Fd::from(dir)).await;
        self.guest.wasi.set_hostcall_fuel(self.fuel);
        seen.map_or(true, |seen| seen.filetype != types::Filetype::Directory || seen.size <= MOST_LISTED)
    }
}

type Times7 = (i32, i32, i32, i32, i64, i64, i32);
type Poll4 = (i32, i32, i32, i32);
type List5 = (i32, i32, i32, i64, i32);
type Open9 = (i32, i32, i32, i32, i32, i64, i64, i32, i32);

/// `poll_oneoff` on a guest's own clock.
async fn poll_virtually(
    wasi: &mut WasiP1Ctx,
    clock: &Arc<VirtualClock>,
    memory: &mut GuestMemory<'_>,
    fuel: usize,
    (subscriptions, events, count, filled): Poll4,
) -> wasmtime::Result<i32> {
    /// The sizes of a subscription and of an event in the guest's memory.
    const SUBSCRIPTION: usize = 48;
    const EVENT: u32 = 32;
    let number = count.cast_unsigned();
    let mut alarms = Vec::new();
    let mut others = false;
    // The stock function refuses more.
    if (number as usize).saturating_mul(SUBSCRIPTION) <= fuel {
        let all = GuestPtr::<types::Subscription>::new(subscriptions.cast_unsigned()).as_array(number);
        for at in all.iter() {
            let at = at?;
            let subscription = memory.read(at)?;
            let types::SubscriptionU::Clock(timer) = &subscription.u else {
                others = true;
                continue;
            };
            let absolute = timer.flags.contains(types::Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME);
            let deadline = match timer.id {
                types::Clockid::Monotonic if absolute => timer.timeout,
                types::Clockid::Realtime if absolute => timer.timeout.saturating_sub(clock.start_nanos()),
                types::Clockid::Monotonic | types::Clockid::Realtime => clock.peek().saturating_add(timer.timeout),
                _ => return Ok(types::Errno::Inval as i32),
            };
            alarms.push((at, subscription, deadline));
        }
    }
    let Some(first) = alarms.iter().map(|(.., deadline)| *deadline).min() else {
        return stock::poll_oneoff(wasi, memory, subscriptions, events, count, filled).await;
    };
    // The stock function sees alarms that never go off; ours races it.
    for (at, subscription, _) in &alarms {
        let never = types::SubscriptionClock {
            id: types::Clockid::Monotonic,
            timeout: u64::MAX,
            precision: 0,
            flags: types::Subclockflags::empty(),
        };
        let never = types::Subscription { userdata: subscription.userdata, u: types::SubscriptionU::Clock(never) };
        memory.write(*at, never)?;
    }
    let happened = {
        let mut io = pin!(async {
            if others {
                stock::poll_oneoff(wasi, memory, subscriptions, events, count, filled).await
            } else {
                std::future::pending().await
            }
        });
        let mut sleep = Sleep::until(clock.clone(), first);
        poll_fn(|cx| match io.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| None),
        })
        .await
    };
    let now = clock.peek();
    let mut fired = 0;
    for (at, subscription, deadline) in alarms {
        let userdata = subscription.userdata;
        // As it was.
        memory.write(at, subscription)?;
        if happened.is_none() && deadline <= now {
            let nothing = types::EventFdReadwrite { nbytes: 0, flags: types::Eventrwflags::empty() };
            let error = types::Errno::Success;
            let event = types::Event { userdata, error, type_: types::Eventtype::Clock, fd_readwrite: nothing };
            memory.write(GuestPtr::new(events.cast_unsigned().saturating_add(fired * EVENT)), event)?;
            fired += 1;
        }
    }
    match happened {
        Some(done) => done,
        None => {
            memory.write(GuestPtr::<u32>::new(filled.cast_unsigned()), fired)?;
            Ok(types::Errno::Success as i32)
        }
    }
}
