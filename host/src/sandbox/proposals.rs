//! Which WebAssembly a stage may be made of: what the engine has on, and what to build instead of the rest.
//!
//! | proposal | here |
//! | --- | --- |
//! | all of WebAssembly 3.0: exceptions, garbage collection, tail calls, several memories, 64-bit memories, SIMD, … | on |
//! | atomic instructions, on memories that are not shared | on |
//! | the component model, with the asynchronous functions of WASI 0.3 | on |
//! | shared memories, threads | off: nothing here would run a second thread |
//! | exceptions of the old form, custom page sizes, wide arithmetic, stack switching | off, as in the engine by default |
//! | the component model's further proposals | off, as in the engine by default |

use wasmparser::{MemoryType, Parser, Payload, TypeRef, Validator, WasmFeatures};

use super::inspect::NotAStage;

/// What the engine has on.
pub(super) fn features() -> WasmFeatures {
    WasmFeatures::WASM3
        | WasmFeatures::GC_TYPES
        | WasmFeatures::THREADS
        | WasmFeatures::COMPONENT_MODEL
        | WasmFeatures::CM_ASYNC
}

/// Parts of a validator's message, and what they are about: the proposal, and what to build instead.
const OFF: &[(&str, &str, &str)] = &[
    (
        "legacy_exceptions",
        "exceptions of the old form",
        "build it with the standard ones: `-fwasm-exceptions -mllvm -wasm-use-legacy-eh=false`",
    ),
    ("shared-everything", "threads", "build it for one thread: wasm32-wasip1 or wasm32-wasip2"),
    ("custom page size", "memory pages of another size", "build it without `-mcustom-page-sizes`"),
    ("wide arithmetic", "wide arithmetic", "build it without `-mwide-arithmetic`"),
    ("stack switching", "stack switching", "build it without continuations"),
    ("component model", "a further proposal of the component model", "build it against WASI 0.2 or 0.3 as released"),
    ("component-model", "a further proposal of the component model", "build it against WASI 0.2 or 0.3 as released"),
];

/// Checks a whole file, its code too, as the compiler would, and says in our words what it may not be made of.
///
/// # Errors
///
/// What is wrong with it, and what to build instead.
pub fn validate(bytes: &[u8]) -> Result<(), NotAStage> {
    if let Some(what) = shared_memory(bytes) {
        return Err(NotAStage {
            message: format!("it {what}, and threads are off"),
            hint: Some("build it for one thread: wasm32-wasip1 or wasm32-wasip2, without `-pthread`".into()),
        });
    }
    let Err(error) = Validator::new_with_features(features()).validate_all(bytes) else { return Ok(()) };
    let message = error.to_string();
    let off = OFF.iter().find(|(text, ..)| message.contains(text));
    Err(match off {
        Some((_, proposal, instead)) => NotAStage {
            message: format!("it is built with {proposal}, which is off here: {message}"),
            hint: Some((*instead).into()),
        },
        None => NotAStage {
            message: format!("it is no valid WebAssembly: {message}"),
            hint: Some("it may be damaged, or built with a proposal that is off here".into()),
        },
    })
}

/// What a file does with a shared memory.
fn shared_memory(bytes: &[u8]) -> Option<&'static str> {
    let is_shared = |memory: &MemoryType| memory.shared;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.ok()? {
            Payload::MemorySection(memories)
                if memories.clone().into_iter().flatten().any(|memory| is_shared(&memory)) =>
            {
                return Some("has a memory that threads share");
            }
            Payload::ImportSection(imports) => {
                let shared =
                    |import: wasmparser::Import<'_>| matches!(import.ty, TypeRef::Memory(memory) if memory.shared);
                if imports.into_imports().flatten().any(shared) {
                    return Some("imports a memory that threads share");
                }
            }
            _ => {}
        }
    }
    None
}
