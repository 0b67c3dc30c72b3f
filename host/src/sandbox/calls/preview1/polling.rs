//! `poll_oneoff` on a guest's own clock, for preview1 and, by translation, for the preview before it.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use wasmtime_wasi::{
    p0::types as older,
    p1::{
        WasiP1Ctx, types,
        wasi_snapshot_preview1::{self as stock, WasiSnapshotPreview1},
    },
};
use wiggle::{GuestMemory, GuestPtr};

use super::call::Poll4;
use crate::sandbox::guest::clock::{Sleep, VirtualClock};

/// The sizes of a subscription and of an event in the guest's memory.
const SUBSCRIPTION: usize = 48;
const EVENT: u32 = 32;

/// A subscription of either preview.
pub(super) trait Subscribed: wiggle::GuestType {
    fn plain(self) -> types::Subscription;
}

impl Subscribed for types::Subscription {
    fn plain(self) -> types::Subscription {
        self
    }
}

impl Subscribed for older::Subscription {
    fn plain(self) -> types::Subscription {
        let u = match self.u {
            older::SubscriptionU::Clock(clock) => types::SubscriptionU::Clock(clock.into()),
            older::SubscriptionU::FdRead(read) => types::SubscriptionU::FdRead(read.into()),
            older::SubscriptionU::FdWrite(write) => types::SubscriptionU::FdWrite(write.into()),
        };
        types::Subscription { userdata: self.userdata, u }
    }
}

/// Answers what the stock function would hold threads for: one sleep alone, which it sleeps where it is called, and files,
/// which are always ready. `false`: it is neither.
pub(super) async fn answered<S: Subscribed>(
    wasi: &mut WasiP1Ctx,
    memory: &mut GuestMemory<'_>,
    fuel: usize,
    (subscriptions, events, count, filled): Poll4,
) -> wasmtime::Result<bool> {
    let number = count.cast_unsigned();
    // The stock function refuses more.
    if (number as usize).saturating_mul(SUBSCRIPTION + EVENT as usize) > fuel {
        return Ok(false);
    }
    let all = GuestPtr::<S>::new(subscriptions.cast_unsigned()).as_array(number);
    let mut happened = Vec::new();
    let happens = |userdata, type_, nbytes, flags| {
        let fd_readwrite = types::EventFdReadwrite { nbytes, flags };
        types::Event { userdata, error: types::Errno::Success, type_, fd_readwrite }
    };
    for at in all.iter() {
        let types::Subscription { userdata, u } = memory.read(at?)?.plain();
        let (type_, fd) = match u {
            types::SubscriptionU::FdRead(read) => (types::Eventtype::FdRead, read.file_descriptor),
            types::SubscriptionU::FdWrite(write) => (types::Eventtype::FdWrite, write.file_descriptor),
            types::SubscriptionU::Clock(clock) => {
                let absolute = clock.flags.contains(types::Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME);
                let is_known = matches!(clock.id, types::Clockid::Monotonic | types::Clockid::Realtime);
                if number == 1 && is_known && !absolute {
                    tokio::time::sleep(Duration::from_nanos(clock.timeout)).await;
                    happened.push(happens(userdata, types::Eventtype::Clock, 0, types::Eventrwflags::empty()));
                }
                continue;
            }
        };
        // Of nothing else is there a place.
        if let Ok(place) = wasi.fd_tell(memory, fd) {
            let is_at_end = type_ == types::Eventtype::FdRead
                && wasi.fd_filestat_get(memory, fd).await.is_ok_and(|found| found.size <= place);
            // As the stock function has it.
            let hangup = types::Eventrwflags::FD_READWRITE_HANGUP;
            let flags = if is_at_end { hangup } else { types::Eventrwflags::empty() };
            happened.push(happens(userdata, type_, 1, flags));
        }
        tokio::task::consume_budget().await;
    }
    let events = GuestPtr::<types::Event>::new(events.cast_unsigned()).as_array(number);
    let happened_at = events.iter().zip(&happened);
    for (at, event) in happened_at {
        memory.write(at?, event.clone())?;
    }
    if happened.is_empty() {
        return Ok(false);
    }
    let happened = u32::try_from(happened.len()).unwrap_or(u32::MAX);
    memory.write(GuestPtr::<u32>::new(filled.cast_unsigned()), happened)?;
    Ok(true)
}

/// `poll_oneoff` on a guest's own clock.
pub(super) async fn poll_virtually(
    wasi: &mut WasiP1Ctx,
    clock: &Arc<VirtualClock>,
    memory: &mut GuestMemory<'_>,
    fuel: usize,
    (subscriptions, events, count, filled): Poll4,
) -> wasmtime::Result<i32> {
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
                types::Clockid::Realtime if absolute => clock.when(timer.timeout),
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

/// The same for the preview before, whose subscriptions have one field more: in a memory of its own.
pub(super) async fn poll_older(
    wasi: &mut WasiP1Ctx,
    clock: &Arc<VirtualClock>,
    memory: &mut GuestMemory<'_>,
    fuel: usize,
    (subscriptions, events, count, filled): Poll4,
) -> wasmtime::Result<i32> {
    let number = count.cast_unsigned();
    if (number as usize).saturating_mul(SUBSCRIPTION + EVENT as usize) > fuel {
        return Ok(types::Errno::Nomem as i32);
    }
    let (room, event) = (SUBSCRIPTION * number as usize, EVENT as usize);
    let mut bytes = vec![0; room + event * number as usize + 8];
    let at = |bytes: usize| i32::try_from(bytes).expect("bounded by the fuel");
    let (its_events, its_filled) = (at(room), at(room + event * number as usize));
    let mut own = GuestMemory::Unshared(&mut bytes);
    let theirs = GuestPtr::<older::Subscription>::new(subscriptions.cast_unsigned()).as_array(number);
    let ours = GuestPtr::<types::Subscription>::new(0).as_array(number);
    for (theirs, ours) in theirs.iter().zip(ours.iter()) {
        own.write(ours?, memory.read(theirs?)?.plain())?;
    }
    let errno = poll_virtually(wasi, clock, &mut own, fuel, (0, its_events, count, its_filled)).await?;
    if errno == types::Errno::Success as i32 {
        let happened: u32 = own.read(GuestPtr::new(its_filled.cast_unsigned()))?;
        let GuestMemory::Unshared(own) = &own else { unreachable!("it was made so") };
        let bytes = &own[room..room + event * happened.min(number) as usize];
        let length = u32::try_from(bytes.len()).expect("bounded by the fuel");
        memory.copy_from_slice(bytes, GuestPtr::<u8>::new(events.cast_unsigned()).as_array(length))?;
        memory.write(GuestPtr::<u32>::new(filled.cast_unsigned()), happened)?;
    }
    Ok(errno)
}
