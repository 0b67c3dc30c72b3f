//! The sandbox: engines, components, and the one function that makes a Store.
//!
//! Nothing outside this module names a wasmtime type. What a guest does wrong comes out as a
//! [`StageExit`](crate::StageExit), never as an error of the host.

mod budget;
mod calls;
mod code;
mod component;
mod dumps;
mod engine;
mod entry;
mod guest;
mod kind;
mod limits;
mod lines;
mod linker;
mod maps;
mod messages;
mod ready;
mod stacks;
mod store;
mod trap;
mod turns;

pub(crate) use budget::CodeBudget;
pub use code::compile::compile_worker;
pub(crate) use code::{
    compile::Compilers,
    file::ComponentFile,
    offers::advice as advice_on_imports,
    weigh::{Weight, weigh},
    work::work,
};
pub use code::{
    inspect::{Inspection, Section, SectionArg, Shape, inspect},
    not_a_stage::NotAStage,
    offers::NotOffered,
    proposals::validate,
};
pub(crate) use dumps::Dumps;
pub(crate) use engine::Sandbox;
pub(crate) use guest::{
    denials::Denials,
    listings::AT_ONCE as LISTINGS_AT_ONCE,
    meter::{Denied, Usage},
    rights::{DirRight, Rights},
    spec::GuestSpec,
    stdio::Stdio,
};
pub(crate) use kind::EngineKind;
pub use limits::DEFAULT_MEMORY;
pub(crate) use limits::{HOSTCALL_COPY, LONGEST_LIST, Limits, MEMORIES, TABLES, compile_time};
pub(crate) use maps::maps_of;
pub(crate) use ready::{Ready, ReadyCode};
pub(crate) use store::{GuestRun, run_guest};
pub(crate) use turns::{RunTurns, Turns};
