//! Write a stage as one Rust function.
//!
//! [`stage!`] turns `fn run(input, output)` into a WASI 0.3 command: a component that exports `wasi:cli/run` and reads
//! and writes its standard streams without a copy inside the guest. Build it as a `cdylib` for `wasm32-wasip2`, or for
//! `wasm32-unknown-unknown` and turn it into a component afterwards.
//!
//! ```
//! use stagehost_guest::{Input, Output, Result, Write, stage};
//!
//! fn run(input: &mut Input, output: &mut Output) -> Result {
//!     while let Some(line) = input.next_line()? {
//!         output.write_all(&line.to_ascii_uppercase())?;
//!     }
//!     Ok(())
//! }
//!
//! stage!(run);
//!
//! // The same function runs natively, in a test:
//! let mut output = Output::to_vec();
//! run(&mut Input::from_reader(&b"hello\n"[..]), &mut output)?;
//! assert_eq!(output.into_vec(), b"HELLO\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a stage ends
//!
//! | `run` | exit code |
//! | --- | --- |
//! | returns `Ok(())` or `()` | 0, after everything written was handed over |
//! | returns an [`ExitCode`] | that code, 0 to 255 |
//! | returns an error | 1; the program's name, the error and its sources are printed on stderr |
//! | returns a [`Usage`] error | 2; the program's name and the error are printed on stderr |
//! | panics | a trap; message, place and where the input was are printed on stderr |
//! | calls [`exit`] | that code; what is still in the output's buffer is written first |
//!
//! Returning early with input left is fine: the stage before sees a broken pipe. Writing to an output whose reader is
//! gone stops the stage quietly with code 0, as a Unix filter would be stopped by SIGPIPE, unless it asked to see the
//! error with [`Output::report_broken_pipe`].
//!
//! # Text or bytes
//!
//! Lines and chunks are byte slices, whatever their encoding, and may be of any length. They lend the SDK's own buffer:
//! nothing is allocated per line or chunk.
//!
//! # Asynchronous stages
//!
//! `stage!(async run)` takes an `async fn run(input: &mut Input, output: &mut Output)` of the
//! [`asynchronous`] module instead, for stages that wait for more than one thing at a time.

pub mod asynchronous;
mod input;
mod outcome;
mod output;
mod position;
mod process;
mod raw;
#[doc(hidden)]
pub mod section;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use input::Input;
pub use outcome::{ExitCode, Outcome, Usage};
pub use output::Output;
/// The trait behind [`Output::write_all`](std::io::Write::write_all), so that one import is enough.
pub use std::io::{BufRead, Read, Write};

/// The heap of `wasm32-unknown-unknown`: one that begins in the memory that a stage is started with, where the standard library's own
/// takes more. What grows is made ready again by its host's kernel.
#[cfg(all(feature = "heap", target_family = "wasm", target_os = "unknown"))]
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Has the heap begin in the memory that the stage was started with. It takes that for its first request, if the next multiple of 64 KiB
/// fits there: for one buffer, and what it notes of that, it would ask for more.
fn begin_heap() {
    #[cfg(all(feature = "heap", target_family = "wasm", target_os = "unknown"))]
    drop(std::hint::black_box(Box::new(0_u8)));
}

#[doc(hidden)]
pub mod bindings {
    #![allow(missing_docs, unreachable_pub, missing_debug_implementations, reason = "generated code")]
    #![allow(unsafe_op_in_unsafe_fn, clippy::all, clippy::undocumented_unsafe_blocks, reason = "generated code")]
    #![allow(
        clippy::allow_attributes_without_reason,
        clippy::use_self,
        clippy::cast_sign_loss,
        reason = "generated code"
    )]
    #![allow(clippy::cast_possible_truncation, clippy::uninlined_format_args, reason = "generated code")]
    wit_bindgen::generate!({
        path: "wit",
        world: "command",
        generate_all,
        async: ["-export:wasi:cli/run@0.3.0#run"],
        pub_export_macro: true,
        export_macro_name: "export_command",
        default_bindings_module: "stagehost_guest::bindings",
    });
}

/// What a stage's function returns by default: nothing, or any error.
pub type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// The stage's arguments, without the program's name. In a native test those of [`testing::set_args`].
pub fn args() -> Vec<String> {
    process::arguments().into_iter().skip(1).collect()
}

/// What the stage is called in its own messages: the program's name, without `.wasm`.
pub fn program() -> String {
    let name = process::arguments().into_iter().next().unwrap_or_default();
    name.strip_suffix(".wasm").unwrap_or(&name).to_owned()
}

/// The environment variables that the pipeline gives to this stage. In a native test those of [`testing::set_env`].
pub fn env() -> Vec<(String, String)> {
    process::environment()
}

/// One environment variable, if the pipeline gives it to this stage.
pub fn env_var(name: &str) -> Option<String> {
    env().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Two random numbers to seed hashes with, so that nobody can know beforehand what gets the same hash. They are no secrets, and the
/// same in each run where the pipeline asks for that. On `wasm32-unknown-unknown` the standard library's own `RandomState` is not random.
pub fn seed() -> (u64, u64) {
    process::seed()
}

/// Writes out what is still in the output's buffer and ends the stage with `code`. In a native test it unwinds, and
/// [`testing::exits`] catches that.
pub fn exit(code: u8) -> ! {
    output::flush_at_exit();
    process::exit_with_code(code);
    unreachable!("exit-with-code does not return")
}

/// Turns a function into a stage.
///
/// `stage!(run)` for `fn run(input: &mut Input, output: &mut Output) -> R`, `stage!(async run)` for an `async fn` over
/// the types of [`asynchronous`]; `R` is anything that is an [`Outcome`]. A second argument, a string literal, becomes
/// the component's `stagehost` section: JSON that tells the host and its users what the stage is. It is checked while the stage is
/// built: what is no JSON, or has a key that means nothing, does not compile.
///
/// ```
/// # use stagehost_guest::{ExitCode, Input, Output, stage};
/// fn run(input: &mut Input, output: &mut Output) -> std::io::Result<ExitCode> {
///     input.copy_to(output)?;
///     Ok(ExitCode(3))
/// }
/// stage!(run, r#"{"name": "three", "summary": "copies its input and exits 3"}"#);
/// ```
#[macro_export]
macro_rules! stage {
    (async $run:path $(, $section:expr)?) => {
        $crate::stage!(@export { $crate::asynchronous::run_stage(async |input, output| $run(input, output).await) } $(, $section)?);
    };
    ($run:path $(, $section:expr)?) => {
        $crate::stage!(@export { $crate::run_stage($run) } $(, $section)?);
    };
    (@export $body:block $(, $section:expr)?) => {
        const _: () = {
            struct Stage;
            impl $crate::bindings::exports::wasi::cli::run::Guest for Stage {
                fn run() -> ::core::result::Result<(), ()> $body
            }
            // Elsewhere the exports' names would be no symbols that a linker takes.
            #[cfg(target_family = "wasm")]
            $crate::bindings::export_command!(Stage with_types_in $crate::bindings);
            #[cfg(not(target_family = "wasm"))]
            const _: fn() -> ::core::result::Result<(), ()> = <Stage as $crate::bindings::exports::wasi::cli::run::Guest>::run;
            $(
                const _: () = $crate::section::check($section);
                const SECTION: &[u8] = $section.as_bytes();
                #[cfg(target_family = "wasm")]
                #[used]
                #[unsafe(link_section = "stagehost")]
                static EMBEDDED: [u8; SECTION.len()] = {
                    let mut bytes = [0; SECTION.len()];
                    bytes.copy_from_slice(SECTION);
                    bytes
                };
                #[cfg(not(target_family = "wasm"))]
                const _: &[u8] = SECTION;
            )?
        };
    };
}

/// Runs a stage's function over the process's streams; what [`stage!`] calls.
#[doc(hidden)]
#[expect(clippy::result_unit_err, reason = "the type of `wasi:cli/run`")]
pub fn run_stage<R: Outcome>(run: impl FnOnce(&mut Input, &mut Output) -> R) -> std::result::Result<(), ()> {
    begin_heap();
    raw::install_panic_hook();
    let mut input = Input::stdin();
    let mut output = Output::stdout();
    let outcome = run(&mut input, &mut output);
    let closed = output.finish();
    outcome::end(outcome, closed)
}
