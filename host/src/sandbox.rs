//! The sandbox: engines, components, and the one function that makes a Store.
//!
//! Nothing outside this module names a wasmtime type. What a guest does wrong comes out as a
//! [`StageExit`](crate::StageExit), never as an error of the host.

mod artifact;
mod budget;
mod clock;
mod compile;
mod compile_here;
mod component;
mod dumps;
mod engine;
mod files;
mod inspect;
mod kept;
mod limits;
mod lines;
mod listing;
mod lists;
mod meter;
mod net;
mod noting;
mod offers;
mod paths;
mod preview1;
mod proposals;
mod rights;
mod stdio;
mod store;
mod streams;
mod trap;
mod turns;
mod weigh;

pub(crate) use budget::CodeBudget;
pub(crate) use compile::Compilers;
pub use compile::compile_worker;
pub(crate) use component::Source;
pub(crate) use dumps::Dumps;
pub(crate) use engine::Sandbox;
pub use inspect::NotAStage;
pub use inspect::{Inspection, Section, SectionArg, Shape, inspect};
pub use limits::DEFAULT_MEMORY;
pub(crate) use limits::{HOSTCALL_COPY, LONGEST_LIST, Limits, MEMORIES, TABLES, compile_time};
pub(crate) use listing::AT_ONCE as LISTINGS_AT_ONCE;
pub(crate) use meter::{Denied, Usage};
pub use offers::NotOffered;
pub(crate) use offers::advice as advice_on_imports;
pub use proposals::validate;
pub(crate) use rights::{Denials, DirRight, Rights};
pub(crate) use stdio::Stdio;
pub(crate) use store::{GuestRun, GuestSpec, run_guest};
pub(crate) use turns::{RunTurns, Turns};
pub(crate) use weigh::{Weight, weigh, work};
