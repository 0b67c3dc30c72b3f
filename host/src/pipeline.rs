//! From a [`Plan`](crate::Plan) to an [`Outcome`](crate::Outcome): opens the ends, makes the joints, starts the stages, supervises and
//! stops them.

mod admission;
mod collect;
mod control;
mod copy;
mod ends;
mod host;
mod judge;
mod leftovers;
mod made;
mod options;
mod run;
mod shared;
mod supervise;

pub use collect::Collecting;
pub use control::{ProcessHandle, RunControl};
pub use host::{Host, HostError, HostOptions, Running};
pub use options::{RunOptions, StderrPrefix};
