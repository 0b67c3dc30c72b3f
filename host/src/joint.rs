//! The halves of joints that are handed to stages, and the ends of a pipeline.
//!
//! A stage reads a [`Source`] and writes a [`Sink`]; whoever holds one closes it by dropping it. The ring is a crate of its
//! own; files and descriptors are here. Nothing here knows a sandbox.

mod atomic;
mod bounce;
mod buffers;
mod declared;
mod descriptor;
mod fan_out;
mod file;
mod half;
mod halves;
mod kind;
mod named;
mod open;
mod outside;
mod pipe;
mod port;
mod prefixed;
mod shown;
mod stop;
mod system;
mod tail;
mod whole;

pub(crate) use atomic::AtomicFile;
pub(crate) use buffers::Buffers;
pub(crate) use declared::{Declared, Expected};
pub use descriptor::inherited_descriptor;
pub(crate) use descriptor::{DescriptorSink, DescriptorSource, watch as watch_descriptor};
pub(crate) use halves::{InputPort, OutputPort, Sink, Source, WatchedInput, WatchedOutput};
pub use kind::JointKind;
pub(crate) use named::{Base, Named, Root};
pub(crate) use open::{
    Identity, Opened, Output, input_descriptor, log_descriptor, null, open_log, open_stderr, open_stdin, open_stdout,
    output_descriptor, stderr_descriptor, text_descriptor, truncate,
};
pub(crate) use outside::{OutsideSink, OutsideSource};
pub(crate) use pipe::{KeptEnds, PIPE_CAPACITY, PipeQuota, has_no_reader};
pub(crate) use port::{EndFailure, Moved, PERMIT, Passing};
pub(crate) use prefixed::Prefixed;
pub(crate) use shown::Shown;
pub(crate) use stop::{Countdown, Stop, StopReason};
pub(crate) use system::{check_whole, is_of_processes};
pub use whole::WholeFile;
