//! Stages, one file per kind. A stage takes the halves of its joints, runs, and ends as a [`StageExit`](crate::StageExit).

mod command;
mod copying;
mod function;
mod gauge;
mod inside;
mod wasm;
mod watch;

pub(crate) use command::{ChildInput, ChildOutput, ChildStderr, CommandStage, Surroundings};
pub(crate) use function::FunctionStage;
pub(crate) use gauge::{Gauge, Gauges, Phase, Reading};
pub(crate) use inside::{InProcess, StageEnd};
pub(crate) use wasm::WasmStage;
