//! What each stage is wired to, of its own kind: a stage in this process to halves, a program to descriptors. Whatever is given to a stage
//! asks which of the two it has, so that neither can be given what is for the other.

use std::{io, sync::Arc};

use stagehost_ring::{Capacity, Options, ring};

use super::{made::MadeJoint, shared::Shared};
use crate::{
    function::Function,
    joint::{self, DescriptorSink, DescriptorSource, JointKind, Sink, Source},
    plan::{CommandWork, PlannedJoint, PlannedStage, WasmWork, Work},
    stage::{ChildInput, ChildOutput, ChildStderr},
};

/// A stage, and what it is wired to.
pub(super) enum Wiring<'a> {
    Wasm(&'a WasmWork, Halves),
    Function(&'a Function, Halves),
    Command(&'a Arc<CommandWork>, Descriptors),
}

/// What a stage in this process is given. What nobody fills is empty, and takes everything.
#[derive(Debug)]
pub(super) struct Halves {
    pub(super) source: Source,
    pub(super) sink: Sink,
    pub(super) stderr: Sink,
}

/// What a program is given. What nobody fills is `/dev/null`.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    pub(super) stdin: Option<ChildInput>,
    pub(super) stdout: Option<ChildOutput>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Default for Halves {
    fn default() -> Self {
        Self { source: Source::Null, sink: Sink::Null, stderr: Sink::Null }
    }
}

/// What can be given to a stage, by its kind.
pub(super) enum Sides<'a> {
    Inside(&'a mut Halves),
    Child(&'a mut Descriptors),
}

impl<'a> Wiring<'a> {
    pub(super) fn of(stage: &'a PlannedStage) -> Self {
        match &stage.work {
            Work::Wasm(work) => Self::Wasm(work, Halves::default()),
            Work::Function(function) => Self::Function(function, Halves::default()),
            Work::Command(work) => Self::Command(work, Descriptors::default()),
        }
    }

    pub(super) fn sides(&mut self) -> Sides<'_> {
        match self {
            Self::Wasm(_, halves) | Self::Function(_, halves) => Sides::Inside(halves),
            Self::Command(_, descriptors) => Sides::Child(descriptors),
        }
    }

    /// What was to be written, of a stage in this process that is not started.
    pub(super) fn into_sink(self) -> Option<Sink> {
        match self {
            Self::Wasm(_, halves) | Self::Function(_, halves) => Some(halves.sink),
            Self::Command(..) => None,
        }
    }
}

impl Descriptors {
    /// All three.
    ///
    /// # Errors
    ///
    /// When there is no `/dev/null`.
    pub(super) fn filled(self) -> io::Result<(ChildInput, ChildOutput, ChildStderr)> {
        let Self { stdin, stdout, stderr } = self;
        Ok((
            stdin.map_or_else(|| joint::null().map(|file| ChildInput { file, feed: None }), Ok)?,
            stdout.map_or_else(
                || joint::null().map(|file| ChildOutput { file, drain: None, kept: None, end: None }),
                Ok,
            )?,
            stderr.map_or_else(|| joint::null().map(|file| ChildStderr { file, log: None }), Ok)?,
        ))
    }
}

/// Makes the joint between two stages: what the host keeps of it, and what it gives each of them. A ring is between two in this process.
///
/// # Errors
///
/// When there is no pipe to be had.
pub(super) fn join(
    joint: &PlannedJoint,
    up: &mut Wiring<'_>,
    down: &mut Wiring<'_>,
    shared: &Shared,
) -> io::Result<MadeJoint> {
    let (up, down) = match (joint.kind, up.sides(), down.sides()) {
        (JointKind::Ring, Sides::Inside(up), Sides::Inside(down)) => {
            let capacity = Capacity::at_least(usize::try_from(joint.capacity).unwrap_or(usize::MAX));
            let (writer, reader) = ring(&shared.pool, Options { capacity, ..Options::default() });
            let ring = Some(writer.monitor());
            (up.sink, down.source) = (Sink::Ring(writer), Source::Ring(reader));
            return Ok(MadeJoint { capacity: Some(joint.capacity), ring, kept: None });
        }
        (_, up, down) => (up, down),
    };
    let pipe = shared.pipes.pipe(joint.capacity)?;
    match up {
        Sides::Inside(up) => up.sink = Sink::Descriptor(DescriptorSink::owned(pipe.write)?),
        Sides::Child(up) => {
            let kept = Some(pipe.kept.clone());
            up.stdout = Some(ChildOutput { file: pipe.write, drain: None, kept, end: None });
        }
    }
    match down {
        Sides::Inside(down) => {
            down.source = Source::Pipe(DescriptorSource::owned(pipe.read)?, pipe.kept.fate.clone());
        }
        Sides::Child(down) => down.stdin = Some(ChildInput { file: pipe.read, feed: None }),
    }
    Ok(MadeJoint { capacity: Some(pipe.capacity), ring: None, kept: Some(pipe.kept) })
}
