//! From a pipeline file to a [`Plan`]: everything that can be settled before the run, in one place.

mod command;
mod ends;
mod error;
mod joints;
mod known;
mod layers;
mod make;
mod nest;
mod options;
mod planned;
mod planner;
mod stage;
mod summary;
mod vary;
mod wasm;
mod work;

pub(crate) use ends::{Input, Outlet};
pub use error::{ErrorCode, PlanError, PlanErrorKind};
pub use known::KnownFiles;
pub(crate) use make::Parts;
pub use options::{Overrides, PlanOptions};
pub use planned::Plan;
pub(crate) use planned::{Node, Planned, PlannedJoint, PlannedStage};
pub use summary::{JointSummary, LimitsSummary, PlanSummary, StageSummary};
pub(crate) use vary::Variation;
pub use wasm::read_component;
pub(crate) use work::{CommandLimits, CommandWork, WasmWork, Work};
