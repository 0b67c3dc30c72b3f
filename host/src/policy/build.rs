//! Policies that are made in code.

use std::{path::PathBuf, time::Duration};

use super::{DirRoot, Policy, StageKind};
use crate::spec::{Access, LimitsSpec, NetGrant, Sandboxing, Size, Span};

/// Each of these says one thing more of what pipelines may ask for, as the field of its name in a policy file does.
///
/// ```
/// use std::time::Duration;
///
/// use stagehost::{Policy, spec::Access};
///
/// // Strangers' plugins from one directory, with a scratch directory for each of their runs.
/// let policy = Policy::wasm_only()
///     .plugin_directory("/srv/plugins")
///     .directory("/srv/scratch", Access::Write)
///     .timeout(Duration::from_secs(30))
///     .total_memory(1 << 30);
/// # drop(policy);
/// ```
impl Policy {
    /// Sets [`stages`](Self::stages).
    #[must_use]
    pub fn stages(mut self, kinds: impl IntoIterator<Item = StageKind>) -> Self {
        self.stages = Some(kinds.into_iter().collect());
        self
    }

    /// Adds to [`plugins`](Self::plugins).
    #[must_use]
    pub fn plugin_directory(mut self, directory: impl Into<String>) -> Self {
        self.plugins.get_or_insert_default().push(directory.into());
        self
    }

    /// Adds to [`files`](Self::files).
    #[must_use]
    pub fn file_directory(mut self, directory: impl Into<String>) -> Self {
        self.files.get_or_insert_default().push(directory.into());
        self
    }

    /// Adds to [`dirs`](Self::dirs).
    #[must_use]
    pub fn directory(mut self, path: impl Into<String>, access: Access) -> Self {
        self.dirs.get_or_insert_default().push(DirRoot { path: path.into(), access });
        self
    }

    /// Adds to [`env`](Self::env).
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>) -> Self {
        self.env.get_or_insert_default().push(name.into());
        self
    }

    /// Adds to [`net`](Self::net).
    #[must_use]
    pub fn address(mut self, address: NetGrant) -> Self {
        self.net.get_or_insert_default().push(address);
        self
    }

    /// Sets [`sandbox`](Self::sandbox).
    #[must_use]
    pub fn sandbox(mut self, least: Sandboxing) -> Self {
        self.sandbox = Some(least);
        self
    }

    /// Sets [`sha256`](Self::sha256).
    #[must_use]
    pub fn sha256(mut self, must: bool) -> Self {
        self.sha256 = Some(must);
        self
    }

    /// Sets [`recheck`](Self::recheck).
    #[must_use]
    pub fn recheck(mut self, each: bool) -> Self {
        self.recheck = Some(each);
        self
    }

    /// Sets [`limits`](Self::limits).
    #[must_use]
    pub fn limits(mut self, most: LimitsSpec) -> Self {
        self.limits = Some(most);
        self
    }

    /// Sets [`timeout`](Self::timeout).
    #[must_use]
    pub fn timeout(mut self, most: Duration) -> Self {
        self.timeout = Some(Span(most));
        self
    }

    /// Sets [`total_memory`](Self::total_memory).
    #[must_use]
    pub fn total_memory(mut self, bytes: u64) -> Self {
        self.total_memory = Some(Size(bytes));
        self
    }

    /// Sets [`max_stages`](Self::max_stages).
    #[must_use]
    pub fn max_stages(mut self, stages: u64) -> Self {
        self.max_stages = Some(stages);
        self
    }

    /// Sets [`base`](Self::base).
    #[must_use]
    pub fn base(mut self, directory: impl Into<PathBuf>) -> Self {
        self.base = directory.into();
        self
    }
}
