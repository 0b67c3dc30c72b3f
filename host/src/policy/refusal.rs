//! What a policy does not allow.

use std::path::Path;

use crate::spec::{Place, to_text};

/// What a policy does not allow, and where it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The place in the pipeline file.
    pub(crate) place: String,
    /// What is wrong there, or with the path.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The file, directory or program that it is about.
    pub(crate) path: Option<String>,
}

impl Refusal {
    /// A refusal by that field of the policy.
    pub(super) fn by(place: &Place, field: &str, message: String) -> Self {
        let message = format!("{message}; the policy's `{field}` does not allow it");
        Self { place: place.into(), message, hint: None, path: None }
    }

    /// Names what the message says something of.
    pub(super) fn about(self, path: &Path) -> Self {
        Self { path: Some(to_text(path)), ..self }
    }
}
