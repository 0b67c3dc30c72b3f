//! stagehost runs pipelines of sandboxed WebAssembly stages, described in JSON, over ring buffers in the host's memory.
//!
//! A pipeline file is [parsed](spec::parse) into a [`PipelineSpec`](spec::PipelineSpec), [planned](Plan::new) against the
//! files around it, and [run](Host::run) to an [`Outcome`]. Whatever a stage does wrong is a value in the outcome, never
//! an error of the host.
//!
//! ```
//! use std::path::Path;
//!
//! use stagehost::{Host, HostOptions, Plan, RunOptions, spec};
//!
//! let spec = spec::parse(br#"{
//!     "version": 1,
//!     "stages": [{ "wasm": "builtin:lower" }, { "wasm": "builtin:wc", "args": ["-w"] }],
//!     "stdin": { "text": "Three short words\n" },
//!     "stdout": "null"
//! }"#)?;
//! let plan = Plan::new(&spec, Path::new("."))?;
//! let outcome = Host::new(&HostOptions::default())?.run(plan, &RunOptions::default());
//! assert!(outcome.success);
//! assert_eq!(outcome.stages[1].output_bytes, 2, "\"3\\n\"");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(target_os = "linux"))]
compile_error!("stagehost runs on Linux (5.10 or later) only");

mod joint;
pub mod outcome;
mod pipeline;
mod plan;
mod sandbox;
pub mod spec;
mod stage;
pub mod stock;

pub use joint::inherited_descriptor;
pub use outcome::{ExitCode, Outcome, StageExit};
pub use pipeline::{Host, HostError, HostOptions, RunControl, RunOptions};
pub use plan::{Plan, PlanError, PlanErrorKind, PlanSummary, StageSummary, read_component};
pub use sandbox::{DEFAULT_MEMORY, Inspection, NotAStage, Section, SectionArg, Shape, inspect};
