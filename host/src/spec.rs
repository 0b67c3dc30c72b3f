//! The pipeline file: JSON text in, a [`PipelineSpec`] out.
//!
//! What can be said about a file without looking at the world is checked here, once: afterwards names are unique, sizes
//! and durations are numbers, and unknown keys are gone. Files, components and digests are the plan's business. Errors
//! carry their place (`stages[2].limits.memory`, or line and column for a syntax error) and a hint.

mod bytes;
mod check;
mod error;
mod grants;
mod limits;
mod node;
mod parse;
mod problems;
#[cfg(feature = "schema")]
mod schema;
mod shorthand;
mod types;
mod value;
mod word_or;
mod words;

pub use bytes::{escaped_byte, to_os, to_path, to_text};
pub use error::SpecError;
pub(crate) use error::{Place, nearest};
pub use grants::{Access, ClockSpec, DirGrant, DirRequest, GrantsSpec, NetGrant, RandomSpec, Requests};
pub use limits::LimitsSpec;
pub(crate) use limits::TooMuch;
pub use parse::{MAX_FILE_BYTES, MAX_VALUES, parse};
pub(crate) use parse::{read_json, values};
pub use problems::{Problems, problems};
#[cfg(feature = "schema")]
pub use schema::schema;
pub use shorthand::shorthand;
pub use types::{
    BrokenPipe, Declared, Eof, FileSink, Ignore, Leftovers, OkExit, OnFailure, OnTrap, PipelineSpec, Requirement,
    RequiresSpec, Sandboxing, StageSpec, StderrSpec, StdinSpec, StdoutSpec, Upstream,
};
pub use value::{Bound, Size, Span, parse_duration};

/// The most stages a pipeline may have.
pub const MAX_STAGES: usize = 10_000;
