//! Processes: the one file that spawns them, their leaders, their trees, and the guard that outlives the host.
//!
//! A command is a leader and whatever it starts. The leader stays a zombie until its run is over: until then the kernel
//! gives its id to nobody else, and signalling its group can hit no stranger.

mod at_path;
mod beginning;
mod cgroup;
mod children;
mod grouping;
mod guard;
mod leader;
mod sessions;
mod signals;
mod spawn;
mod strings;
mod surroundings;
mod tally;
mod tree;
mod usage;
mod wall;
mod watched;

pub(crate) use at_path::AtPath;
pub(crate) use cgroup::{Cgroup, CgroupParent};
pub(crate) use grouping::Grouping;
pub use guard::Guard;
pub(crate) use guard::{GuardLink, Hold};
pub(crate) use leader::{Leader, Status};
pub use signals::{is_ignored, with_signals_held};
pub(crate) use spawn::{Launch, Rlimits, Spawner};
pub(crate) use strings::Environment;
pub(crate) use surroundings::adopt_orphans;
pub use surroundings::in_foreground;
pub(crate) use tally::Tally;
pub(crate) use tree::{Member, TreeUsage, members, name_of, orphans, usage, writes_to};
pub(crate) use usage::{cpu_of, cpu_so_far};
pub(crate) use wall::{Planned, Wall, WallSpec, WalledDir};
pub use watched::WatchedProcess;
