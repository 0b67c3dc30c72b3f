//! What a guest may use, with defaults.

use std::time::Duration;

use crate::spec::{Bound, LimitsSpec, Size, Span};

/// The memory limit of a stage that sets none, in bytes.
pub const DEFAULT_MEMORY: u64 = 256 << 20;

/// Bytes that the host may copy out of a guest in one call. What is larger goes in pieces: reads and writes of preview1, which may be
/// of any size, and lists of WASI 0.2, up to [`LONGEST_LIST`].
pub(crate) const HOSTCALL_COPY: usize = 2 << 20;
/// Bytes that a call may hand over of which the host copies no more than it uses.
pub(crate) const LONGEST_LIST: usize = 128 << 20;
/// Random bytes that one call of WASI 0.3 gives: it may give less than it is asked for.
pub(super) const MAX_RANDOM: u64 = 1 << 20;
/// Memories and tables of one stage. A component that is composed of others has those of all of them: as many as its modules
/// define, up to the second number, or the first if that is more (one module may be instantiated several times).
pub(crate) const MEMORIES: (usize, usize) = (8, 64);
pub(crate) const TABLES: (usize, usize) = (64, 512);
/// What one handle may cost the host, in bytes: a pending subtask has about 0.8 KiB.
const HANDLE: u64 = 1024;
/// What a fiber needs beyond the guest's stack: the host's own frames, with room to spare.
pub(super) const HOST_STACK: usize = 3 << 19;

/// The most frames of a trap that a report carries.
pub(super) const MAX_FRAMES: usize = 32;

/// What a stage may use. `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The sum of all linear memories and tables, in bytes.
    pub(crate) memory: Option<u64>,
    /// The call stack, in bytes: a power of two.
    pub(crate) stack: usize,
    /// Processor time, measured while the stage's own code runs and the host works for it.
    pub(crate) cpu_time: Option<Duration>,
    /// Time without a byte in or out while it waits for neither.
    pub(crate) stall_time: Option<Duration>,
    /// Instructions, as wasmtime counts them.
    pub(crate) fuel: Option<u64>,
    pub(crate) input_bytes: Option<u64>,
    pub(crate) output_bytes: Option<u64>,
    pub(crate) stderr_bytes: Option<u64>,
    /// Handles, resources and streams at once.
    pub(crate) handles: usize,
    /// Resources at once of a guest with directories or network, each of which may take a descriptor of the host.
    pub(crate) open_files: usize,
    /// Core instances of a component.
    pub(crate) instances: usize,
    /// Memories and tables of all of them; not in files.
    pub(crate) memories: usize,
    pub(crate) tables: usize,
    /// Bytes that one call may hand over; not in files.
    pub(crate) list_bytes: usize,
    /// What the host needs for its instances, besides their memories, in bytes; not in files.
    pub(crate) state: u64,
    /// The stacks that its instances may have at once; not in files.
    pub(crate) stacks: usize,
    /// What is kept of it once it is compiled, besides its code, in bytes; not in files.
    pub(crate) kept: u64,
    /// The component's file, in bytes.
    pub(crate) component_size: u64,
    /// Processor time of its compilation.
    pub(crate) compile_time: Option<Duration>,
    /// Memory of its compilation, in bytes.
    pub(crate) compile_memory: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Some(DEFAULT_MEMORY),
            stack: 512 << 10,
            cpu_time: None,
            stall_time: None,
            fuel: None,
            input_bytes: None,
            output_bytes: None,
            stderr_bytes: Some(256 << 20),
            handles: 10_000,
            open_files: 256,
            instances: 64,
            memories: MEMORIES.0,
            tables: TABLES.0,
            list_bytes: HOSTCALL_COPY,
            state: 0,
            stacks: 1,
            kept: 0,
            component_size: 256 << 20,
            compile_time: Some(compile_time(0)),
            compile_memory: Some(4 << 30),
        }
    }
}

/// The processor time that compiling a file of that many bytes may take, if nobody says otherwise: 30 s, and 3 s for each MiB.
pub(crate) fn compile_time(bytes: u64) -> Duration {
    Duration::from_secs(30 + 3 * bytes.div_ceil(1 << 20))
}

impl Limits {
    /// These limits as a pipeline file says them.
    pub(crate) fn spec(&self) -> LimitsSpec {
        let size = |bytes: Option<u64>| bytes.map(|bytes| Bound::At(Size(bytes)));
        let time = |time: Option<Duration>| time.map(|time| Bound::At(Span(time)));
        let count = |count: usize| Some(Bound::At(count as u64));
        LimitsSpec {
            memory: size(self.memory),
            stack: size(Some(self.stack as u64)),
            cpu_time: time(self.cpu_time),
            stall_time: time(self.stall_time),
            fuel: self.fuel.map(Bound::At),
            input_bytes: size(self.input_bytes),
            output_bytes: size(self.output_bytes),
            stderr_bytes: size(self.stderr_bytes),
            handles: count(self.handles),
            open_files: count(self.open_files),
            instances: count(self.instances),
            component_size: size(Some(self.component_size)),
            compile_time: time(self.compile_time),
            compile_memory: size(self.compile_memory),
            ..LimitsSpec::default()
        }
    }

    /// What the host may hold for one guest besides the guest's own memory: its stacks, handles and one call's data, the state of its
    /// instances, and what is kept of its component. Shown in the plan; not part of the guest's own limit.
    pub(crate) fn allowance(&self) -> u64 {
        let stacks = (self.stacks.min(self.instances) as u64).saturating_mul((HOST_STACK + self.stack) as u64);
        (self.handles as u64)
            .saturating_mul(HANDLE)
            .saturating_add(HOSTCALL_COPY as u64)
            .saturating_add(stacks)
            .saturating_add(self.state.saturating_add(self.kept))
    }
}
