//! From a [`Plan`](crate::Plan) to an [`Outcome`](crate::Outcome): opens the ends, makes the joints, starts the stages, supervises and
//! stops them.

mod admission;
mod apart;
mod collect;
mod control;
mod copy;
mod drain;
mod ends;
mod going;
mod host;
mod host_options;
mod judge;
mod leftovers;
mod made;
mod options;
mod prepare;
mod run;
mod running;
mod shared;
mod snapshot;
mod start;
mod supervise;
mod wiring;

pub use collect::Collecting;
pub use control::{ProcessHandle, RunControl};
pub use drain::Draining;
pub use host::{Host, HostError};
pub use host_options::HostOptions;
pub use options::{RunOptions, StderrPrefix};
pub use prepare::{PrepareError, Preparing, Progress};
pub use running::Running;
pub use snapshot::{HostSnapshot, RunPhase, RunSnapshot, StagePhase, StageSnapshot, WaitsFor};
