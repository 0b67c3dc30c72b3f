//! stagehost runs pipelines: sandboxed WebAssembly stages, ordinary programs and Rust functions, side by side.
//!
//! A [`Pipeline`] is built by the program, or read from a file: that is [parsed](spec::parse) into a
//! [`PipelineSpec`](spec::PipelineSpec), [planned](Plan::new) against the files around it, and [run](Host::run) to an [`Outcome`]. Whatever a stage does wrong is a value in the outcome, never
//! an error of the host.
//!
//! ```
//! use stagehost::{Ends, Host, HostOptions, Plan, PlanOptions, Policy, RunOptions, Stdin, spec};
//!
//! let spec = spec::parse(br#"{
//!     "version": 1,
//!     "stages": [{ "wasm": "builtin:lower" }, { "wasm": "builtin:wc", "args": ["-w"] }]
//! }"#)?;
//! // Made once, and run any number of times, with an input and an output of its own each time.
//! let plan = Plan::new(&spec, &PlanOptions::at(".", Policy::allow_all()))?;
//! let host = Host::new(&HostOptions::default())?;
//! for (text, words) in [("Three short words\n", "3\n"), ("Two more\n", "2\n")] {
//!     let ends = Ends::new().stdin(text);
//!     let (outcome, output) = host.output(&plan, ends, &RunOptions::default(), 1 << 20).wait();
//!     assert!(outcome.success, "{}", outcome.message);
//!     assert_eq!(output, words.as_bytes());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!("stagehost runs on Linux (5.10 or later) only");

/// What the documentation shows is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
struct Embedding;

mod builder;
mod digest;
mod ends;
mod event;
mod fair;
pub mod function;
mod joint;
mod lock;
pub mod outcome;
mod pipeline;
mod plan;
mod policy;
mod process;
mod sandbox;
pub mod shown;
pub mod spec;
mod stage;
pub mod stock;
mod wait;

pub use builder::{BuildError, Pipeline, PipelineBuilder, Stage};
pub use ends::{ChannelSender, Chunks, Ends, Lent, NotTaken, Returned, Stdin, Stdout, lend};
pub use event::{Event, EventStream, Observer};
pub use joint::{JointKind, WholeFile, inherited_descriptor};
pub use lock::{LOCK_FILE, Lock, LockedComponent};
pub use outcome::{ExitCode, InputPlace, LimitKind, Outcome, StageExit};
pub use pipeline::{
    Collecting, Draining, Host, HostError, HostOptions, HostSnapshot, PrepareError, Preparing, ProcessHandle, Progress,
    RunControl, RunOptions, RunPhase, RunSnapshot, Running, StagePhase, StageSnapshot, StderrPrefix, WaitsFor,
};
pub use plan::{
    ErrorCode, JointSummary, KnownFiles, LimitsSummary, Overrides, Plan, PlanError, PlanErrorKind, PlanOptions,
    PlanSummary, StageSummary, read_component,
};
pub use policy::{DirRoot, Policy, StageKind};
pub use process::{Guard, WatchedProcess, in_foreground, is_ignored, with_signals_held};
pub use sandbox::{
    DEFAULT_MEMORY, Inspection, NotAStage, NotOffered, Section, SectionArg, Shape, compile_worker, inspect, validate,
};
pub use spec::Requests;
