//! Guests that try to take more than they were given: texts in `tests/hostile`, and some that are made here because they
//! are large or no text can say them. `tests/hostile/expected.tsv` says how each must end.

use std::{collections::BTreeSet, fmt::Write as _, fs};

use stagehost::{LimitKind, StageExit};

use crate::{
    Place,
    file_calls::{P3, component, preview1, preview1_calls, wasi_0_2_calls, wasi_0_3_calls},
    repository,
};

/// One guest and what it needs.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// Its name: what it does.
    pub name: String,
    /// The component or module.
    pub wasm: Vec<u8>,
    /// What it reads when it runs alone.
    pub stdin: Stdin,
    /// Whether it gets an argument of a megabyte.
    pub large_argument: bool,
    /// How it must end when it runs alone.
    pub alone: String,
    /// How it must end between two other stages.
    pub between: String,
}

/// What a guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing.
    Null,
    /// Zeroes without end.
    Zero,
    /// A short text.
    Text,
}

/// All guests.
pub fn all() -> Vec<Hostile> {
    let directory = repository().join("tests/hostile");
    let table = fs::read_to_string(directory.join("expected.tsv")).expect("the table is there");
    let mut texts: BTreeSet<_> = fs::read_dir(&directory)
        .expect("the directory is there")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".wat").map(str::to_owned))
        .collect();
    let guests = table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            let [name, stdin, argument, alone, between] = fields[..] else { panic!("five fields: {line}") };
            let wasm = if texts.remove(name) {
                let text = fs::read_to_string(directory.join(format!("{name}.wat"))).expect("it was listed");
                wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
            } else {
                made(name)
            };
            Hostile {
                name: name.to_owned(),
                wasm,
                stdin: match stdin {
                    "null" => Stdin::Null,
                    "zero" => Stdin::Zero,
                    "text" => Stdin::Text,
                    other => panic!("no stdin {other}"),
                },
                large_argument: argument == "megabyte",
                alone: alone.to_owned(),
                between: if between == "=" { alone.to_owned() } else { between.to_owned() },
            }
        })
        .collect();
    assert!(texts.is_empty(), "texts that the table does not name: {texts:?}");
    guests
}

/// Writes a guest's file.
pub fn write(place: &Place, guest: &Hostile) -> String {
    place.write(&format!("{}.wasm", guest.name), &guest.wasm).display().to_string()
}

impl Hostile {
    /// What its stage in a file is granted: one whose name begins with `dir-` has a directory of its own for writing, with a file in it
    /// that is as it was.
    pub fn grants(&self, place: &Place) -> String {
        if !self.name.starts_with("dir-") {
            return String::new();
        }
        let directory = place.path(format!("{}.d", self.name));
        // Whatever the last run was in the middle of.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).expect("the place is writable");
        fs::write(directory.join("f"), vec![0; 100_000]).expect("the place is writable");
        let directory = directory.display();
        format!(r#", "grants": {{"dirs": [{{"host": "{directory}", "guest": "/", "access": "write"}}]}}"#)
    }
}

/// How a stage ended, as the table says it.
pub fn shown(exit: &StageExit) -> String {
    match exit {
        StageExit::Ok => "ok".into(),
        StageExit::FinishedEarly => "finished-early".into(),
        StageExit::Exit { code } => format!("exit:{code}"),
        StageExit::Trap { trap, .. } => {
            format!("trap:{}", serde_json::to_value(trap).expect("a word").as_str().unwrap_or_default())
        }
        StageExit::Limit { which, .. } => format!("limit:{}", limit(*which)),
        StageExit::BrokenPipe => "broken-pipe".into(),
        StageExit::Cancelled => "cancelled".into(),
        StageExit::StartFailed { .. } => "start-failed".into(),
        other => format!("{other:?}"),
    }
}

fn limit(which: LimitKind) -> String {
    which.to_string()
}

const RUN_P2: &str = r#"(core module $m (func (export "run") (result i32) (i32.const 0))) (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $r (export "run" (func $run))) (export "wasi:cli/run@0.2.0" (instance $r))"#;

/// A guest that no text file holds.
fn made(name: &str) -> Vec<u8> {
    if let Some(text) = with_a_directory(name).or_else(|| weighed(name)) {
        return wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    match name {
        "functions-10000" => {
            text.push_str("(module (memory (export \"memory\") 1) (global $g (mut i32) (i32.const 0))");
            for number in 0..10_000 {
                let _ =
                    write!(text, "(func $f{number} (global.set $g (i32.add (global.get $g) (i32.const {number}))))");
            }
            text.push_str("(func (export \"_start\")");
            for number in 0..10_000 {
                let _ = write!(text, " call $f{number}");
            }
            text.push_str("))");
        }
        "functions-200000" => {
            let _ = write!(text, "(module {} (func (export \"_start\")))", "(func)".repeat(200_000));
        }
        "blocks-100-deep" => text = blocks(100),
        "blocks-10000-deep" => text = blocks(10_000),
        "blocks-1000000-deep" => text = blocks(1_000_000),
        "one-huge-function" => {
            text.push_str("(module (memory (export \"memory\") 1) (func (export \"_start\") (local");
            text.push_str(&" i32".repeat(1_000));
            text.push_str(") (local $k i32) (loop $l\n");
            for n in 0..150_000 {
                let (a, b, c) = (n % 997, n * 7 % 991, n * 13 % 1_000);
                let _ = writeln!(text, "local.get {a} local.get {b} i32.add local.set {c}");
            }
            text.push_str(
                "(br_if $l (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 3))))))",
            );
        }
        "memories-900" => {
            let _ = write!(text, "(module (memory 1) {} (func (export \"_start\")))", "(memory 1)".repeat(899));
        }
        "p2-tables-80" => {
            let tables = "(table 1 funcref)".repeat(40);
            let instances = "(core instance (instantiate $x))".repeat(2);
            let _ = write!(text, "(component (core module $x {tables}) {instances} {RUN_P2})");
        }
        "p2-memories-900" => {
            let instances = "(core instance (instantiate $x))\n".repeat(900);
            let _ = write!(text, "(component (core module $x (memory 1)) {instances} {RUN_P2})");
        }
        "p2-doubling-8" => text = doubling(8),
        "p2-doubling-24" => text = doubling(24),
        "p2-carrying-30" => text = carrying(30),
        "p2-adapter-of-2000-cases" => text = adapter(2_000, 1_999),
        "p2-adapter-bad-case" => text = adapter(2_000, 2_000),
        "p2-nested-30" => return nested(30),
        "p2-nested-100" => return nested(100),
        "p2-nested-5000" => return nested(5_000),
        other => panic!("there is no guest {other}"),
    }
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A guest that does with files what takes time, threads or room.
fn with_a_directory(name: &str) -> Option<String> {
    let name = name.strip_prefix("dir-")?;
    let call = |calls: Vec<(&'static str, String)>, wanted: &str| {
        calls.into_iter().find(|(name, _)| *name == wanted).map(|(_, text)| text)
    };
    if let Some(name) = name.strip_prefix("p1-call-") {
        return call(preview1_calls(), name);
    }
    if let Some(name) = name.strip_prefix("p2-call-") {
        return call(wasi_0_2_calls(), name);
    }
    if let Some(name) = name.strip_prefix("p3-call-") {
        return call(wasi_0_3_calls(), name);
    }
    Some(match name {
        // A thousand subscriptions to one file.
        "p1-poll-a-thousand-files" => preview1(
            "(local.set $file (i32.const 0))
             (loop $each
                (memory.copy (i32.add (i32.const 65536) (i32.mul (local.get $file) (i32.const 48))) (i32.const 1024) (i32.const 48))
                (br_if $each (i32.lt_u (local.tee $file (i32.add (local.get $file) (i32.const 1))) (i32.const 1000))))
             (call $good (call $poll (i32.const 65536) (i32.const 131072) (i32.const 1000) (i32.const 256)))",
        ),
        "p1-sleep" => preview1(
            "(i32.store8 (i32.const 1032) (i32.const 0)) (i32.store (i32.const 1040) (i32.const 1))
             (i64.store (i32.const 1048) (i64.const 1000000000000))
             (call $good (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 256)))",
        ),
        // A thousand buffers of 64 KiB each.
        "p1-read-64-mib-at-once" => preview1(
            "(if (i32.eqz (i32.load (i32.const 8))) (then
                (memory.copy (i32.const 196608) (i32.const 0) (i32.const 8))
                (local.set $file (i32.const 1))
                (loop $each
                    (memory.copy (i32.add (i32.const 196608) (i32.shl (local.get $file) (i32.const 3))) (i32.const 0) (i32.const 8))
                    (br_if $each (i32.lt_u (local.tee $file (i32.add (local.get $file) (i32.const 1))) (i32.const 1000))))
                (local.set $file (i32.const 4)) (i32.store (i32.const 8) (i32.const 1))))
             (call $good (call $pread (i32.const 4) (i32.const 196608) (i32.const 1000) (i64.const 0) (i32.const 256)))",
        ),
        "p3-syncs" => {
            fs::read_to_string(repository().join("tests/grants/p3-syncs.wat")).expect("the text is there")
        }
        // What the host passes on from one to the other, with no guest in between, never ends.
        "p3-file-appended-to-itself" => component(
            &P3,
            "(call $reader (local.get $file) (i64.const 0) (i32.const 32))
             (call $well (call $appender (local.get $file) (i32.load (i32.const 32))))",
        ),
        _ => return None,
    })
}

/// A guest that would make its host hold or do much, or just not too much.
fn weighed(name: &str) -> Option<String> {
    let name = name.strip_prefix("weigh-")?;
    let module =
        |sections: &str| format!("(module {sections} (memory (export \"memory\") 1) (func (export \"_start\")))");
    let around = |inner: &str| format!("(component {inner} {RUN_P2})");
    let globals = |count: usize| "(global i32 (i32.const 7))".repeat(count);
    let numbered = |count: usize, each: &dyn Fn(usize) -> String| (0..count).map(each).collect::<String>();
    let local = |number: usize| format!("(if (local.get {number}) (then (local.set {number} (i32.const 5))))");
    let locals = |count: usize| format!("(local {})", "i32 ".repeat(count));
    Some(match name {
        "globals-times-instances" => {
            around(&format!("(core module $g {}) {}", globals(150_000), "(core instance (instantiate $g))".repeat(60)))
        }
        "elements-times-instances" => around(&format!(
            "(core module $g (func $f) (elem func {})) {}",
            "$f ".repeat(300_000),
            "(core instance (instantiate $g))".repeat(60)
        )),
        "functions-times-instances" => around(&format!(
            "(core module $g {}) {}",
            "(func)".repeat(60_000),
            "(core instance (instantiate $g))".repeat(60)
        )),
        "given-module-times-instances" => around(&format!(
            r#"(component $c (import "m" (core module $m)) {}) (core module $g {})  {}"#,
            "(core instance (instantiate $m))".repeat(8),
            globals(150_000),
            r#"(instance (instantiate $c (with "m" (core module $g))))"#.repeat(8)
        )),
        "aliased-module-times-instances" => around(&format!(
            "(core module $g {}) (component $c (alias outer 1 $g (core module $m)) {}) {}",
            globals(150_000),
            "(core instance (instantiate $m))".repeat(8),
            "(instance (instantiate $c))".repeat(8)
        )),
        "types-in-one-group" => module(&format!("(rec {})", "(type (func))".repeat(150_000))),
        "types-of-many-parameters" => {
            let bits =
                |number: usize| numbered(12, &|bit| if number >> bit & 1 == 1 { "i32 ".into() } else { "f64 ".into() });
            module(&numbered(3_000, &|number| format!("(type (func (param {}{})))", "i64 ".repeat(900), bits(number))))
        }
        "types-of-many-fields" => {
            module(&numbered(100, &|number| format!("(type (struct {}))", "(field i32)".repeat(9_000 + number))))
        }
        "names-of-exports" => {
            module(&numbered(40_000, &|number| format!("(export \"{number}{}\" (memory 0))", "x".repeat(100))))
        }
        "constant-expressions" => module(&numbered(100, &|_| {
            format!("(global i32 (i32.const 0) {})", "(i32.const 1) (i32.add)".repeat(60_000))
        })),
        "locals-times-blocks" => {
            module(&format!("(func {} (loop $l {} (br_if $l (local.get 0))))", locals(5_000), numbered(5_000, &local)))
        }
        "locals-times-branches" => {
            module(&format!("(func {} (block $b (br_table {} (local.get 0))))", locals(10_000), "$b ".repeat(5_000)))
        }
        "section-of-2-mib" => {
            module(&format!("(@custom \"stagehost\" \"{{\\\"summary\\\": \\\"{}\\\"}}\")", "x".repeat(2 << 20)))
        }
        // These are much, and not too much.
        "locals-50000" => module(&format!("(func {})", locals(50_000))),
        "elements-1000000" => module(&format!("(func $f) (elem func {})", "$f ".repeat(1_000_000))),
        "globals-100000" => module(&globals(100_000)),
        "tags-50000" => module(&"(tag)".repeat(50_000)),
        "data-90000" => module(&"(data \"\")".repeat(90_000)),
        _ => return None,
    })
}

fn blocks(depth: usize) -> String {
    let (begin, end) = ("block\n".repeat(depth), "end\n".repeat(depth));
    format!("(module (memory (export \"memory\") 1) (func (export \"_start\") {begin} br {} {end}))", depth - 1)
}

/// Components that each instantiate their child twice.
fn doubling(levels: usize) -> String {
    let begin = "(component\n".repeat(levels);
    let end = ") (instance (instantiate 0)) (instance (instantiate 0))\n".repeat(levels);
    format!("(component {begin} (core module $m) (core instance (instantiate $m)) {end} {RUN_P2})")
}

/// Components that each carry the one before it along twice.
fn carrying(levels: usize) -> String {
    let mut text = "(component (component $c0)\n".to_owned();
    for level in 1..=levels {
        let before = level - 1;
        let _ = writeln!(
            text,
            "(component $c{level} (alias outer 1 $c{before} (component)) (alias outer 1 $c{before} (component)))"
        );
    }
    format!("{text} {RUN_P2})")
}

/// A component that hands another one a variant of so many cases, of which it names one: the code between them is the host's.
fn adapter(cases: usize, named: usize) -> String {
    let variant = (0..cases).map(|case| format!("(case \"c{case}\" u32)")).collect::<String>();
    format!(
        r#"(component
            (component $a
                (core module $m (func (export "f") (param i32 i32)))
                (core instance $i (instantiate $m))
                (type $v (variant {variant}))
                (export $e "v" (type $v))
                (func (export "f") (param "x" $e) (canon lift (core func $i "f"))))
            (component $b
                (import "a" (instance $a
                    (type $v (variant {variant}))
                    (export "v" (type $e (eq $v)))
                    (export "f" (func (param "x" $e)))))
                (core func $f (canon lower (func $a "f")))
                (core module $m
                    (import "h" "f" (func $f (param i32 i32)))
                    (func (export "run") (result i32) (call $f (i32.const {named}) (i32.const 7)) (i32.const 0)))
                (core instance $i (instantiate $m (with "h" (instance (export "f" (func $f))))))
                (func (export "run") (result (result)) (canon lift (core func $i "run"))))
            (instance $a (instantiate $a))
            (instance $b (instantiate $b (with "a" (instance $a))))
            (instance $r (export "run" (func $b "run")))
            (export "wasi:cli/run@0.2.0" (instance $r)))"#
    )
}

/// Components nested so deep, each instantiating its child: as bytes, because no text may nest so deep.
fn nested(depth: usize) -> Vec<u8> {
    fn leb(mut number: usize, out: &mut Vec<u8>) {
        loop {
            let low = u8::try_from(number & 0x7f).expect("seven bits");
            number >>= 7;
            out.push(if number == 0 { low } else { low | 0x80 });
            if number == 0 {
                return;
            }
        }
    }
    fn section(id: u8, body: &[u8], out: &mut Vec<u8>) {
        out.push(id);
        leb(body.len(), out);
        out.extend_from_slice(body);
    }
    const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";
    let mut inner = HEAD.to_vec();
    for _ in 1..depth {
        let mut around = HEAD.to_vec();
        section(4, &inner, &mut around);
        section(5, b"\x01\x00\x00\x00", &mut around);
        inner = around;
    }
    // The component that can be run, with the nest before its own sections.
    let plain = wat::parse_str(format!("(component {RUN_P2})")).expect("the text is right");
    let mut out = HEAD.to_vec();
    section(4, &inner, &mut out);
    out.extend_from_slice(&plain[HEAD.len()..]);
    out
}
