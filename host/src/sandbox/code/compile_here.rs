//! Compiling in this process, for hosts that name no compiler, and for what is ours.
//!
//! A compilation cannot be interrupted. So it runs on threads of its own, which hold nothing of the host's: whoever waited for it may
//! go, and they end when it is done. How many are under way at once is bounded for the whole process, those that nobody waits for
//! among them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use tokio::sync::oneshot;
use wasmtime::{Engine, Module, component::Component};

use super::{artifact::Code, proposals::validate};
use crate::fair::Slot;

/// How many threads each of them has, at most.
const THREADS: usize = 4;

/// Why nothing was compiled.
#[derive(Debug)]
pub(crate) enum Uncompiled {
    /// It is no valid WebAssembly, or made of what is off here.
    Invalid(String),
    /// The compiler refuses the file.
    Refused(wasmtime::Error),
    /// The system has no threads for it.
    NoThreads(String),
}

/// Compiles a file, which is checked first where it is a stranger's, and makes what is kept of it on disk; `turn` is given back when the compilation is over.
///
/// # Cancel safety
///
/// If the future is dropped, the compilation goes on by itself and its result is dropped.
pub(crate) async fn compile(
    engine: Engine,
    file: Bytes,
    is_module: bool,
    keep: bool,
    turn: Slot,
    checked: bool,
) -> Result<(Code, Option<Vec<u8>>), Uncompiled> {
    let lost = |error: &dyn std::fmt::Display| Uncompiled::NoThreads(error.to_string());
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // A pool for each: dropped below, it ends with the one thing it does. The compiler would otherwise start one for the whole process.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(processors.min(THREADS))
        .thread_name(|_| "stagehost-compile".into())
        .build()
        .map_err(|error| lost(&error))?;
    let (tell, told) = oneshot::channel();
    pool.spawn(move || {
        // A panic here would end the whole process.
        let compiled = catch_unwind(AssertUnwindSafe(|| {
            if checked {
                validate(&file, None).map_err(|refused| Uncompiled::Invalid(refused.message))?;
            }
            let compiled = if is_module {
                Module::new(&engine, &file)
                    .map(|module| (keep.then(|| module.serialize().ok()).flatten(), Code::Module(module)))
            } else {
                Component::new(&engine, &file)
                    .map(|component| (keep.then(|| component.serialize().ok()).flatten(), Code::Component(component)))
            };
            compiled.map_err(Uncompiled::Refused)
        }));
        let broken = || Uncompiled::Refused(wasmtime::Error::msg("the compiler broke down over it"));
        let compiled = compiled.unwrap_or_else(|_| Err(broken()));
        drop((file, engine));
        // Nobody may wait for it any more.
        let _ = tell.send(compiled.map(|(bytes, code)| (code, bytes)));
        drop(turn);
    });
    drop(pool);
    told.await.map_err(|error| lost(&error))?
}
