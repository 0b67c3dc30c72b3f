//! What reviewers and the fuzzer got past once: each stays a test. The guests are in `tests/findings`.

use std::{fs, io::Read, process::Stdio};

use stagehost_tests::{Place, guests::text, hostile, repository};

fn guest(place: &Place, name: &str) -> String {
    let source = fs::read_to_string(repository().join("tests/findings").join(format!("{name}.wat")));
    text(place, &format!("{name}.wasm"), &source.expect("it is there")).display().to_string()
}

#[test]
fn a_name_that_a_hundred_thousand_imports_share_takes_no_memory() {
    // In an encoding that the engine does not know, and a parser would.
    fn leb(mut number: usize, out: &mut Vec<u8>) {
        while number >= 0x80 {
            out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        out.push(u8::try_from(number).unwrap());
    }
    let place = Place::new();
    let (count, name) = (100_000, vec![b'm'; 100_000]);
    let mut imports = vec![1];
    leb(name.len(), &mut imports);
    imports.extend(name);
    imports.extend([0, 0x7e, 0, 0]);
    leb(count, &mut imports);
    imports.extend(vec![0; count]);
    let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02".to_vec();
    leb(imports.len(), &mut module);
    module.extend(imports);
    place.write("names.wasm", module);
    let script = "ulimit -v 204800; exec \"$0\" inspect names.wasm";
    let run = place.program("sh").args(["-c", script, &stagehost_tests::binary().display().to_string()]);
    run.done().code(126).says(&["no valid WebAssembly"]);
}

#[test]
fn deterministic_runs_end_at_their_time_too() {
    let place = Place::new();
    for name in ["random-loop", "write-iovecs-million-empty", "clock-loop", "p3-poll-set-busy"] {
        let guests = hostile::all();
        let wasm = hostile::write(&place, guests.iter().find(|guest| guest.name == name).unwrap());
        let run = || place.shorthand(&wasm).args(["--stdin", "null", "--stdout", "null", "--deterministic"]);
        run().args(["--limit", "cpu_time=200ms"]).done().code(152).says(&["cpu_time limit of 200ms"]);
        run().args(["--timeout", "300ms"]).done().code(124).says(&["timeout of 300ms"]);
    }
}

#[test]
fn a_virtual_clock_does_not_run_on_while_input_is_there() {
    let place = Place::new();
    let wasm = guest(&place, "p1-poll-input-or-alarm");
    place.write("in.txt", "x".repeat(1 << 20));
    for before in ["", ":cat | ", ":cat | :cat | "] {
        let run = place.shorthand(&format!("{before}{wasm}")).args(["--stdin", "in.txt", "--deterministic"]);
        // Where it starts.
        run.done().code(0).prints(1_000_000_000_u64.to_le_bytes());
    }
}

#[test]
fn a_read_that_was_given_up_holds_no_virtual_clock() {
    let place = Place::new();
    let wasm = guest(&place, "p3-read-given-up-then-sleep");
    // The input comes, and ends, while the stage sleeps.
    place.write(
        "p.json",
        format!(
            r#"{{"version": 1, "stdin": "null", "timeout": "60s", "stages": [{{"command": ["sh", "-c", "sleep 0.3; echo x"]}},
                {{"wasm": "{wasm}", "grants": {{"clock": {{"frozen": "2026-01-01T00:00:00Z"}}}}}}]}}"#
        ),
    );
    place.stagehost(["run", "p.json"]).done().code(0);
}

#[test]
fn what_a_0_2_stage_wrote_arrives_while_it_waits_for_something_else() {
    let place = Place::new();
    let wasm = guest(&place, "p2-writes-then-waits");
    let (never, _writer) = std::io::pipe().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let running = place.shorthand(&wasm).stdin(never).stdout(Stdio::from(writer)).start();
    // More than fits the pipe: the last of it was taken from the stage and had no room then.
    let mut seen = vec![0; 128 << 10];
    reader.read_exact(&mut seen).unwrap();
    running.signal(rustix::process::Signal::TERM);
    running.done().died_of(rustix::process::Signal::TERM);
    drop(reader);
    // And who spins behind it is stalled.
    let wasm = guest(&place, "p2-writes-then-spins");
    let run = place.shorthand(&format!("{wasm} | cat")).args(["--stdin", "null", "--stdout", "null"]);
    run.args(["--limit", "1.stall_time=300ms"]).done().code(124).says(&["moved nothing for 300ms"]);
}

#[test]
fn twelve_handles_of_one_output_can_be_filled_at_once() {
    let place = Place::new();
    let wasm = guest(&place, "p2-twelve-outputs");
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    // Nothing finds room before it is read.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let mut before = 0;
    while let Ok(n) = rustix::io::write(&writer, &[b'-'; 4096]) {
        before += n;
    }
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let said = place.path("said");
    let run = place.shorthand(&wasm).args(["--stdin", "null"]);
    let mut run = run.stdout(writer).stderr(fs::File::create(&said).unwrap()).start();
    run.until("it to say that all are filled", || fs::read_to_string(&said).unwrap() == "filled\n");
    let mut all = Vec::new();
    fs::File::from(reader).read_to_end(&mut all).unwrap();
    run.done().code(0);
    // Each was permitted a kibibyte at least, and the first of them more.
    assert!(all[..before].iter().all(|byte| *byte == b'-') && all[before..].iter().all(|byte| *byte == b'a'));
    assert!(all.len() - before >= (8 * 64 + 4) << 10, "{}", all.len() - before);
}

#[test]
fn zeroes_that_were_permitted_are_written_whatever_other_handles_did() {
    // The same program, which writes zeroes in place of its list.
    let place = Place::new();
    let source = fs::read_to_string(repository().join("tests/findings/p2-twelve-outputs.wat")).unwrap();
    let write = r#"(export "[method]output-stream.write" (func (param "self" (borrow $o)) (param "contents" (list u8)) (result (result (error $se)))))"#;
    let zeroes = r#"(export "[method]output-stream.write-zeroes" (func (param "self" (borrow $o)) (param "len" u64) (result (result (error $se)))))"#;
    assert!(source.contains(write));
    let source = source
        .replace(write, &format!("{write}\n{zeroes}"))
        .replace(
            r#"  (core module $m
"#,
            r#"  (core func $zero (canon lower (func $io "[method]output-stream.write-zeroes") (memory (core memory $mem "m"))))
  (core module $m
    (import "h" "zero" (func $zero (param i32 i64 i32)))
"#,
        )
        .replace(
            "(call $write (i32.load offset=24 (local.get $at)) (i32.const 65536) (i32.load offset=8 (local.get $at)) (i32.const 1024))",
            "(call $zero (i32.load offset=24 (local.get $at)) (i64.load offset=8 (local.get $at)) (i32.const 1024))",
        )
        .replace(r#"(export "err" (func $err))"#, r#"(export "err" (func $err)) (export "zero" (func $zero))"#);
    let wasm = text(&place, "zeroes.wasm", &source).display().to_string();
    let run = place.shorthand(&format!("{wasm} | sh -c 'read x < go; exec cat'")).args(["--stdin", "null"]);
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("go"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let said = place.path("said");
    let mut run = run.stderr(fs::File::create(&said).unwrap()).start();
    run.until("all are filled", || fs::read_to_string(&said).unwrap().contains("filled\n"));
    fs::write(place.path("go"), "go\n").unwrap();
    let output = run.done().code(0);
    assert!(output.stdout.len() >= (8 * 64 + 4) << 10 && output.stdout.iter().all(|byte| *byte == 0));
}

#[test]
fn numbers_of_a_deterministic_run_have_one_meaning() {
    let place = Place::new();
    // A number that is none, added to one; and bytes picked by indices that are too large. Processors differ in both.
    let guest = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\05\00\00\00")
        (data (i32.const 32) "\00\00\80\3f\01\00\a0\7f")
        (func (export "_start")
            (f32.store (i32.const 16) (f32.add (f32.load (i32.const 32)) (f32.load (i32.const 36))))
            (i32.store8 (i32.const 20) (i8x16.extract_lane_u 0
                (i8x16.relaxed_swizzle (v128.const i8x16 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7) (v128.const i8x16 16 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0))))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 48)))))"#;
    let file = text(&place, "guest.wasm", guest).display().to_string();
    place.shorthand(&file).args(["--stdin", "null", "--deterministic"]).done().code(0).prints(b"\0\0\xc0\x7f\0");
    // Random ones are the same ones.
    let probe = stagehost_tests::guests::built("std-probe-p2.wasm").display().to_string();
    let random =
        || place.shorthand(&format!("{probe} hash")).args(["--stdin", "null", "--deterministic"]).done().code(0);
    assert_eq!(random().stdout_text(), random().stdout_text());
}
