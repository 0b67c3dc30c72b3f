//! What a stage runs, with everything that was settled about it.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;

use super::error::{PlanError, PlanErrorKind};
use crate::{
    function::Function,
    joint::Named,
    process::{Environment, Rlimits, WallSpec},
    sandbox::{ComponentFile, Inspection, LISTINGS_AT_ONCE, Limits, Ready, Rights, Shape, maps_of, validate, work},
    spec::{Eof, Leftovers},
};

/// What a stage runs.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Wasm(Box<WasmWork>),
    Command(Arc<CommandWork>),
    Function(Function),
}

/// A sandboxed stage that can run.
#[derive(Clone, Debug)]
pub(crate) struct WasmWork {
    pub(crate) source: String,
    pub(crate) bytes: Bytes,
    pub(crate) digest: [u8; 32],
    pub(crate) inspection: Inspection,
    /// How many memories its instances have at most.
    pub(crate) memories: u64,
    /// Its arguments, its name first.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limits: Limits,
    pub(crate) rights: Rights,
    /// What the file grants, for people.
    pub(crate) granted: Vec<String>,
    /// What the component asks for and is not granted.
    pub(crate) asked: Vec<String>,
    /// The variables of the pipeline's that it cannot be told, because they are not UTF-8.
    pub(crate) untold: Vec<String>,
    /// The limits that it suggests and does not get, because they are beyond the defaults.
    pub(crate) suggested: Vec<String>,
    /// Whether it is told which of its streams are a terminal.
    pub(crate) terminal: bool,
    /// The component's file; `None`: a stock stage.
    pub(crate) path: Option<PathBuf>,
    /// What was loaded ahead.
    pub(crate) ready: Ready,
}

impl WasmWork {
    /// How many memory maps it takes of its host's process while it runs.
    pub(crate) fn maps(&self) -> u64 {
        let Inspection { fits_slots, tables, .. } = self.inspection;
        let (memories, stacks) =
            (self.memories.min(self.limits.memories as u64), self.limits.stacks.min(self.limits.instances));
        maps_of(memories, stacks as u64, if fits_slots { 0 } else { tables as u64 + 4 })
    }

    /// What it is compiled from.
    pub(crate) fn code(&self) -> ComponentFile {
        let (bytes, digest, shape) = (self.bytes.clone(), self.digest, self.inspection.shape);
        ComponentFile { bytes, digest, shape, is_ours: self.source.starts_with("builtin:"), kept: self.limits.kept }
    }

    /// Checks the whole component as its compiler would, and what compiling it would take. Compiles nothing.
    ///
    /// # Errors
    ///
    /// What it may not be made of.
    pub(super) fn validate(&self, place: &str) -> Result<(), PlanError> {
        if self.path.is_none() {
            return Ok(());
        }
        let refused = |message: String| {
            PlanError::new(PlanErrorKind::Refused, format!("{place}.wasm"), format!("{}: {message}", self.source))
        };
        validate(&self.bytes, self.limits.compile_time)
            .map_err(|error| PlanError { hint: error.hint, ..refused(error.message) })?;
        work(&self.bytes).map(drop).map_err(|why| refused(format!("it is too costly to compile: {why}")))
    }

    /// The descriptors that the stage may take for itself.
    pub(super) fn open_files(&self) -> u32 {
        if !self.rights.need_descriptors() {
            return 0;
        }
        let streamed = self.inspection.shape == Shape::ComponentP3 && !self.rights.dirs.is_empty();
        let listings = if streamed { LISTINGS_AT_ONCE } else { 0 };
        // Preview1 keeps the directory that it listed last.
        u32::try_from(self.limits.open_files + self.rights.dirs.len() + listings + 1).unwrap_or(u32::MAX)
    }
}

/// A command that can run.
#[derive(Clone, Debug)]
pub(crate) struct CommandWork {
    /// The program's file.
    pub(crate) program: PathBuf,
    /// Its arguments, its name as it was written first.
    pub(crate) arguments: Vec<OsString>,
    /// Its whole environment.
    pub(crate) environment: Arc<Environment>,
    /// The variables that the pipeline gives it.
    pub(crate) variables: BTreeMap<String, String>,
    /// The directory it runs in; `None`: the host's own.
    pub(crate) directory: Option<PathBuf>,
    /// What these are opened by, where they have to be below a directory: the directory it runs in, and the program.
    pub(crate) directory_at: Option<Named>,
    pub(crate) program_at: Option<Named>,
    pub(crate) limits: CommandLimits,
    pub(crate) eof: Eof,
    pub(crate) leftovers: Leftovers,
    /// The wall around it, and what of it this kernel lacks.
    pub(crate) wall: Option<(WallSpec, Vec<String>)>,
    /// The digest of the program's file, if it was asked for.
    pub(crate) digest: Option<[u8; 32]>,
}

/// What a command and everything it starts may use. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLimits {
    /// Resident memory of the whole tree, in bytes.
    pub(crate) memory: Option<u64>,
    /// Processor time of the whole tree.
    pub(crate) cpu_time: Option<Duration>,
    /// Processes of the whole tree.
    pub(crate) processes: Option<u64>,
    /// What the kernel holds for each process.
    pub(crate) rlimits: Rlimits,
}

impl CommandLimits {
    /// Whether something has to be looked at while it runs.
    pub(crate) fn are_watched(&self) -> bool {
        self.memory.is_some() || self.cpu_time.is_some() || self.processes.is_some()
    }
}
