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

use std::time::{Duration, Instant};

use wasmparser::{
    BinaryReaderError, FuncValidatorAllocations, MemoryType, Parser, Payload, TypeRef, ValidPayload, Validator,
    WasmFeatures,
};

use super::not_a_stage::NotAStage;

/// What the engine has on.
pub(crate) fn features() -> WasmFeatures {
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
/// Blocks for some tens of milliseconds for each MiB, and for a file that is made for it for as long as `patience`, which is looked at
/// between two instructions and two sections; `None`: for as long as it takes.
///
/// # Errors
///
/// What is wrong with it, and what to build instead; or that it takes longer.
pub fn validate(bytes: &[u8], patience: Option<Duration>) -> Result<(), NotAStage> {
    if let Some(what) = shared_memory(bytes) {
        return Err(NotAStage {
            message: format!("it {what}, and threads are off"),
            hint: Some("build it for one thread: wasm32-wasip1 or wasm32-wasip2, without `-pthread`".into()),
        });
    }
    let message = match validated(bytes, patience) {
        Ok(()) => return Ok(()),
        Err(Invalid::Slow(patience)) => {
            let message = format!("checking it takes longer than {}", humantime::format_duration(patience));
            return Err(NotAStage { message, hint: Some("raise `compile_time` if it is to be trusted".into()) });
        }
        Err(Invalid::Wrong(error)) => error.to_string(),
    };
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

enum Invalid {
    Wrong(BinaryReaderError),
    Slow(Duration),
}

impl From<BinaryReaderError> for Invalid {
    fn from(error: BinaryReaderError) -> Self {
        Self::Wrong(error)
    }
}

fn validated(bytes: &[u8], patience: Option<Duration>) -> Result<(), Invalid> {
    /// How many instructions go between two looks at the clock. One may take longer than thousands: it names as many others.
    const OPERATORS: usize = 256;
    let begun = Instant::now();
    let in_time = || match patience {
        Some(patience) if begun.elapsed() > patience => Err(Invalid::Slow(patience)),
        _ => Ok(()),
    };
    let (mut validator, mut parser) = (Validator::new_with_features(features()), Parser::new(0));
    parser.set_features(features());
    let mut allocations = FuncValidatorAllocations::default();
    for payload in parser.parse_all(bytes) {
        in_time()?;
        let ValidPayload::Func(function, body) = validator.payload(&payload?)? else { continue };
        let mut function = function.into_validator(allocations);
        let mut reader = body.get_binary_reader();
        function.read_locals(&mut reader)?;
        reader.set_features(features());
        let (mut count, mut last) = (0, reader.original_position());
        while !reader.eof() {
            reader.visit_operator(&mut function.visitor(reader.original_position()))??;
            count += 1;
            if count % OPERATORS == 0 || reader.original_position() - last > OPERATORS {
                in_time()?;
            }
            last = reader.original_position();
        }
        reader.finish_expression(&function.visitor(reader.original_position()))?;
        allocations = function.into_allocations();
    }
    Ok(())
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
