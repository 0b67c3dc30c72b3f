//! Functions of preview1 that are not the stock ones: exit codes of any byte, reads and writes of any size, listing on from where the
//! last call ended, sleeping on a guest's own clock, and looking before opening.
//!
//! The preview before it, `wasi_unstable`, has the same functions where it has the same types.

mod call;
mod directory;
mod moving;
mod polling;

use wasmtime::{Caller, Linker};
use wasmtime_wasi::{
    I32Exit, p0,
    p1::{self, types, wasi_snapshot_preview1 as stock},
};

use crate::sandbox::{
    code::offers::{PREVIEW0, PREVIEW1},
    guest::{Guest, denials::Refusal},
};
use call::{Call, List5, Move4, Move5, Open9, Poll4, Times7, enter};

/// Adds all functions of both previews.
pub(crate) fn add_to_linker(modules: &mut Linker<Guest>) -> wasmtime::Result<()> {
    p1::add_to_linker_async(modules, |guest: &mut Guest| &mut guest.wasi)?;
    p0::add_to_linker_async(modules, |guest: &mut Guest| &mut guest.wasi)?;
    modules.allow_shadowing(true);
    for module in [PREVIEW1, PREVIEW0] {
        shadow(modules, module)?;
    }
    modules.func_wrap_async(PREVIEW1, "poll_oneoff", |mut caller: Caller<'_, Guest>, args: Poll4| {
        Box::new(async move {
            let Call { guest, mut memory, fuel } = enter(&mut caller)?;
            match guest.granted.clock.clone() {
                Some(clock) => polling::poll_virtually(&mut guest.wasi, &clock, &mut memory, fuel, args).await,
                None if polling::answered::<types::Subscription>(&mut guest.wasi, &mut memory, fuel, args).await? => {
                    Ok(0)
                }
                None => stock::poll_oneoff(&mut guest.wasi, &mut memory, args.0, args.1, args.2, args.3).await,
            }
        })
    })?;
    modules.func_wrap_async(PREVIEW0, "poll_oneoff", |mut caller: Caller<'_, Guest>, args: Poll4| {
        Box::new(async move {
            let Call { guest, mut memory, fuel } = enter(&mut caller)?;
            match guest.granted.clock.clone() {
                Some(clock) => polling::poll_older(&mut guest.wasi, &clock, &mut memory, fuel, args).await,
                None if polling::answered::<p0::types::Subscription>(&mut guest.wasi, &mut memory, fuel, args)
                    .await? =>
                {
                    Ok(0)
                }
                None => {
                    let (wasi, memory) = (&mut guest.wasi, &mut memory);
                    p0::wasi_unstable::poll_oneoff(wasi, memory, args.0, args.1, args.2, args.3).await
                }
            }
        })
    })?;
    Ok(())
}

/// Puts our functions in the place of the stock ones, where both previews have the same.
fn shadow(modules: &mut Linker<Guest>, module: &str) -> wasmtime::Result<()> {
    // The stock one refuses codes from 126 on; a program may exit with any byte.
    modules.func_wrap(module, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) })?;
    modules.func_wrap_async(
        module,
        "fd_write",
        |mut caller: Caller<'_, Guest>, (fd, list, count, result): Move4| {
            Box::new(async move { moving::write(&mut enter(&mut caller)?, fd, (list, count), None, result).await })
        },
    )?;
    modules.func_wrap_async(
        module,
        "fd_pwrite",
        |mut caller: Caller<'_, Guest>, (fd, list, count, at, result): Move5| {
            Box::new(async move { moving::write(&mut enter(&mut caller)?, fd, (list, count), Some(at), result).await })
        },
    )?;
    modules.func_wrap_async(module, "fd_read", |mut caller: Caller<'_, Guest>, (fd, list, count, result): Move4| {
        Box::new(async move { moving::read(&mut enter(&mut caller)?, fd, (list, count), None, result).await })
    })?;
    modules.func_wrap_async(
        module,
        "fd_pread",
        |mut caller: Caller<'_, Guest>, (fd, list, count, at, result): Move5| {
            Box::new(async move { moving::read(&mut enter(&mut caller)?, fd, (list, count), Some(at), result).await })
        },
    )?;
    modules.func_wrap_async(module, "random_get", |mut caller: Caller<'_, Guest>, (buffer, length): (i32, i32)| {
        Box::new(async move { moving::random(&mut enter(&mut caller)?, buffer, length).await })
    })?;
    modules.func_wrap_async(module, "path_open", |mut caller: Caller<'_, Guest>, args: Open9| {
        Box::new(async move {
            let mut call = enter(&mut caller)?;
            let (dir, follow, path, length, how, base, inheriting, flags, opened) = args;
            if !call.may_open((dir, follow, path, length)).await {
                call.note_open((path, length), Some(Refusal::Special));
                return Ok(types::Errno::Perm as i32);
            }
            let (wasi, memory) = (&mut call.guest.wasi, &mut call.memory);
            let errno =
                stock::path_open(wasi, memory, dir, follow, path, length, how, base, inheriting, flags, opened).await?;
            call.note_open((path, length), refusal(errno, how, base));
            Ok(errno)
        })
    })?;
    modules.func_wrap_async(module, "path_filestat_set_times", |mut caller: Caller<'_, Guest>, args: Times7| {
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
    modules.func_wrap_async(module, "fd_readdir", |mut caller: Caller<'_, Guest>, args: List5| {
        Box::new(async move {
            let (dir, buffer, length, cookie, used) = args;
            directory::list(&mut enter(&mut caller)?, dir, (buffer, length), cookie, used).await
        })
    })?;
    Ok(())
}

/// Why an opening was refused, if that is what the number says.
fn refusal(errno: i32, how: i32, base: i64) -> Option<Refusal> {
    const REFUSALS: [types::Errno; 4] =
        [types::Errno::Perm, types::Errno::Acces, types::Errno::Notcapable, types::Errno::Rofs];
    let how = types::Oflags::from_bits_truncate(u16::try_from(how).unwrap_or_default());
    let rights = types::Rights::from_bits_truncate(base.cast_unsigned());
    let writes =
        how.intersects(types::Oflags::CREAT | types::Oflags::TRUNC) || rights.contains(types::Rights::FD_WRITE);
    let is_refused = REFUSALS.iter().any(|refusal| *refusal as i32 == errno);
    is_refused.then_some(if writes { Refusal::Writing } else { Refusal::Other })
}
