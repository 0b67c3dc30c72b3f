//! What this host offers to be imported, by name: to say what is missing without compiling anything.
//!
//! Of interfaces only the names are known here; one that an interface does not have under its name is found when the component is
//! linked. A test holds the lists against the linkers.

use serde::Serialize;

/// Interfaces of WASI 0.2, in any version that is compatible with 0.2.0.
const INTERFACES2: &[&str] = &[
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "filesystem/preopens",
    "filesystem/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/insecure",
    "random/insecure-seed",
    "random/random",
    "sockets/instance-network",
    "sockets/ip-name-lookup",
    "sockets/network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
];

/// Interfaces of WASI 0.3, in any version that is compatible with 0.3.0.
const INTERFACES3: &[&str] = &[
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "cli/types",
    "clocks/monotonic-clock",
    "clocks/system-clock",
    "clocks/types",
    "filesystem/preopens",
    "filesystem/types",
    "random/insecure",
    "random/insecure-seed",
    "random/random",
    "sockets/ip-name-lookup",
    "sockets/types",
];

/// The name of preview1's functions.
pub(crate) const PREVIEW1: &str = "wasi_snapshot_preview1";
/// That of the preview before it.
pub(crate) const PREVIEW0: &str = "wasi_unstable";

/// Functions of preview1.
const FUNCTIONS1: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// An import that this host does not offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotOffered {
    /// The import.
    pub import: String,
    /// What is offered that is most like it.
    pub nearest: Option<String>,
}

/// Looks for a component's import. `None`: it is offered.
pub(crate) fn interface(import: &str) -> Option<NotOffered> {
    let not = |nearest: Option<String>| Some(NotOffered { import: import.to_owned(), nearest });
    let Some((name, version)) = import.split_once('@') else { return not(None) };
    let Some(name) = name.strip_prefix("wasi:") else { return not(None) };
    let (old, new) = (INTERFACES2.contains(&name), INTERFACES3.contains(&name));
    // A version before a release is compatible with none.
    let is_release = |rest: &str| rest.parse::<u64>().is_ok();
    let is_of = |line: &str| version.strip_prefix(line).is_some_and(is_release);
    if old && is_of("0.2.") || new && is_of("0.3.") {
        return None;
    }
    let nearest = match (old, new) {
        (true, _) if version.starts_with("0.2.") || !new => Some(format!("wasi:{name}@0.2.12")),
        (_, true) => Some(format!("wasi:{name}@0.3.0")),
        _ => None,
    };
    not(nearest)
}

/// Looks for a core module's import. `None`: it is offered.
pub(crate) fn function(module: &str, name: &str) -> Option<NotOffered> {
    let is_known = matches!(module, PREVIEW1 | PREVIEW0);
    // The preview before had no `sock_accept`.
    if is_known && FUNCTIONS1.contains(&name) && (module, name) != (PREVIEW0, "sock_accept") {
        return None;
    }
    let nearest = if is_known || module.starts_with("wasi_") {
        crate::spec::nearest(name, FUNCTIONS1.iter().copied()).map(|name| format!("{PREVIEW1}::{name}"))
    } else {
        None
    };
    Some(NotOffered { import: format!("{module}::{name}"), nearest })
}

/// What to do about imports that are not offered.
pub(crate) fn advice(missing: &[NotOffered]) -> String {
    let starts = |text: &str| missing.iter().any(|missing| missing.import.starts_with(text));
    if let Some(nearest) = missing.iter().find_map(|missing| missing.nearest.as_deref()) {
        return format!("the nearest that is offered is {nearest}: build it against that version");
    }
    if starts("wasi:http/") {
        return "a stage has standard streams and no HTTP; programs reach it by sockets, where `grants.net` allows it"
            .into();
    }
    if starts("wasi::thread-spawn") || starts("env::memory") {
        return "build it for one thread, such as for wasm32-wasip1: threads and shared memories are off".into();
    }
    if starts("env::") || starts("wbg::") || starts("__wbindgen") || starts("gojs::") {
        return "it was built for a JavaScript host: build it for WASI, such as for wasm32-wasip1".into();
    }
    "a stage has WASI preview1, 0.2 or 0.3 and nothing else; `stagehost inspect` marks what is missing".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compatible_as_the_linker_has_it() {
        for offered in
            ["wasi:cli/stdin@0.2.0", "wasi:cli/stdin@0.2.99", "wasi:cli/stdin@0.3.1", "wasi:clocks/system-clock@0.3.0"]
        {
            assert_eq!(interface(offered), None, "{offered}");
        }
        let nearest = |import: &str| interface(import).expect("it is not offered").nearest;
        assert_eq!(nearest("wasi:cli/stdin@0.3.0-rc-2025-09-16").as_deref(), Some("wasi:cli/stdin@0.3.0"));
        assert_eq!(nearest("wasi:io/streams@0.3.0").as_deref(), Some("wasi:io/streams@0.2.12"));
        assert_eq!(nearest("wasi:clocks/wall-clock@0.3.0").as_deref(), Some("wasi:clocks/wall-clock@0.2.12"));
        assert_eq!(nearest("wasi:http/types@0.2.0"), None);
        assert_eq!(nearest("mine"), None);
    }

    #[test]
    fn functions_of_both_previews_are_known() {
        assert_eq!(function("wasi_snapshot_preview1", "fd_write"), None);
        assert_eq!(function("wasi_unstable", "fd_write"), None);
        assert_eq!(
            function("wasi_snapshot_preview1", "fd_wriet").unwrap().nearest.as_deref(),
            Some("wasi_snapshot_preview1::fd_write")
        );
        assert!(function("wasi_unstable", "sock_accept").is_some());
        assert!(function("env", "memory").is_some());
    }
}
