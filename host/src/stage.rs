//! Stages, one file per kind. A stage takes the halves of its joints, runs, and ends as a [`StageExit`](crate::StageExit).

mod wasm;

pub(crate) use wasm::{StageEnd, WasmStage};
