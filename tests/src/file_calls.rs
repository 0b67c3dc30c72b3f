//! Guests that call functions on files, as texts: every function of the three generations is there to be called.

mod each;

pub use each::{preview1_calls, wasi_0_2_calls, wasi_0_3_calls};

/// A module of preview1 that does `body` for ever. Descriptor 3 is its directory, `$file` a file there that it may write.
pub fn preview1(body: &str) -> String {
    format!(
        r#"(module
        (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_advise" (func $advise (param i32 i64 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_datasync" (func $datasync (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_sync" (func $sync (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_fdstat_set_flags" (func $set_flags (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_filestat_get" (func $filestat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))
        (import "wasi_snapshot_preview1" "fd_filestat_set_times" (func $set_times (param i32 i64 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_filestat_set_times" (func $touch (param i32 i32 i32 i32 i64 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_readlink" (func $readlink (param i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 4)
        (data (i32.const 512) "f") (data (i32.const 516) "n") (data (i32.const 520) "l")
        ;; a buffer of 64 KiB, and a subscription to what descriptor 4 has to read
        (data (i32.const 0) "\00\00\01\00\00\00\01\00")
        (data (i32.const 1024) "\07\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\04")
        (func $good (param i32) (if (local.get 0) (then unreachable)))
        (func (export "_start") (local $file i32)
            (drop (call $unlink (i32.const 3) (i32.const 520) (i32.const 1)))
            (call $good (call $symlink (i32.const 512) (i32.const 1) (i32.const 3) (i32.const 520) (i32.const 1)))
            (call $good (call $open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 0)
                (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 256)))
            (local.set $file (i32.load (i32.const 256)))
            (loop $more {body} (br $more))))"#
    )
}

/// The methods that WASI 0.2 and 0.3 share: name, parameters behind the descriptor, what a good answer holds, and the parameters of the core
/// function.
const METHODS: [(&str, &str, &str, &str); 21] = [
    ("advise", r#"(param "offset" u64) (param "length" u64) (param "advice" $advice)"#, "", "i64 i64 i32"),
    ("sync-data", "", "", ""),
    ("sync", "", "", ""),
    ("get-flags", "", "$flags", ""),
    ("get-type", "", "$kind", ""),
    ("set-size", r#"(param "size" u64)"#, "", "i64"),
    (
        "set-times",
        r#"(param "data-access-timestamp" $stamp) (param "data-modification-timestamp" $stamp)"#,
        "",
        "i32 i64 i32 i32 i64 i32",
    ),
    ("stat", "", "$stat", ""),
    ("stat-at", r#"(param "path-flags" $follow) (param "path" string)"#, "$stat", "i32 i32 i32"),
    (
        "set-times-at",
        r#"(param "path-flags" $follow) (param "path" string)
           (param "data-access-timestamp" $stamp) (param "data-modification-timestamp" $stamp)"#,
        "",
        "i32 i32 i32 i32 i64 i32 i32 i64 i32",
    ),
    (
        "link-at",
        r#"(param "old-path-flags" $follow) (param "old-path" string) (param "new-descriptor" (borrow $descriptor))
           (param "new-path" string)"#,
        "",
        "i32 i32 i32 i32 i32 i32",
    ),
    (
        "open-at",
        r#"(param "path-flags" $follow) (param "path" string) (param "open-flags" $how) (param "flags" $flags)"#,
        "(own $descriptor)",
        "i32 i32 i32 i32 i32",
    ),
    ("create-directory-at", r#"(param "path" string)"#, "", "i32 i32"),
    ("remove-directory-at", r#"(param "path" string)"#, "", "i32 i32"),
    ("unlink-file-at", r#"(param "path" string)"#, "", "i32 i32"),
    ("readlink-at", r#"(param "path" string)"#, "string", "i32 i32"),
    (
        "rename-at",
        r#"(param "old-path" string) (param "new-descriptor" (borrow $descriptor)) (param "new-path" string)"#,
        "",
        "i32 i32 i32 i32 i32",
    ),
    ("symlink-at", r#"(param "old-path" string) (param "new-path" string)"#, "", "i32 i32 i32 i32"),
    ("metadata-hash", "", "$hash", ""),
    ("metadata-hash-at", r#"(param "path-flags" $follow) (param "path" string)"#, "$hash", "i32 i32 i32"),
    ("is-same-object", r#"(param "other" (borrow $descriptor))"#, "!", "i32"),
];

/// What only one of the generations has.
#[derive(Debug)]
pub struct Own {
    version: &'static str,
    asynchronous: &'static str,
    clock: &'static str,
    types: &'static str,
    methods: &'static str,
    /// What stands behind the instance of types: other imports and the core functions.
    core: &'static str,
    imports: &'static str,
    with: &'static str,
    functions: &'static str,
}

/// WASI 0.2.
pub const P2: Own = Own {
    version: "0.2.0",
    asynchronous: "",
    clock: r#"(import "wasi:clocks/wall-clock@0.2.0" (instance $clock
        (type $rec (record (field "seconds" u64) (field "nanoseconds" u32)))
        (export "datetime" (type (eq $rec)))))
      (alias export $clock "datetime" (type $time))
      (import "wasi:io/error@0.2.0" (instance $failures (export "error" (type (sub resource)))))
      (alias export $failures "error" (type $failure))
      (import "wasi:io/streams@0.2.0" (instance $io
        (export "input-stream" (type $input (sub resource)))
        (export "output-stream" (type $output (sub resource)))
        (export "error" (type $e (eq $failure)))
        (type $se (variant (case "last-operation-failed" (own $e)) (case "closed")))
        (export "stream-error" (type $lost (eq $se)))
        (export "[method]input-stream.read" (func (param "self" (borrow $input)) (param "len" u64) (result (result (list u8) (error $lost)))))
        (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $output)) (param "contents" (list u8))
            (result (result (error $lost)))))))
      (alias export $io "input-stream" (type $input))
      (alias export $io "output-stream" (type $output))"#,
    types: r#"(type $err (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist" "file-too-large"
        "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io" "is-directory" "loop" "too-many-links" "message-size" "name-too-long"
        "no-device" "no-entry" "no-lock" "insufficient-memory" "insufficient-space" "not-directory" "not-empty" "not-recoverable" "unsupported"
        "no-tty" "no-such-device" "overflow" "not-permitted" "pipe" "read-only" "invalid-seek" "text-file-busy" "cross-device"))
      (type $dt (enum "unknown" "block-device" "character-device" "directory" "fifo" "symbolic-link" "regular-file" "socket"))
      (export "datetime" (type $when (eq $time)))"#,
    methods: r#"(export "directory-entry-stream" (type $listing (sub resource)))
      (export "input-stream" (type $in (eq $input)))
      (export "output-stream" (type $out (eq $output)))
      (type $de (record (field "type" $kind) (field "name" string)))
      (export "directory-entry" (type $entry (eq $de)))
      (export "[method]descriptor.read" (func (param "self" (borrow $descriptor)) (param "length" u64) (param "offset" u64)
        (result (result (tuple (list u8) bool) (error $error)))))
      (export "[method]descriptor.write" (func (param "self" (borrow $descriptor)) (param "buffer" (list u8)) (param "offset" u64)
        (result (result u64 (error $error)))))
      (export "[method]descriptor.read-directory" (func (param "self" (borrow $descriptor)) (result (result (own $listing) (error $error)))))
      (export "[method]directory-entry-stream.read-directory-entry" (func (param "self" (borrow $listing))
        (result (result (option $entry) (error $error)))))
      (export "[method]descriptor.read-via-stream" (func (param "self" (borrow $descriptor)) (param "offset" u64)
        (result (result (own $in) (error $error)))))
      (export "[method]descriptor.write-via-stream" (func (param "self" (borrow $descriptor)) (param "offset" u64)
        (result (result (own $out) (error $error)))))
      (export "[method]descriptor.append-via-stream" (func (param "self" (borrow $descriptor)) (result (result (own $out) (error $error)))))"#,
    core: r#"(alias export $fs "directory-entry-stream" (type $listing))
      (core func $read (canon lower (func $fs "[method]descriptor.read") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
      (core func $write (canon lower (func $fs "[method]descriptor.write") (memory (core memory $mem "m"))))
      (core func $list (canon lower (func $fs "[method]descriptor.read-directory") (memory (core memory $mem "m"))))
      (core func $next (canon lower (func $fs "[method]directory-entry-stream.read-directory-entry") (memory (core memory $mem "m"))
        (realloc (core func $mem "realloc"))))
      (core func $reader (canon lower (func $fs "[method]descriptor.read-via-stream") (memory (core memory $mem "m"))))
      (core func $writer (canon lower (func $fs "[method]descriptor.write-via-stream") (memory (core memory $mem "m"))))
      (core func $appender (canon lower (func $fs "[method]descriptor.append-via-stream") (memory (core memory $mem "m"))))
      (core func $get (canon lower (func $io "[method]input-stream.read") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
      (core func $put (canon lower (func $io "[method]output-stream.blocking-write-and-flush") (memory (core memory $mem "m"))))
      (core func $drop-listing (canon resource.drop $listing))
      (core func $drop-reader (canon resource.drop $input))
      (core func $drop-writer (canon resource.drop $output))"#,
    imports: r#"(import "h" "read" (func $read (param i32 i64 i64 i32)))
      (import "h" "write" (func $write (param i32 i32 i32 i64 i32)))
      (import "h" "list" (func $list (param i32 i32)))
      (import "h" "next" (func $next (param i32 i32)))
      (import "h" "reader" (func $reader (param i32 i64 i32)))
      (import "h" "writer" (func $writer (param i32 i64 i32)))
      (import "h" "appender" (func $appender (param i32 i32)))
      (import "h" "get" (func $get (param i32 i64 i32)))
      (import "h" "put" (func $put (param i32 i32 i32 i32)))
      (import "h" "drop-listing" (func $drop-listing (param i32)))
      (import "h" "drop-reader" (func $drop-reader (param i32)))
      (import "h" "drop-writer" (func $drop-writer (param i32)))"#,
    with: r#"(export "read" (func $read)) (export "write" (func $write)) (export "list" (func $list)) (export "next" (func $next))
      (export "reader" (func $reader)) (export "writer" (func $writer)) (export "appender" (func $appender)) (export "get" (func $get))
      (export "put" (func $put)) (export "drop-listing" (func $drop-listing)) (export "drop-reader" (func $drop-reader))
      (export "drop-writer" (func $drop-writer))"#,
    functions: "",
};

/// WASI 0.3.
pub const P3: Own = Own {
    version: "0.3.0",
    asynchronous: "async",
    clock: r#"(import "wasi:clocks/system-clock@0.3.0" (instance $clock
        (type $rec (record (field "seconds" s64) (field "nanoseconds" u32)))
        (export "instant" (type (eq $rec)))))
      (alias export $clock "instant" (type $time))"#,
    types: r#"(type $err (variant (case "access") (case "already") (case "bad-descriptor") (case "busy") (case "deadlock") (case "quota")
        (case "exist") (case "file-too-large") (case "illegal-byte-sequence") (case "in-progress") (case "interrupted") (case "invalid") (case "io")
        (case "is-directory") (case "loop") (case "too-many-links") (case "message-size") (case "name-too-long") (case "no-device") (case "no-entry")
        (case "no-lock") (case "insufficient-memory") (case "insufficient-space") (case "not-directory") (case "not-empty") (case "not-recoverable")
        (case "unsupported") (case "no-tty") (case "no-such-device") (case "overflow") (case "not-permitted") (case "pipe") (case "read-only")
        (case "invalid-seek") (case "text-file-busy") (case "cross-device") (case "other" (option string))))
      (type $dt (variant (case "block-device") (case "character-device") (case "directory") (case "fifo") (case "symbolic-link")
        (case "regular-file") (case "socket") (case "other" (option string))))
      (export "instant" (type $when (eq $time)))"#,
    methods: r#"(type $de (record (field "type" $kind) (field "name" string)))
      (export "directory-entry" (type $entry (eq $de)))
      (export "[method]descriptor.read-directory" (func (param "self" (borrow $descriptor))
        (result (tuple (stream $entry) (future (result (error $error)))))))
      (export "[method]descriptor.read-via-stream" (func (param "self" (borrow $descriptor)) (param "offset" u64)
        (result (tuple (stream u8) (future (result (error $error)))))))
      (export "[method]descriptor.write-via-stream" (func (param "self" (borrow $descriptor)) (param "data" (stream u8)) (param "offset" u64)
        (result (future (result (error $error))))))
      (export "[method]descriptor.append-via-stream" (func (param "self" (borrow $descriptor)) (param "data" (stream u8))
        (result (future (result (error $error))))))"#,
    core: r#"(alias export $fs "directory-entry" (type $entry))
      (alias export $fs "error-code" (type $error))
      (type $entries (stream $entry))
      (type $bytes (stream u8))
      (type $end (future (result (error $error))))
      (core func $list (canon lower (func $fs "[method]descriptor.read-directory") (memory (core memory $mem "m"))))
      (core func $reader (canon lower (func $fs "[method]descriptor.read-via-stream") (memory (core memory $mem "m"))))
      (core func $writer (canon lower (func $fs "[method]descriptor.write-via-stream") (memory (core memory $mem "m"))))
      (core func $appender (canon lower (func $fs "[method]descriptor.append-via-stream") (memory (core memory $mem "m"))))
      (core func $next (canon stream.read $entries async (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
      (core func $drop-listing (canon stream.drop-readable $entries))
      (core func $new (canon stream.new $bytes))
      (core func $get (canon stream.read $bytes async (memory (core memory $mem "m"))))
      (core func $put (canon stream.write $bytes async (memory (core memory $mem "m"))))
      (core func $drop-reader (canon stream.drop-readable $bytes))
      (core func $drop-writer (canon stream.drop-writable $bytes))
      (core func $end (canon future.read $end async (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
      (core func $drop-end (canon future.drop-readable $end))
      (core func $set-new (canon waitable-set.new))
      (core func $set-wait (canon waitable-set.wait (memory (core memory $mem "m"))))
      (core func $join (canon waitable.join))"#,
    imports: r#"(import "h" "list" (func $list (param i32 i32)))
      (import "h" "reader" (func $reader (param i32 i64 i32)))
      (import "h" "writer" (func $writer (param i32 i32 i64) (result i32)))
      (import "h" "appender" (func $appender (param i32 i32) (result i32)))
      (import "h" "next" (func $next (param i32 i32 i32) (result i32)))
      (import "h" "drop-listing" (func $drop-listing (param i32)))
      (import "h" "new" (func $new (result i64)))
      (import "h" "get" (func $get (param i32 i32 i32) (result i32)))
      (import "h" "put" (func $put (param i32 i32 i32) (result i32)))
      (import "h" "drop-reader" (func $drop-reader (param i32)))
      (import "h" "drop-writer" (func $drop-writer (param i32)))
      (import "h" "end" (func $end (param i32 i32) (result i32)))
      (import "h" "drop-end" (func $drop-end (param i32)))
      (import "h" "set-new" (func $set-new (result i32)))
      (import "h" "set-wait" (func $set-wait (param i32 i32) (result i32)))
      (import "h" "join" (func $join (param i32 i32)))"#,
    with: r#"(export "list" (func $list)) (export "reader" (func $reader)) (export "writer" (func $writer)) (export "appender" (func $appender))
      (export "next" (func $next)) (export "drop-listing" (func $drop-listing)) (export "new" (func $new)) (export "get" (func $get))
      (export "put" (func $put)) (export "drop-reader" (func $drop-reader)) (export "drop-writer" (func $drop-writer)) (export "end" (func $end))
      (export "drop-end" (func $drop-end)) (export "set-new" (func $set-new)) (export "set-wait" (func $set-wait)) (export "join" (func $join))"#,
    functions: r#"(global $set (mut i32) (i32.const 0))
      ;; what a call on a handle has come to, whenever that is
      (func $done (param $handle i32) (param $now i32) (result i32)
        (if (i32.ne (local.get $now) (i32.const -1)) (then (return (local.get $now))))
        (if (i32.eqz (global.get $set)) (then (global.set $set (call $set-new))))
        (call $join (local.get $handle) (global.get $set))
        (drop (call $set-wait (global.get $set) (i32.const 128)))
        (call $join (local.get $handle) (i32.const 0))
        (i32.load (i32.const 132)))
      ;; waits for a future of a result, which must be good
      (func $well (param $handle i32)
        (drop (call $done (local.get $handle) (call $end (local.get $handle) (i32.const 64))))
        (call $drop-end (local.get $handle))
        (if (i32.load8_u (i32.const 64)) (then unreachable)))"#,
};

/// A component that does `body` for ever: `$dir` is its directory, `$file` a file there that it may write. Answers are at 2048, and
/// `$good` looks whether they are.
pub fn component(own: &Own, body: &str) -> String {
    let Own { version, asynchronous, clock, types, methods, core, imports, with, functions } = own;
    let (mut declared, mut lowered, mut imported, mut given) =
        (String::new(), String::new(), String::new(), String::new());
    for (name, parameters, answer, flat) in METHODS {
        let result = match answer {
            "!" => "bool".to_owned(),
            answer => format!("(result {answer} (error $error))"),
        };
        declared.push_str(&format!(
            "(export \"[method]descriptor.{name}\" (func {asynchronous} (param \"self\" (borrow $descriptor)) {parameters} (result {result})))\n"
        ));
        lowered.push_str(&format!(
            "(core func ${name} (canon lower (func $fs \"[method]descriptor.{name}\") (memory (core memory $mem \"m\")) (realloc (core func $mem \"realloc\"))))\n"
        ));
        let result = if answer == "!" { "(result i32)" } else { "(param i32)" };
        imported.push_str(&format!("(import \"h\" \"{name}\" (func ${name} (param i32 {flat}) {result}))\n"));
        given.push_str(&format!("(export \"{name}\" (func ${name}))\n"));
    }
    format!(
        r#"(component
      {clock}
      (import "wasi:filesystem/types@{version}" (instance $fs
        (export "descriptor" (type $descriptor (sub resource)))
        {types}
        (export "error-code" (type $error (eq $err)))
        (export "descriptor-type" (type $kind (eq $dt)))
        (type $df (flags "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync" "mutate-directory"))
        (export "descriptor-flags" (type $flags (eq $df)))
        (type $pf (flags "symlink-follow"))
        (export "path-flags" (type $follow (eq $pf)))
        (type $of (flags "create" "directory" "exclusive" "truncate"))
        (export "open-flags" (type $how (eq $of)))
        (type $nt (variant (case "no-change") (case "now") (case "timestamp" $when)))
        (export "new-timestamp" (type $stamp (eq $nt)))
        (type $ds (record (field "type" $kind) (field "link-count" u64) (field "size" u64) (field "data-access-timestamp" (option $when))
          (field "data-modification-timestamp" (option $when)) (field "status-change-timestamp" (option $when))))
        (export "descriptor-stat" (type $stat (eq $ds)))
        (type $mh (record (field "lower" u64) (field "upper" u64)))
        (export "metadata-hash-value" (type $hash (eq $mh)))
        (type $ad (enum "normal" "sequential" "random" "will-need" "dont-need" "no-reuse"))
        (export "advice" (type $advice (eq $ad)))
        {declared}
        {methods}))
      (alias export $fs "descriptor" (type $d))
      (import "wasi:filesystem/preopens@{version}" (instance $pre
        (export "descriptor" (type (eq $d)))
        (export "get-directories" (func (result (list (tuple (own $d) string)))))))
      (core module $mem
        (memory (export "m") 8)
        (global $next (mut i32) (i32.const 131072))
        (func (export "forget") (global.set $next (i32.const 131072)))
        (func (export "realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32) (local $at i32)
          (local.set $at (i32.and (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1))) (i32.sub (i32.const 0) (local.get $align))))
          (global.set $next (i32.add (local.get $at) (local.get $size)))
          (local.get $at)))
      (core instance $mem (instantiate $mem))
      (core func $dirs (canon lower (func $pre "get-directories") (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
      (core func $close (canon resource.drop $d))
      {lowered}
      {core}
      (core module $m
        (import "h" "m" (memory 1))
        (import "h" "forget" (func $forget))
        (import "h" "dirs" (func $dirs (param i32)))
        (import "h" "close" (func $close (param i32)))
        {imported}
        {imports}
        (data (i32.const 512) "f") (data (i32.const 516) "n") (data (i32.const 520) "l")
        {functions}
        (func $good (if (i32.load8_u (i32.const 2048)) (then unreachable)))
        (func (export "run") (result i32) (local $dir i32) (local $file i32) (local $got i32) (local $pair i64)
          (call $dirs (i32.const 16))
          (local.set $dir (i32.load (i32.load (i32.const 16))))
          (call $unlink-file-at (local.get $dir) (i32.const 520) (i32.const 1) (i32.const 2048))
          (call $symlink-at (local.get $dir) (i32.const 512) (i32.const 1) (i32.const 520) (i32.const 1) (i32.const 2048))
          (call $good)
          (call $open-at (local.get $dir) (i32.const 0) (i32.const 512) (i32.const 1) (i32.const 0) (i32.const 3) (i32.const 2048))
          (call $good)
          (local.set $file (i32.load (i32.const 2052)))
          (loop $more (call $forget) {body} (br $more))
          (unreachable)))
      (core instance $i (instantiate $m (with "h" (instance
        (export "m" (memory $mem "m"))
        (export "forget" (func $mem "forget"))
        (export "dirs" (func $dirs))
        (export "close" (func $close))
        {given}
        {with}))))
      (func $run {asynchronous} (result (result)) (canon lift (core func $i "run")))
      (instance $r (export "run" (func $run)))
      (export "wasi:cli/run@{version}" (instance $r)))"#
    )
}
