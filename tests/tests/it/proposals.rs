//! What a stage may be made of: each proposal of WebAssembly that is on runs, each that is off is refused in words that say what to build
//! instead, and everything that looks at a component says the same of it.

use stagehost_tests::{
    Place,
    guests::{preview1, text},
};

/// Proposals that are on: a module's parts, and the body of its `_start`, which traps if something is wrong.
const ON: [(&str, &str, &str); 12] = [
    ("exceptions", "(tag $e (param i32))",
        "(block $caught (result i32) (try_table (catch $e $caught) (throw $e (i32.const 7))) (unreachable)) (i32.sub (i32.const 7)) (if (then (unreachable)))"),
    ("garbage-collection", "(type $p (struct (field (mut i32)))) (type $a (array (mut i8)))",
        "(local $p (ref null $p)) (local.set $p (struct.new $p (i32.const 3))) (struct.set $p 0 (local.get $p) (i32.const 4))
         (if (i32.ne (struct.get $p 0 (local.get $p)) (i32.const 4)) (then (unreachable)))
         (if (i32.ne (array.len (array.new_default $a (i32.const 9))) (i32.const 9)) (then (unreachable)))"),
    ("tail-calls", "(func $down (param i32) (result i32) (if (result i32) (local.get 0) (then (return_call $down (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 5))))",
        "(if (i32.ne (call $down (i32.const 1000000)) (i32.const 5)) (then (unreachable)))"),
    ("several-memories", "(memory $second 1)", "(i32.store $second (i32.const 0) (i32.const 1)) (if (i32.load 0 (i32.const 0)) (then (unreachable)))"),
    ("64-bit-memories", "(memory $wide i64 1)", "(i32.store $wide (i64.const 8) (i32.const 1))"),
    ("simd", "", "(drop (i8x16.add (v128.const i32x4 1 2 3 4) (v128.const i32x4 1 2 3 4)))"),
    ("relaxed-simd", "", "(drop (f32x4.relaxed_madd (v128.const f32x4 1 2 3 4) (v128.const f32x4 1 2 3 4) (v128.const f32x4 1 2 3 4)))"),
    ("extended-constants", "(global $g i32 (i32.add (i32.const 1) (i32.const 2)))", "(if (i32.ne (global.get $g) (i32.const 3)) (then (unreachable)))"),
    ("function-references", "(type $f (func (result i32))) (func $six (type $f) (i32.const 6)) (elem declare func $six)",
        "(if (i32.ne (call_ref $f (ref.func $six)) (i32.const 6)) (then (unreachable)))"),
    ("atomics-on-plain-memories", "", "(drop (i32.atomic.rmw.add (i32.const 0) (i32.const 2))) (atomic.fence) (if (i32.ne (i32.atomic.load (i32.const 0)) (i32.const 2)) (then (unreachable)))"),
    ("bulk-memory", "", "(memory.fill (i32.const 0) (i32.const 1) (i32.const 100)) (memory.copy (i32.const 200) (i32.const 0) (i32.const 100))"),
    ("several-results", "(func $two (result i32 i32) (i32.const 1) (i32.const 1))", "(call $two) (i32.ne) (if (then (unreachable)))"),
];

/// Proposals that are off, with what the refusal and its hint say.
const OFF: [(&str, &str, &str, &str, &str); 4] = [
    (
        "shared-memory",
        "(memory $s 1 1 shared)",
        "",
        "a memory that threads share, and threads are off",
        "build it for one thread",
    ),
    ("custom-page-sizes", "(memory $p 1 (pagesize 1))", "", "memory pages of another size", "-mcustom-page-sizes"),
    (
        "wide-arithmetic",
        "",
        "(drop (i64.add128 (i64.const 1) (i64.const 1) (i64.const 1) (i64.const 1))) (drop)",
        "wide arithmetic",
        "-mwide-arithmetic",
    ),
    (
        "stack-switching",
        "(type $f (func)) (type $c (cont $f)) (func $n) (elem declare func $n)",
        "(drop (cont.new $c (ref.func $n)))",
        "stack switching",
        "without continuations",
    ),
];

fn module(place: &Place, name: &str, parts: &str, body: &str) -> String {
    let module = format!("(module (memory (export \"memory\") 1) {parts} (func (export \"_start\") {body}))");
    text(place, &format!("{name}.wasm"), &module);
    format!("./{name}.wasm")
}

#[test]
fn what_is_on_runs() {
    let place = Place::new();
    for (name, parts, body) in ON {
        let path = module(&place, name, parts, body);
        place.stagehost(["check", "-c", &path]).done().code(0);
        let more: &[&[&str]] = &[&[], &["--deterministic"], &["--limit", "fuel=100000000"]];
        for flags in more {
            place.shorthand(&path).args(*flags).args(["--stdin", "null"]).done().code(0).is_quiet();
        }
    }
}

#[test]
fn what_is_off_is_refused_by_everything_that_looks() {
    let place = Place::new();
    for (name, parts, body, says, hint) in OFF {
        let path = module(&place, name, parts, body);
        for verb in ["check", "plan"] {
            place.stagehost([verb, "-c", &path]).done().code(126).says(&[says, hint]);
        }
        place.shorthand(&path).args(["--stdin", "null"]).done().code(126).says(&[says]);
        place.stagehost(["inspect", &path]).done().code(0).shows(&["it cannot run here", says, hint]);
    }
    // Exceptions of the old form, which the text format has no words for any more: `try nop end` in the place of `block nop end`.
    let module = module(&place, "block", "", "(block (nop))");
    let mut bytes = std::fs::read(place.path("block.wasm")).unwrap();
    let at = bytes.windows(4).position(|bytes| bytes == [0x02, 0x40, 0x01, 0x0b]).unwrap();
    bytes[at] = 0x06;
    place.write("block.wasm", bytes);
    let says = ["exceptions of the old form", "-wasm-use-legacy-eh=false"];
    place.stagehost(["check", "-c", &module]).done().code(126).says(&says);
    place.shorthand(&module).done().code(126).says(&says[..1]);
    // Imported, as wasi-threads does.
    text(
        &place,
        "threads.wasm",
        r#"(module (import "env" "memory" (memory 1 2 shared)) (import "wasi" "thread-spawn" (func (param i32) (result i32)))
        (func (export "_start")))"#,
    );
    place.shorthand("./threads.wasm").done().code(126).says(&["env::memory", "build it for one thread"]);
}

#[test]
fn imports_that_are_not_offered_are_told_before_anything_is_compiled() {
    let place = Place::new();
    let component = |import: &str| {
        format!(
            r#"(component (import "{import}" (instance))
                (core module $m (func (export "run") (result i32) i32.const 0)) (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $r (export "run" (func $run))) (export "wasi:cli/run@0.2.0" (instance $r)))"#
        )
    };
    for (import, nearest) in [
        ("wasi:cli/stdin@0.3.0-rc-2025-09-16", Some("wasi:cli/stdin@0.3.0")),
        ("wasi:clocks/wall-clock@0.3.0", Some("wasi:clocks/wall-clock@0.2.12")),
        ("wasi:http/types@0.2.4", None),
        ("acme:db/query@1.0.0", None),
    ] {
        let path = text(&place, "import.wasm", &component(import)).display().to_string();
        for verb in ["check", "plan", "run"] {
            let run = place.stagehost([verb, "-c", &path]).done().code(126).says(&[import, "does not offer"]);
            if let Some(nearest) = nearest {
                run.says(&[nearest]);
            }
        }
        let shown = nearest.unwrap_or("not offered here");
        place.stagehost(["inspect", &path]).done().code(0).shows(&[import, "not offered here", shown]);
        let json = place.stagehost(["inspect", &path, "--json"]).done().code(0).stdout_text();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["not_offered"][0]["import"], import);
    }
    let bad = r#"(module (import "wasi_snapshot_preview1" "fd_raed" (func)) (memory (export "memory") 1) (func (export "_start")))"#;
    let path = text(&place, "typo.wasm", bad).display().to_string();
    place.shorthand(&path).done().code(126).says(&["fd_raed", "wasi_snapshot_preview1::fd_read"]);
}

/// Whatever is said to be offered can be linked: a component that imports nothing of it, but its name.
#[test]
fn what_is_offered_is_there() {
    let place = Place::new();
    let old = [
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
    let new = [
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
    let imports = |names: &[&str], version: &str| -> String {
        names.iter().map(|name| format!("(import \"wasi:{name}@{version}\" (instance))\n")).collect()
    };
    let all = format!(
        r#"(component {} {}
            (core module $m (func (export "run") (result i32) i32.const 0)) (core instance $i (instantiate $m))
            (func $run (result (result)) (canon lift (core func $i "run")))
            (instance $r (export "run" (func $run))) (export "wasi:cli/run@0.2.0" (instance $r)))"#,
        imports(&old, "0.2.3"),
        imports(&new, "0.3.0"),
    );
    let path = text(&place, "all.wasm", &all).display().to_string();
    place.shorthand(&path).args(["--stdin", "null"]).done().code(0).is_quiet();
    place.stagehost(["inspect", &path]).done().code(0);
}

#[test]
fn objects_of_collected_languages_count_as_memory() {
    let place = Place::new();
    let live = r#"(module (type $n (struct (field (ref null $n)))) (memory (export "memory") 1)
        (func (export "_start") (local $l (ref null $n)) (loop $m (local.set $l (struct.new $n (local.get $l))) (br $m))))"#;
    let live = text(&place, "live.wasm", live).display().to_string();
    let run = place.shorthand(&live).args(["--stdin", "null", "--limit", "memory=16MiB"]).done();
    run.code(137).says(&["memory limit of 16 MiB", "limits.memory"]);
    // Garbage is collected, in circles too.
    let circles = r#"(module (type $n (struct (field (mut (ref null $n))))) (memory (export "memory") 1)
        (func (export "_start") (local $a (ref null $n)) (local $i i32)
          (loop $m
            (local.set $a (struct.new $n (ref.null $n))) (struct.set $n 0 (local.get $a) (local.get $a))
            (br_if $m (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3000000))))))"#;
    let circles = text(&place, "circles.wasm", circles).display().to_string();
    place.shorthand(&circles).args(["--stdin", "null", "--limit", "memory=4MiB"]).done().code(0).is_quiet();
}

#[test]
fn the_preview_before_preview1_runs_where_it_is_the_same() {
    let place = Place::new();
    let module = r#"(module
        (import "wasi_unstable" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (import "wasi_unstable" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_unstable" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_unstable" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func (export "_start")
          ;; Sleeps a millisecond: a subscription of that preview has 56 bytes.
          (i64.store (i32.const 200) (i64.const 77)) (i32.store8 (i32.const 208) (i32.const 0))
          (i32.store (i32.const 224) (i32.const 1)) (i64.store (i32.const 232) (i64.const 1000000))
          (if (call $poll (i32.const 200) (i32.const 304) (i32.const 1) (i32.const 400)) (then (call $exit (i32.const 9))))
          (if (i32.ne (i32.load (i32.const 400)) (i32.const 1)) (then (call $exit (i32.const 8))))
          (if (i64.ne (i64.load (i32.const 304)) (i64.const 77)) (then (call $exit (i32.const 7))))
          (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
          (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
          (i32.store (i32.const 4) (i32.load (i32.const 16)))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
          (call $exit (i32.const 200))))"#;
    let path = text(&place, "older.wasm", module).display().to_string();
    for flags in [&[][..], &["--deterministic"]] {
        place.shorthand(&path).args(flags).input("text\n").done().code(200).prints("text\n");
    }
}

#[test]
fn a_program_sees_the_name_of_its_file() {
    let place = Place::new();
    let module = r#"(module
        (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $n i32)
          (drop (call $args (i32.const 1024) (i32.const 4096)))
          (loop $more
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.load8_u (i32.add (i32.const 4096) (local.get $n)))))
          (i32.store8 (i32.add (i32.const 4096) (local.get $n)) (i32.const 10))
          (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.add (local.get $n) (i32.const 1)))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;
    text(&place, "multi.wasm", module);
    place.shorthand(":cat | ./multi.wasm | ./multi.wasm").done().code(0).prints("multi.wasm\n");
    place.write(
        "p.json",
        r#"{"version": 1, "stdin": "null", "stages": [{"wasm": "multi.wasm", "name": "named", "argv0": "sort"}]}"#,
    );
    place.stagehost(["run", "p.json"]).done().code(0).prints("sort\n");
    place.write("p.json", r#"{"version": 1, "stages": [{"command": ["cat"], "argv0": "sort"}]}"#);
    place.stagehost(["run", "p.json"]).done().code(78).says(&["stages[0].argv0"]);
}

#[test]
fn a_refused_growth_is_told_when_the_program_ends_by_itself() {
    let place = Place::new();
    let guest = preview1(&place, "grows.wasm", "(call $exit (i32.eq (memory.grow (i32.const 4800)) (i32.const -1)))");
    let run = place.shorthand(&guest.display().to_string()).args(["--stdin", "null", "--report", "r.json"]).done();
    run.code(1).says(&["was refused memory: 300 MiB more", "its limit of 256 MiB", "limits.memory", "--limit memory="]);
    let report: serde_json::Value = serde_json::from_str(&place.read("r.json")).unwrap();
    assert!(report["stages"][0]["remarks"][0].as_str().unwrap().contains("refused memory"));
    assert!(report["hint"].as_str().unwrap().contains("stages[0].limits.memory"));
}
