//! What wasmtime says of a guest's end, as a [`StageExit`].

use std::collections::HashSet;

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use super::{
    guest::{
        NotACommand, Stopped,
        memory::NoRoom,
        meter::{CpuTimeUsed, Denied},
        spec::GuestSpec,
    },
    limits::MAX_FRAMES,
    lines::CodePlace,
    messages::{Said, readable, said},
};
use crate::{
    outcome::{InputPlace, LimitKind, StageExit, TrapKind},
    spec::Size,
};

/// Classifies the error a guest's call came back with. `stderr` is the end of what the guest printed, `delivered` how many
/// bytes of input it was handed.
pub(super) fn exit_of(
    error: &wasmtime::Error,
    denied: Option<Denied>,
    spec: &GuestSpec,
    stderr: &str,
    delivered: u64,
) -> StageExit {
    let limits = &spec.limits;
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        // Only the low byte of an exit code reaches a parent, here as anywhere.
        return match u8::try_from(code & 0xff).unwrap_or(u8::MAX) {
            0 => StageExit::Ok,
            code => StageExit::Exit { code },
        };
    }
    if error.is::<Stopped>() {
        return StageExit::Cancelled;
    }
    if let Some(CpuTimeUsed { limit, used }) = error.downcast_ref() {
        let millis = |time: &std::time::Duration| u64::try_from(time.as_millis()).ok();
        return StageExit::Limit { which: LimitKind::CpuTime, limit: millis(limit), used: millis(used), asked: None };
    }
    if error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel) {
        return StageExit::Limit { which: LimitKind::Fuel, limit: limits.fuel, used: limits.fuel, asked: None };
    }
    if let Some(NotACommand(message)) = error.downcast_ref() {
        return StageExit::StartFailed { message: message.clone(), missing: false, path: None };
    }
    let trap = error.downcast_ref::<Trap>();
    let root = error.root_cause().to_string();
    let known = said(&root);
    if let Some(denied) = denied {
        // Programs that are refused memory abort, or use what they did not get; instances are not made at all.
        let dies_of_it = match trap.copied().map(kind_of) {
            None if error.is::<NoRoom>() => true,
            Some(TrapKind::Unreachable | TrapKind::MemoryOutOfBounds) => true,
            Some(_) => false,
            None => known == Some(Said::NoMemory),
        };
        if dies_of_it {
            return out_of_memory(denied);
        }
    }
    if trap.is_none()
        && let Some(shortage) = shortage(error)
    {
        return shortage;
    }
    if error.is::<wasmtime::WasmtimeBug>() {
        return StageExit::HostError { message: format!("the sandbox failed: {}", readable(error)), path: None };
    }
    let (kind, mut message) = match trap {
        Some(trap) => (kind_of(*trap), trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None => match known {
            Some(Said::NoKeys) if spec.rights.need_descriptors() => {
                return held(LimitKind::OpenFiles, limits.open_files);
            }
            Some(Said::NoKeys | Said::NoHandles) => return held(LimitKind::Handles, limits.handles),
            Some(Said::NoMemories) => return held(LimitKind::Memories, limits.memories),
            Some(Said::NoTables) => return held(LimitKind::Tables, limits.tables),
            Some(Said::NoInstances) => return held(LimitKind::Instances, limits.instances),
            Some(Said::TooLong) => {
                let most = Size(limits.list_bytes as u64);
                (TrapKind::HostCallRefused, format!("more than {most} were handed over in one call"))
            }
            Some(Said::NoMemory | Said::OtherType) | None => (TrapKind::HostCallRefused, root),
        },
    };
    if kind == TrapKind::Unreachable
        && let Some(panic) = panic_text(stderr)
    {
        message = panic;
    }
    let frames = frames(error);
    if kind == TrapKind::MemoryOutOfBounds && looks_recursive(&frames) {
        message.push_str(" (likely a stack overflow)");
    }
    let at = input_place(stderr).unwrap_or(InputPlace { byte: delivered, line: None, exact: false });
    StageExit::Trap { trap: kind, message, frames, at: Some(at) }
}

/// An error that says that the system is out of something: no fault of the guest's.
pub(super) fn shortage(error: &wasmtime::Error) -> Option<StageExit> {
    use rustix::io::Errno;
    const SHORT: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::NOBUFS];
    let text = readable(error);
    // Some layers keep the text alone.
    let said = SHORT.iter().any(|errno| text.contains(&std::io::Error::from(*errno).to_string()));
    if error.is::<std::io::Error>() || said {
        let message = format!("the sandbox: {text}");
        return Some(StageExit::HostError { message, path: None });
    }
    None
}

/// A bound on what is held at once was reached.
fn held(which: LimitKind, limit: usize) -> StageExit {
    let limit = u64::try_from(limit).ok();
    StageExit::Limit { which, limit, used: limit, asked: Some(1) }
}

fn out_of_memory(Denied { limit, used, asked }: Denied) -> StageExit {
    StageExit::Limit { which: LimitKind::Memory, limit: Some(limit), used: Some(used), asked: Some(asked) }
}

fn kind_of(trap: Trap) -> TrapKind {
    match trap {
        Trap::UnreachableCodeReached => TrapKind::Unreachable,
        Trap::MemoryOutOfBounds | Trap::HeapMisaligned => TrapKind::MemoryOutOfBounds,
        Trap::StackOverflow => TrapKind::StackOverflow,
        Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger => TrapKind::IntegerDivision,
        Trap::IndirectCallToNull | Trap::BadSignature | Trap::TableOutOfBounds => TrapKind::IndirectCall,
        // wasmtime's list is open; what it adds is some refusal to go on.
        _ => TrapKind::HostCallRefused,
    }
}

/// Whether a call stack is a few functions over and over: compilers keep a stack of their own in the guest's memory, and
/// running off its end is an access out of bounds.
fn looks_recursive(frames: &[String]) -> bool {
    const DEEP: usize = 16;
    frames.len() >= DEEP && frames.iter().collect::<HashSet<_>>().len() <= frames.len() / 4
}

/// The functions that the guest was in, innermost first.
pub(super) fn frames(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    backtrace
        .frames()
        .iter()
        .take(MAX_FRAMES)
        .map(|frame| match frame.func_name() {
            Some(name) => demangle(name),
            None => format!("function {}", frame.func_index()),
        })
        .collect()
}

/// A function's name for people: the component may have made it up.
fn demangle(name: &str) -> String {
    const MOST: usize = 512;
    let name =
        rustc_demangle::try_demangle(name).map_or_else(|_| name.to_owned(), |demangled| format!("{demangled:#}"));
    name.chars().take(MOST).collect()
}

/// The places of an error's frames in the code.
pub(super) fn places(error: &wasmtime::Error) -> Vec<Option<CodePlace>> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Vec::new() };
    let place = |frame: &wasmtime::FrameInfo| {
        Some(CodePlace {
            function: frame.func_index(),
            in_function: frame.func_offset()?,
            in_file: frame.module_offset()?,
        })
    };
    backtrace.frames().iter().take(MAX_FRAMES).map(place).collect()
}

/// Where an SDK stage said its input was when it panicked: the SDK's last line on standard error.
fn input_place(stderr: &str) -> Option<InputPlace> {
    let (before, place) = stderr.rsplit_once("note: the input was at byte ")?;
    // Behind the panic that ended it, not one that it got over.
    before.rfind("panicked at ")?;
    let place = place.strip_suffix('\n')?;
    let (byte, line) = match place.split_once(", line ") {
        Some((byte, line)) => (byte, Some(line.parse().ok()?)),
        None => (place, None),
    };
    Some(InputPlace { byte: byte.parse().ok()?, line, exact: true })
}

/// A Rust panic's own text and place, if that is what the guest printed last.
fn panic_text(stderr: &str) -> Option<String> {
    let (_, panic) = stderr.rsplit_once("panicked at ")?;
    let (place, rest) = panic.split_once(":\n").or_else(|| panic.split_once('\n'))?;
    let message = rest.split("\nnote: ").next().unwrap_or(rest).trim_end();
    Some(format!("panicked at {place}: {message}"))
}
