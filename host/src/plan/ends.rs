//! The ends of a planned pipeline: what feeds it and what takes from it. Nothing is opened but a regular file, to see that it can be.

use std::{fmt, io};

use bytes::Bytes;

use rustix::fs::{Mode, OFlags};

use super::error::{ErrorCode, PlanError, PlanErrorKind};
use crate::{
    joint::{Base, Expected, Named, Output},
    policy::Policy,
    spec::{FileSink, Place, StdinSpec, to_path, to_text},
};

/// What the first stage will read.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Inherit,
    Null,
    /// A file, and how many bytes it had when the plan was made, if it is a regular one.
    File(Named, Option<u64>),
    Text(Bytes),
    /// What the program gives to each run.
    Program,
    /// Any of these, of which somebody has said how it must end.
    Declared(Box<Self>, Expected),
}

impl Input {
    /// Whether it is the host's own standard input.
    pub(crate) fn is_inherited(&self) -> bool {
        match self {
            Self::Inherit => true,
            Self::Declared(input, _) => input.is_inherited(),
            Self::File(..) | Self::Null | Self::Text(_) | Self::Program => false,
        }
    }
}

/// What will take the last stage's output.
#[derive(Clone, Debug)]
pub(crate) enum Outlet {
    Null,
    Place(Output),
    /// What the program gives to each run.
    Program,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("standard input"),
            Self::Null => f.write_str("nothing"),
            Self::File(file, _) => f.write_str(&to_text(file.path())),
            Self::Text(text) => write!(f, "a text of {} bytes", text.len()),
            Self::Program => f.write_str("the program's reader"),
            Self::Declared(input, _) => input.fmt(f),
        }
    }
}

pub(super) fn plan_stdin(
    stdin: Option<&StdinSpec>,
    base: &Base,
    policy: &Policy,
    place: &Place,
) -> Result<Input, PlanError> {
    match stdin.unwrap_or(&StdinSpec::Inherit) {
        StdinSpec::Inherit => Ok(Input::Inherit),
        StdinSpec::Null => Ok(Input::Null),
        StdinSpec::Text(text) => Ok(Input::Text(Bytes::copy_from_slice(text.as_bytes()))),
        StdinSpec::File(file) => {
            let path = base.join(to_path(file));
            // First: under a policy no answer tells what is outside.
            let named = policy.check_file(&path, base, &place.key("file"))?;
            let refused = |error: io::Error| PlanError::system(PlanErrorKind::End, place.key("file"), &path, &error);
            // A preflight opens nothing but regular files: opening a FIFO would wait, a device may act.
            let metadata = named.metadata().map_err(refused)?;
            if metadata.is_dir() {
                let refused = PlanError::new(PlanErrorKind::End, place.key("file"), "is a directory");
                return Err(refused.code(ErrorCode::IsADirectory).about(path));
            }
            if metadata.is_file() {
                named.open(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).map_err(refused)?;
            }
            let size = metadata.is_file().then_some(metadata.len());
            Ok(Input::File(named, size))
        }
        StdinSpec::Declared(from, declared) => {
            let input = plan_stdin(Some(from), base, policy, place)?;
            let sha256 = match declared.sha256.as_deref() {
                Some(text) => Some(crate::digest::parse(text).ok_or_else(|| {
                    let place = place.key("sha256");
                    PlanError::new(PlanErrorKind::Pipeline, place, "a SHA-256 digest is 64 hexadecimal digits")
                })?),
                None => None,
            };
            Ok(Input::Declared(Box::new(input), Expected { bytes: declared.bytes, sha256 }))
        }
    }
}

pub(super) fn plan_stdout(file: &FileSink, base: &Base, policy: &Policy, place: &Place) -> Result<Output, PlanError> {
    let path = base.join(to_path(&file.file));
    if let Some(stream) = Output::stream(&path) {
        return Ok(stream);
    }
    let named = policy.check_file(&path, base, &place.key("file"))?;
    Output::of(&named, file.append == Some(true), file.atomic).map_err(|why| {
        PlanError::new(PlanErrorKind::End, place.key("file"), why)
            .code(ErrorCode::NotAtomic)
            .at(path)
            .hint("\"atomic\": false writes in place, which may leave half a file when the run fails")
    })
}
