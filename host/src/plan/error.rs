//! What a plan cannot be made of.

use std::{ffi::OsStr, fmt, io, path::Path};

use serde::Serialize;

use crate::{
    outcome::ExitCode,
    policy::Refusal,
    spec::{Place, SpecError, to_text},
};

/// What a plan cannot be made of.
///
/// Its text names what the operator needs to see, files of the host among it. Others are shown [`text_without_path`](Self::text_without_path)
/// and the code; `path` and `hint` may have paths of the host's. What stands in the pipeline itself is not kept back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanError {
    /// The place in the pipeline file.
    pub place: String,
    /// What is wrong there, or with the [`path`](Self::path).
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What kind of trouble it is.
    pub kind: PlanErrorKind,
    /// What is wrong, for programs.
    pub code: ErrorCode,
    /// The file, directory or program that it is about.
    pub path: Option<String>,
    /// Whether the message is a sentence of its own, and not what is said of the path.
    pub(super) is_sentence: bool,
}

/// What kind of trouble a [`PlanError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanErrorKind {
    /// The pipeline cannot be as it is written.
    Pipeline,
    /// A stage does not exist.
    NotFound,
    /// A stage is refused: its digest, or what its file is.
    Refused,
    /// An end cannot be used.
    End,
    /// The run's time was over before it could begin.
    Timeout,
}

/// What is wrong, for programs: these words stay as they are, whatever the messages say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The pipeline's text is no pipeline, or says what cannot be.
    InvalidPipeline,
    /// A file, program, directory or stock stage is not there.
    NotFound,
    /// A directory stands where a file should.
    IsADirectory,
    /// Something else stands where a directory should.
    NotADirectory,
    /// A program cannot be run.
    NotExecutable,
    /// The system refuses a file or directory.
    Inaccessible,
    /// A file is no component or module that can be a stage, or is too costly to compile.
    NotAStage,
    /// A component imports what this host does not offer.
    ImportNotOffered,
    /// A digest is another.
    DigestMismatch,
    /// A component is larger than its limit.
    TooLarge,
    /// An output cannot be written as it is to be: whole or not at all.
    NotAtomic,
    /// The policy does not allow it.
    DeniedByPolicy,
    /// It may not be granted to anybody, or not with the rest.
    NotGrantable,
    /// A deterministic run cannot have it.
    NotDeterministic,
    /// This system cannot do it.
    Unsupported,
    /// Planning took longer than the run may take.
    TimedOut,
    /// The host has more runs waiting than it lets wait: try again later.
    Busy,
    /// The run may hold more memory than the host has for all.
    OverMemory,
    /// The host is being drained and takes no more runs.
    ShuttingDown,
}

impl ErrorCode {
    /// Its word, such as `not-found`.
    pub fn word(self) -> String {
        // An enum without fields has nothing that JSON could not say.
        serde_json::to_value(self).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

impl PlanError {
    pub(crate) fn new(kind: PlanErrorKind, place: impl Into<String>, message: impl Into<String>) -> Self {
        let code = match kind {
            PlanErrorKind::Pipeline => ErrorCode::InvalidPipeline,
            PlanErrorKind::NotFound => ErrorCode::NotFound,
            PlanErrorKind::Refused => ErrorCode::NotAStage,
            PlanErrorKind::End => ErrorCode::Inaccessible,
            PlanErrorKind::Timeout => ErrorCode::TimedOut,
        };
        Self { place: place.into(), message: message.into(), hint: None, kind, code, path: None, is_sentence: false }
    }

    /// What the system says of a path.
    pub(crate) fn system(
        kind: PlanErrorKind,
        place: impl Into<String>,
        path: impl AsRef<OsStr>,
        error: &io::Error,
    ) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ErrorCode::NotFound,
            io::ErrorKind::IsADirectory => ErrorCode::IsADirectory,
            io::ErrorKind::NotADirectory => ErrorCode::NotADirectory,
            _ => ErrorCode::Inaccessible,
        };
        Self::new(kind, place, error.to_string()).code(code).at(path)
    }

    /// Of a grant of what is the kernel's.
    pub(super) fn of_the_systems(place: &Place, host: &Path) -> Self {
        Self::new(PlanErrorKind::Refused, place, "holds the kernel's own files")
            .code(ErrorCode::NotGrantable)
            .about(host)
            .hint("they reach this very process; grant the directory that is meant")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn code(mut self, code: ErrorCode) -> Self {
        self.code = code;
        self
    }

    /// Names what the message says something of.
    pub(crate) fn about(mut self, path: impl AsRef<OsStr>) -> Self {
        self.path = Some(to_text(path));
        self
    }

    /// Names the path at which that is so.
    pub(crate) fn at(self, path: impl AsRef<OsStr>) -> Self {
        Self { is_sentence: true, ..self.about(path) }
    }

    /// Its text without the place.
    pub fn text(&self) -> String {
        match &self.path {
            Some(path) if self.is_sentence => format!("{path}: {}", self.message),
            Some(path) => format!("{path} {}", self.message),
            None => self.message.clone(),
        }
    }

    /// Its text with the place and without paths of the host's, for those who are not to see them.
    pub fn text_without_path(&self) -> String {
        match &self.path {
            Some(_) if !self.is_sentence => format!("{}: what it names {}", self.place, self.message),
            _ => format!("{}: {}", self.place, self.message),
        }
    }

    /// The number of the stage that it is about, from 0, in the outermost file; `None`: it is about the whole, or about flags.
    pub fn stage(&self) -> Option<usize> {
        self.place.strip_prefix("stages[")?.split_once(']')?.0.parse().ok()
    }

    /// The field that it is about, such as `grants.dirs[0].host`, in the stage, or in the outermost file where it is about no stage. What a
    /// nested file says has that file's place behind `, in FILE: `.
    pub fn field(&self) -> &str {
        let of_stage = self.place.strip_prefix("stages[").and_then(|rest| rest.split_once(']'));
        of_stage.map_or(self.place.as_str(), |(_, field)| field.strip_prefix('.').unwrap_or(field))
    }

    /// The limit that it is about, such as `memory`.
    pub fn limit(&self) -> Option<&str> {
        let (_, limit) = self.place.rsplit_once("limits.")?;
        (!limit.is_empty() && limit.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')).then_some(limit)
    }

    /// The exit code it gives `stagehost run`.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            PlanErrorKind::Pipeline => ExitCode::BadPipeline,
            PlanErrorKind::NotFound => ExitCode::NotFound,
            PlanErrorKind::Refused => ExitCode::Refused,
            PlanErrorKind::End => ExitCode::Host,
            PlanErrorKind::Timeout => ExitCode::TimedOut,
        }
    }
}

impl From<Refusal> for PlanError {
    fn from(Refusal { place, message, hint, path }: Refusal) -> Self {
        let refused = Self::new(PlanErrorKind::Refused, place, message).code(ErrorCode::DeniedByPolicy);
        Self { hint, path, ..refused }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text())
    }
}

impl std::error::Error for PlanError {}

impl SpecError {
    /// What is wrong, for programs.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidPipeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_about_is_told_apart() {
        let about = |place: &str| {
            let error = PlanError::new(PlanErrorKind::Refused, place, "is refused").about("/srv/secret");
            assert_eq!(error.to_string(), format!("{place}: /srv/secret is refused"));
            assert_eq!(error.text_without_path(), format!("{place}: what it names is refused"));
            (error.stage(), error.field().to_owned(), error.limit().map(str::to_owned))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(about("stages[2].grants.dirs[0].host"), (Some(2), "grants.dirs[0].host".into(), None));
        assert_eq!(about("stages[0].limits.memory"), (Some(0), "limits.memory".into(), some("memory")));
        assert_eq!(about("limits.cpu_time"), (None, "limits.cpu_time".into(), some("cpu_time")));
        assert_eq!(about("stages[1]"), (Some(1), String::new(), None));
        assert_eq!(
            about("stages[1].pipeline, in x.json: stages[0].wasm"),
            (Some(1), "pipeline, in x.json: stages[0].wasm".into(), None)
        );
        let at = PlanError::new(PlanErrorKind::End, "stdin.file", "is not there").at("/srv/secret");
        assert_eq!(at.text_without_path(), "stdin.file: is not there");
    }
}
