//! What no limit names, because no honest stage comes near: how much one call hands over, gets or names, and how large the parts of a
//! component may be.

use std::fs;

use stagehost_tests::{
    Place,
    file_calls::{P2, component as with_directory},
    guests::{built, preview1, probe, text},
};

/// What a component for WASI 0.2 is made of that calls one function of the host's, `$f`.
struct Calls<'a> {
    /// What it imports, and the function itself as `$f`.
    imports: &'a str,
    /// The type of `$f` in the core module.
    core: &'a str,
    /// What it does; it ends with whether it failed.
    run: &'a str,
    /// Pages of its memory.
    pages: u32,
}

fn component(Calls { imports, core, run, pages }: &Calls<'_>) -> String {
    format!(
        r#"(component
        (core module $mem
            (memory (export "m") {pages})
            (global $next (mut i32) (i32.const 65536))
            (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32) (local $at i32)
                (local.set $at (global.get $next))
                (global.set $next (i32.add (local.get $at) (local.get $size)))
                (loop $more
                    (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
                        (then (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable)) (br $more))))
                (local.get $at)))
        (core instance $mem (instantiate $mem))
        {imports}
        (core module $run
            (import "h" "m" (memory 1))
            (import "h" "f" (func $f {core}))
            (import "h" "handle" (func $handle (result i32)))
            (func (export "run") (result i32) {run}))
        (core instance $r (instantiate $run (with "h" (instance
            (export "m" (memory $mem "m")) (export "f" (func $f)) (export "handle" (func $handle))))))
        (func $run (result (result)) (canon lift (core func $r "run")))
        (instance $export (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $export)))"#
    )
}

/// Where `$handle` is nothing.
const NO_HANDLE: &str = r#"(core module $none (func (export "handle") (result i32) (i32.const 0))) (core instance $none (instantiate $none))
        (alias core export $none "handle" (core func $handle))"#;

/// A method of output streams as `$f`, of that type besides its own stream, and standard output as `$handle`.
fn output(method: &str, of: &str) -> String {
    format!(
        r#"(import "wasi:io/error@0.2.0" (instance $failures (export "error" (type (sub resource)))))
        (alias export $failures "error" (type $e))
        (import "wasi:io/streams@0.2.0" (instance $io
            (export "output-stream" (type $output (sub resource)))
            (export "error" (type $failure (eq $e)))
            (type $se (variant (case "last-operation-failed" (own $failure)) (case "closed")))
            (export "stream-error" (type $lost (eq $se)))
            (export "[method]output-stream.{method}" (func (param "self" (borrow $output)) {of}))))
        (alias export $io "output-stream" (type $output))
        (import "wasi:cli/stdout@0.2.0" (instance $out
            (export "output-stream" (type (eq $output))) (export "get-stdout" (func (result (own $output))))))
        (core func $handle (canon lower (func $out "get-stdout")))
        (core func $f (canon lower (func $io "[method]output-stream.{method}") (memory (core memory $mem "m"))))"#
    )
}

/// One that asks for so many random bytes of a generation, and fails if it gets another number of them.
fn random(version: &str, asked: u64, given: u64) -> String {
    let parameter = if version == "0.2.0" { "len" } else { "max-len" };
    let imports = format!(
        r#"(import "wasi:random/random@{version}" (instance $host
            (export "get-random-bytes" (func (param "{parameter}" u64) (result (list u8))))))
        (core func $f (canon lower (func $host "get-random-bytes")
            (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
        {NO_HANDLE}"#
    );
    let run =
        format!("(call $f (i64.const {asked}) (i32.const 8)) (i32.ne (i32.load (i32.const 12)) (i32.const {given}))");
    component(&Calls { imports: &imports, core: "(param i64 i32)", run: &run, pages: 1 })
}

#[test]
fn random_bytes_are_bounded_and_count_to_memory() {
    const MIB: u64 = 1 << 20;
    let place = Place::new();
    let run = |name: &str, guest: &str, memory: &str| {
        let file = text(&place, name, guest).display().to_string();
        place.shorthand(&file).args(["--stdin", "null", "--limit", &format!("memory={memory}")]).done()
    };
    // What the guest has of them, and what the host has as long as it hands them over.
    let most = random("0.2.0", 64 * MIB, 64 * MIB);
    run("most.wasm", &most, "160MiB").code(0).is_quiet();
    run("most.wasm", &most, "100MiB").code(137).says(&["its memory limit of 100 MiB: 99.0 MiB in use"]);
    run("most.wasm", &most, "60MiB").code(137).says(&["64 MiB more asked for"]);
    let more = random("0.2.0", 64 * MIB + 1, 64 * MIB + 1);
    run("more.wasm", &more, "160MiB").code(134).says(&["67108865 random bytes", "which gives 67108864 at most"]);
    // It gives what it likes to.
    run("third.wasm", &random("0.3.0", 4 * MIB, MIB), "160MiB").code(0).is_quiet();
}

#[test]
fn no_call_hands_over_more_than_it_may() {
    const MIB: u32 = 1 << 20;
    let place = Place::new();
    let polls = |count: u32| {
        let imports = r#"
            (import "wasi:io/poll@0.2.0" (instance $poll
                (export "pollable" (type $p (sub resource)))
                (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
                (export "pollable" (type $p (eq $pollable)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
            (core func $f (canon lower (func $poll "poll")
                (memory (core memory $mem "m")) (realloc (core func $mem "realloc"))))
            (core func $subscribe (canon lower (func $clock "subscribe-duration")))
            (core module $at-once (import "h" "s" (func $s (param i64) (result i32)))
                (func (export "handle") (result i32) (call $s (i64.const 0))))
            (core instance $at-once (instantiate $at-once (with "h" (instance (export "s" (func $subscribe))))))
            (alias core export $at-once "handle" (core func $handle))"#;
        let run = format!(
            "(local $at i32) (local $it i32) (local.set $it (call $handle)) (local.set $at (i32.const {MIB}))
            (loop $more
                (i32.store (local.get $at) (local.get $it))
                (local.set $at (i32.add (local.get $at) (i32.const 4)))
                (br_if $more (i32.lt_u (local.get $at) (i32.const {}))))
            (call $f (i32.const {MIB}) (i32.const {count}) (i32.const 8))
            (i32.ne (i32.load (i32.const 12)) (i32.const {count}))",
            MIB + 4 * count
        );
        component(&Calls { imports, core: "(param i32 i32 i32)", run: &run, pages: 64 })
    };
    let file = text(&place, "most.wasm", &polls(9_000)).display().to_string();
    place.shorthand(&file).args(["--stdin", "null"]).done().code(0).is_quiet();
    // Each takes a handle as long as it is waited for.
    let file = text(&place, "more.wasm", &polls(10_001)).display().to_string();
    place.shorthand(&file).args(["--stdin", "null"]).done().code(137).says(&["its handles limit of 10000"]);

    // How much is taken in at all: what is refused for its own length was.
    let writes = |length: u32, besides: &str| {
        let written = r#"(param "contents" (list u8)) (result (result (error $lost)))"#;
        let imports = format!("{besides} {}", output("blocking-write-and-flush", written));
        let run = format!("(call $f (call $handle) (i32.const 64) (i32.const {length}) (i32.const 0)) (i32.const 0)");
        component(&Calls { imports: &imports, core: "(param i32 i32 i32 i32)", run: &run, pages: 2064 })
    };
    let third = r#"(import "wasi:random/random@0.3.0" (instance))"#;
    let taken = "blocking-write-and-flush takes 4096 bytes at most";
    for (besides, length, says) in [
        ("", 128 * MIB - 4096, taken),
        ("", 128 * MIB + 1, "more than 128 MiB were handed over in one call"),
        (third, 2 * MIB - 4096, taken),
        (third, 2 * MIB + 1, "more than 2 MiB were handed over in one call"),
    ] {
        let file = text(&place, "writes.wasm", &writes(length, besides)).display().to_string();
        place.shorthand(&file).args(["--stdin", "null"]).done().code(134).says(&[says]);
    }
}

#[test]
fn handles_of_one_output_are_permitted_little_together() {
    let place = Place::new();
    let imports = output("check-write", "(result (result u64 (error $lost)))");
    // Twenty times as much would fit, for so many of them.
    let run = "(local $left i32) (local $sum i64) (local.set $left (i32.const 200))
        (loop $more
            (call $f (call $handle) (i32.const 16))
            (local.set $sum (i64.add (local.get $sum) (i64.load (i32.const 24))))
            (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
        (i64.gt_u (local.get $sum) (i64.const 729088))";
    let guest = component(&Calls { imports: &imports, core: "(param i32 i32)", run, pages: 1 });
    let file = text(&place, "guest.wasm", &guest).display().to_string();
    // 512 KiB, and 1 KiB for each.
    place.shorthand(&file).args(["--stdin", "null"]).done().code(0).is_quiet();
}

#[test]
fn a_stage_has_so_many_handles_and_no_more() {
    let place = Place::new();
    let imports = r#"
        (import "wasi:io/streams@0.2.0" (instance $io (export "output-stream" (type (sub resource)))))
        (alias export $io "output-stream" (type $output))
        (import "wasi:cli/stdout@0.2.0" (instance $out
            (export "output-stream" (type (eq $output))) (export "get-stdout" (func (result (own $output))))))
        (core func $handle (canon lower (func $out "get-stdout")))
        (core module $f (func (export "f"))) (core instance $f (instantiate $f))
        (alias core export $f "f" (core func $f))"#;
    let run = |count: usize| {
        let run = format!("{} (i32.const 0)", "(drop (call $handle))".repeat(count));
        let guest = component(&Calls { imports, core: "", run: &run, pages: 1 });
        let file = text(&place, "guest.wasm", &guest).display().to_string();
        place.shorthand(&file).args(["--stdin", "null", "--limit", "handles=100"]).done()
    };
    run(90).code(0).is_quiet();
    run(101).code(137).says(&["its handles limit of 100"]);
}

#[test]
fn little_is_kept_of_standard_error() {
    let place = Place::new();
    let body = "(i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 65000))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))
        (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))";
    let guest = preview1(&place, "guest.wasm", body).display().to_string();
    let run = place.shorthand(&guest).args(["--stdin", "null", "--report", "r.json"]);
    assert_eq!(run.done().code(0).stderr.len(), 130_000);
    let report: serde_json::Value = serde_json::from_str(&place.read("r.json")).unwrap();
    let kept = report["stages"][0]["stderr"].as_str().unwrap();
    assert_eq!(kept.matches('\0').count(), 64 << 10);
    assert!(kept.contains("64464 bytes left out"));
}

#[test]
fn no_longer_path_is_copied_than_the_system_takes() {
    // Which of the errors of WASI 0.2 it is.
    const NAME_TOO_LONG: u32 = 18;
    let place = Place::new();
    fs::create_dir(place.path("d")).unwrap();
    let ends_as = |length: u32, is: &str| {
        // The last byte of the path is no text's: whoever looks at the path sees that, and not how long it is.
        let body = format!(
            "(memory.fill (i32.const 200000) (i32.const 97) (i32.const {}))
            (call $unlink-file-at (local.get $dir) (i32.const 200000) (i32.const {length}) (i32.const 2048))
            (if ({is} (i32.load8_u (i32.const 2049)) (i32.const {NAME_TOO_LONG})) (then unreachable))
            (return (i32.const 0))",
            length - 1
        );
        let file = text(&place, "guest.wasm", &with_directory(&P2, &body)).display().to_string();
        let dirs = r#"{"dirs": [{"host": "d", "guest": "/", "access": "write"}]}"#;
        let stages = format!(r#"[{{"wasm": "{file}", "grants": {dirs}}}]"#);
        place.write("p.json", format!(r#"{{"version": 1, "stdin": "null", "stages": {stages}}}"#));
        let _ = fs::remove_file(place.path("d/f"));
        fs::write(place.path("d/f"), "").unwrap();
        place.stagehost(["run", "p.json"]).done().code(0).is_quiet();
    };
    ends_as(4096, "i32.eq");
    ends_as(4097, "i32.ne");
}

#[test]
fn memories_and_tables_have_a_fixed_number() {
    let place = Place::new();
    // A module that defines one may be instantiated several times.
    let instances = |what: &str, count: usize| {
        let imports = format!(
            r#"(core module $one {what}) {} {NO_HANDLE}
            (core module $f (func (export "f"))) (core instance $f (instantiate $f))
            (alias core export $f "f" (core func $f))"#,
            "(core instance (instantiate $one))".repeat(count)
        );
        component(&Calls { imports: &imports, core: "", run: "(i32.const 0)", pages: 1 })
    };
    // One memory is the component's own.
    for (what, most, says) in
        [("(memory 0)", 7, "its memories limit of 8"), ("(table 0 funcref)", 64, "its tables limit of 64")]
    {
        let run = |count: usize| {
            let file = text(&place, "guest.wasm", &instances(what, count)).display().to_string();
            place.shorthand(&file).args(["--stdin", "null", "--limit", "instances=100"]).done()
        };
        run(most).code(0).is_quiet();
        run(most + 1).code(137).says(&[says]);
    }
    // As many as modules define, up to a number.
    for (what, most, says) in
        [("(memory 0)", 63, "its memories limit of 64"), ("(table 0 funcref)", 512, "its tables limit of 512")]
    {
        let run = |count: usize| {
            // A module may have a hundred.
            let modules: String = (0..count.div_ceil(100))
                .map(|number| {
                    let some = what.repeat((count - 100 * number).min(100));
                    format!("(core module $m{number} {some}) (core instance (instantiate $m{number}))")
                })
                .collect();
            let imports = format!(
                r#"{modules} {NO_HANDLE} (core module $f (func (export "f"))) (core instance $f (instantiate $f))
                (alias core export $f "f" (core func $f))"#
            );
            let guest = component(&Calls { imports: &imports, core: "", run: "(i32.const 0)", pages: 1 });
            let file = text(&place, "guest.wasm", &guest).display().to_string();
            place.shorthand(&file).args(["--stdin", "null"]).done()
        };
        run(most).code(0).is_quiet();
        run(most + 1).code(137).says(&[says]);
    }
}

#[test]
fn a_component_has_so_many_functions_and_levels_and_no_more() {
    let place = Place::new();
    let module = |sections: &str| format!(r#"(module {sections} (func (export "_start")))"#);
    let nested = |depth: usize| {
        let imports = format!(
            r#"{}{} {NO_HANDLE} (core module $f (func (export "f"))) (core instance $f (instantiate $f))
            (alias core export $f "f" (core func $f))"#,
            "(component ".repeat(depth - 1),
            ")".repeat(depth - 1)
        );
        component(&Calls { imports: &imports, core: "", run: "(i32.const 0)", pages: 1 })
    };
    let body = |bytes: usize| module(&format!("(func {})", "nop ".repeat(bytes)));
    for (guest, says) in [
        (module(&"(func)".repeat(100_000)), "more than 100000 functions"),
        (nested(33), "more than 32 deep"),
        (body(1 << 20), "more than 1048576 bytes"),
    ] {
        let file = text(&place, "more.wasm", &guest).display().to_string();
        place.shorthand(&file).done().code(126).says(&[says]);
    }
    // What there may be; compiling it all would take long.
    for guest in [module(&"(func)".repeat(99_999)), nested(32), body((1 << 20) - 8)] {
        let file = text(&place, "most.wasm", &guest).display().to_string();
        place.stagehost(["check", "-c", &file]).done().code(0);
    }
}

#[test]
fn sections_and_names_are_bounded() {
    let place = Place::new();
    let module = |sections: &str| format!(r#"(module {sections} (memory 0) (func (export "_start")))"#);
    let section = |bytes: usize| {
        let text = format!(r#"{{"description": "{}"}}"#, "d".repeat(bytes - 19));
        module(&format!(r#"(@custom "stagehost" "{}")"#, text.replace('"', "\\22")))
    };
    // Each name counts with what it takes besides, and `_start` is one.
    let name =
        |number: usize, bytes: usize| format!(r#"(export "{number:04}{}" (memory 0))"#, "n".repeat(bytes - 64 - 4));
    let names = |bytes: usize| {
        let rest = bytes - 64 - "_start".len();
        let whole: String = (1..64).map(|number| name(number, 64 << 10)).collect();
        module(&(whole + &name(0, rest - 63 * (64 << 10))))
    };
    for (right, wrong, says) in [
        (section(1 << 20), section((1 << 20) + 1), "`stagehost` section has more than 1048576 bytes"),
        (names(4 << 20), names((4 << 20) + 1), "its names have more than 4194304 bytes"),
    ] {
        let file = text(&place, "right.wasm", &right).display().to_string();
        place.shorthand(&file).args(["--stdin", "null"]).done().code(0);
        let file = text(&place, "wrong.wasm", &wrong).display().to_string();
        place.shorthand(&file).done().code(126).says(&[says]);
    }
}

#[test]
fn a_few_denials_are_noted_and_no_more() {
    let place = Place::new();
    let probe = built("std-probe-p2.wasm").display().to_string();
    let addresses: Vec<_> = (2..30).map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    place.write(
        "p.json",
        format!(
            r#"{{"version": 1, "stdin": "null", "stages": [{{"wasm": "{probe}", "args": ["connect", {}],
                "grants": {{"net": ["127.0.0.1:1"]}}}}]}}"#,
            addresses.join(", ")
        ),
    );
    place.stagehost(["run", "p.json", "--report", "r.json"]).done().code(0);
    let report: serde_json::Value = serde_json::from_str(&place.read("r.json")).unwrap();
    assert_eq!(report["stages"][0]["notes"].as_array().unwrap().len(), 8, "{report}");
}

#[test]
fn a_trap_has_so_many_frames_and_no_more() {
    let place = Place::new();
    let run = place.shorthand(&format!("{} recurse", probe())).args(["--stdin", "null", "--report", "r.json"]);
    run.done().code(134);
    let report: serde_json::Value = serde_json::from_str(&place.read("r.json")).unwrap();
    assert_eq!(report["stages"][0]["exit"]["frames"].as_array().unwrap().len(), 32, "{report}");
}
