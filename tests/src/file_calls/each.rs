//! A guest for each function on files, which calls it for ever.

use super::{P2, P3, component, preview1};

/// A guest for each function of preview1 that calls it for ever, by the function's name.
pub fn preview1_calls() -> Vec<(&'static str, String)> {
    let (dir, path, new) = ("(i32.const 3)", "(i32.const 512) (i32.const 1)", "(i32.const 516) (i32.const 1)");
    let file = "(local.get $file)";
    let calls: Vec<(&str, String)> = vec![
        ("fd_advise", format!("(call $advise {file} (i64.const 0) (i64.const 0) (i32.const 0))")),
        ("fd_datasync", format!("(call $datasync {file})")),
        ("fd_sync", format!("(call $sync {file})")),
        ("fd_fdstat_get", format!("(call $fdstat {file} (i32.const 256))")),
        ("fd_fdstat_set_flags", format!("(call $set_flags {file} (i32.const 0))")),
        ("fd_filestat_get", format!("(call $filestat {file} (i32.const 256))")),
        ("fd_filestat_set_size", format!("(call $set_size {file} (i64.const 5))")),
        ("fd_filestat_set_times", format!("(call $set_times {file} (i64.const 0) (i64.const 0) (i32.const 10))")),
        (
            "fd_read",
            format!(
                "(call $good (call $seek {file} (i64.const 0) (i32.const 0) (i32.const 256)))
                 (call $read {file} (i32.const 0) (i32.const 1) (i32.const 256))"
            ),
        ),
        ("fd_pread", format!("(call $pread {file} (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 256))")),
        (
            "fd_write",
            format!(
                "(call $good (call $seek {file} (i64.const 0) (i32.const 0) (i32.const 256)))
                 (call $write {file} (i32.const 0) (i32.const 1) (i32.const 256))"
            ),
        ),
        ("fd_pwrite", format!("(call $pwrite {file} (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 256))")),
        ("fd_readdir", format!("(call $readdir {dir} (i32.const 65536) (i32.const 4096) (i64.const 0) (i32.const 256))")),
        ("fd_seek", format!("(call $seek {file} (i64.const 0) (i32.const 2) (i32.const 256))")),
        (
            "path_create_directory",
            format!("(call $good (call $mkdir {dir} {new})) (call $rmdir {dir} {new})"),
        ),
        ("path_filestat_get", format!("(call $stat {dir} (i32.const 1) {path} (i32.const 256))")),
        (
            "path_filestat_set_times",
            format!("(call $touch {dir} (i32.const 1) {path} (i64.const 0) (i64.const 0) (i32.const 10))"),
        ),
        (
            "path_link",
            format!("(call $good (call $link {dir} (i32.const 0) {path} {dir} {new})) (call $unlink {dir} {new})"),
        ),
        (
            "path_open",
            format!(
                "(call $good (call $open {dir} (i32.const 0) {path} (i32.const 0) (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 256)))
                 (call $close (i32.load (i32.const 256)))"
            ),
        ),
        ("path_readlink", format!("(call $readlink {dir} (i32.const 520) (i32.const 1) (i32.const 65536) (i32.const 99) (i32.const 256))")),
        (
            "path_rename",
            format!("(call $good (call $rename {dir} {path} {dir} {new})) (call $rename {dir} {new} {dir} {path})"),
        ),
        (
            "path_symlink",
            format!("(call $good (call $symlink {path} {dir} {new})) (call $unlink {dir} {new})"),
        ),
        ("poll_oneoff", "(call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 256))".into()),
    ];
    calls
        .into_iter()
        .map(|(name, call)| {
            let last = call.rfind("(call $").expect("there is one");
            // The last call's answer is looked at, too.
            (name, preview1(&format!("{} (call $good {})", &call[..last], &call[last..])))
        })
        .collect()
}

/// The calls that both generations have.
fn shared() -> Vec<(&'static str, String)> {
    let (dir, file, at) = ("(local.get $dir)", "(local.get $file)", "(i32.const 2048)");
    let (path, new) = ("(i32.const 512) (i32.const 1)", "(i32.const 516) (i32.const 1)");
    let now = "(i32.const 1) (i64.const 0) (i32.const 0)";
    let call = |name: &str, args: &str| format!("(call ${name} {args} {at}) (call $good)");
    vec![
        ("advise", call("advise", &format!("{file} (i64.const 0) (i64.const 0) (i32.const 0)"))),
        ("sync-data", call("sync-data", file)),
        ("sync", call("sync", file)),
        ("get-flags", call("get-flags", file)),
        ("get-type", call("get-type", file)),
        ("set-size", call("set-size", &format!("{file} (i64.const 5)"))),
        ("set-times", call("set-times", &format!("{file} {now} {now}"))),
        ("stat", call("stat", file)),
        ("stat-at", call("stat-at", &format!("{dir} (i32.const 1) {path}"))),
        ("set-times-at", call("set-times-at", &format!("{dir} (i32.const 1) {path} {now} {now}"))),
        (
            "link-at",
            call("link-at", &format!("{dir} (i32.const 0) {path} {dir} {new}"))
                + &call("unlink-file-at", &format!("{dir} {new}")),
        ),
        (
            "open-at",
            call("open-at", &format!("{dir} (i32.const 0) {path} (i32.const 0) (i32.const 1)"))
                + "(call $close (i32.load (i32.const 2052)))",
        ),
        (
            "create-directory-at",
            call("create-directory-at", &format!("{dir} {new}"))
                + &call("remove-directory-at", &format!("{dir} {new}")),
        ),
        ("readlink-at", call("readlink-at", &format!("{dir} (i32.const 520) (i32.const 1)"))),
        (
            "rename-at",
            call("rename-at", &format!("{dir} {path} {dir} {new}"))
                + &call("rename-at", &format!("{dir} {new} {dir} {path}")),
        ),
        (
            "symlink-at",
            call("symlink-at", &format!("{dir} {path} {new}")) + &call("unlink-file-at", &format!("{dir} {new}")),
        ),
        ("metadata-hash", call("metadata-hash", file)),
        ("metadata-hash-at", call("metadata-hash-at", &format!("{dir} (i32.const 1) {path}"))),
        ("is-same-object", format!("(if (i32.eqz (call $is-same-object {file} {file})) (then unreachable))")),
    ]
}

/// A guest for each function of WASI 0.2 that calls it for ever, by the function's name.
pub fn wasi_0_2_calls() -> Vec<(&'static str, String)> {
    let calls = [
        ("read", "(call $read (local.get $file) (i64.const 4096) (i64.const 0) (i32.const 2048)) (call $good)"),
        ("write", "(call $write (local.get $file) (i32.const 65536) (i32.const 4096) (i64.const 0) (i32.const 2048)) (call $good)"),
        (
            "read-directory",
            "(call $list (local.get $dir) (i32.const 2048)) (call $good) (local.set $got (i32.load (i32.const 2052)))
             (loop $entries (call $next (local.get $got) (i32.const 2048)) (call $good) (br_if $entries (i32.load8_u (i32.const 2052))))
             (call $drop-listing (local.get $got))",
        ),
        (
            "read-via-stream",
            "(call $reader (local.get $file) (i64.const 0) (i32.const 2048)) (call $good) (local.set $got (i32.load (i32.const 2052)))
             (call $get (local.get $got) (i64.const 4096) (i32.const 2048)) (call $good) (call $drop-reader (local.get $got))",
        ),
        (
            "write-via-stream",
            "(call $writer (local.get $file) (i64.const 0) (i32.const 2048)) (call $good) (local.set $got (i32.load (i32.const 2052)))
             (call $put (local.get $got) (i32.const 65536) (i32.const 4096) (i32.const 2048)) (call $good) (call $drop-writer (local.get $got))",
        ),
        (
            "append-via-stream",
            "(call $appender (local.get $file) (i32.const 2048)) (call $good) (local.set $got (i32.load (i32.const 2052)))
             (call $put (local.get $got) (i32.const 65536) (i32.const 10) (i32.const 2048)) (call $good) (call $drop-writer (local.get $got))",
        ),
    ];
    shared()
        .into_iter()
        .chain(calls.map(|(name, body)| (name, body.to_owned())))
        .map(|(name, body)| (name, component(&P2, &body)))
        .collect()
}

/// A guest for each function of WASI 0.3 that calls it for ever, by the function's name.
pub fn wasi_0_3_calls() -> Vec<(&'static str, String)> {
    let write = |start: &str| {
        format!(
            "(local.set $pair (call $new))
             (local.set $got {start})
             (drop (call $done (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32)))
                (call $put (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))) (i32.const 65536) (i32.const 10))))
             (call $drop-writer (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
             (call $well (local.get $got))"
        )
    };
    let calls = [
        (
            "read-directory",
            "(call $list (local.get $dir) (i32.const 32))
             (loop $entries (call $forget)
                (br_if $entries (i32.eqz (i32.and (i32.const 15)
                    (call $done (i32.load (i32.const 32)) (call $next (i32.load (i32.const 32)) (i32.const 4096) (i32.const 100)))))))
             (call $well (i32.load (i32.const 36)))
             (call $drop-listing (i32.load (i32.const 32)))"
                .to_owned(),
        ),
        (
            "read-via-stream",
            "(call $reader (local.get $file) (i64.const 0) (i32.const 32))
             (loop $bytes
                (br_if $bytes (i32.eqz (i32.and (i32.const 15)
                    (call $done (i32.load (i32.const 32)) (call $get (i32.load (i32.const 32)) (i32.const 65536) (i32.const 65536)))))))
             (call $well (i32.load (i32.const 36)))
             (call $drop-reader (i32.load (i32.const 32)))"
                .to_owned(),
        ),
        ("write-via-stream", write("(call $writer (local.get $file) (i32.wrap_i64 (local.get $pair)) (i64.const 0))")),
        ("append-via-stream", write("(call $appender (local.get $file) (i32.wrap_i64 (local.get $pair)))")),
    ];
    shared().into_iter().chain(calls).map(|(name, body)| (name, component(&P3, &body))).collect()
}
