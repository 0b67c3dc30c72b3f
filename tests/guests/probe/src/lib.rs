//! A stage of many habits, for tests: its first argument says which.

use std::{error::Error, fmt, future::poll_fn, hint::black_box, io, task::Poll};

use stagehost_guest::{
    ExitCode, Input, Output, Read, Result, Write,
    bindings::{
        wasi::cli::{stdin, stdout},
        wit_stream,
    },
    stage,
};

/// An error with a source, to show the chain.
#[derive(Debug)]
struct Outer(io::Error);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the outer error")
    }
}

impl Error for Outer {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

fn run(input: &mut Input, output: &mut Output) -> Result<ExitCode> {
    let args = stagehost_guest::args();
    let number = || args.get(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    match args.first().map_or("pass", String::as_str) {
        "pass" => _ = input.copy_to(output)?,
        "bytes" => {
            input.read_at_most(1);
            let mut byte = [0];
            while input.read(&mut byte)? == 1 {
                output.write_all(&byte)?;
            }
        }
        "lines" => {
            while let Some(line) = input.next_line()? {
                output.write_all(line)?;
            }
        }
        "exit" => return Ok(ExitCode(u8::try_from(number())?)),
        "exit-now" => {
            output.write_all(b"said before leaving\n")?;
            stagehost_guest::exit(u8::try_from(number())?)
        }
        "copy-exit" => {
            input.copy_to(output)?;
            return Ok(ExitCode(u8::try_from(number())?));
        }
        "error" => return Err(Outer(io::Error::other("the inner cause")).into()),
        "panic" => {
            output.write_all(b"some output\n")?;
            output.flush()?;
            panic!("bad record {}", number());
        }
        "panic-after" => {
            for _ in 0..number() {
                if let Some(line) = input.next_line()? {
                    output.write_all(line)?;
                }
            }
            output.flush()?;
            panic!("bad record {}", number());
        }
        "spin" => loop {
            black_box(());
        },
        "alloc" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1_u8; 1 << 20]);
                black_box(&hoard);
            }
        }
        // Hands the input's stream straight to the output, so that the host moves the bytes by itself.
        "splice" => {
            let (stream, _) = stdin::read_via_stream();
            let done = stdout::write_via_stream(stream);
            let _ = wit_bindgen::block_on(async move { done.await });
        }
        // Returns while a write is under way.
        "pending" => {
            let (mut writer, reader) = wit_stream::new::<u8>();
            let done = stdout::write_via_stream(reader);
            let block = vec![b'x'; usize::try_from(number())?];
            // Never freed: the write goes on after `run` has returned.
            let mut writing = Box::pin(async move { drop(writer.write_all(block).await) });
            wit_bindgen::block_on(poll_fn(|cx| {
                let _ = writing.as_mut().poll(cx);
                Poll::Ready(())
            }));
            std::mem::forget((writing, done));
        }
        // Opens its input again after having read a part of it, and twice at once.
        "reopen" => {
            input.read_at_most(2);
            let mut first = [0; 2];
            input.read_exact(&mut first)?;
            output.write_all(&first)?;
            let (mut one, _) = stdin::read_via_stream();
            let (mut two, _) = stdin::read_via_stream();
            let rest = wit_bindgen::block_on(async move {
                let (_, mut rest) = one.read(Vec::with_capacity(2)).await;
                drop(one);
                loop {
                    let (result, more) = two.read(Vec::with_capacity(100)).await;
                    rest.extend_from_slice(&more);
                    if result == wit_bindgen::StreamResult::Dropped {
                        break rest;
                    }
                }
            });
            output.write_all(&rest)?;
        }
        // Opens its input for ever and closes nothing.
        "handles" => loop {
            std::mem::forget(stdin::read_via_stream());
        },
        // Uses up the stack that the compiler keeps in the guest's own memory.
        "recurse" => {
            fn deeper(n: u64) -> u64 {
                let frame = black_box([n; 512]);
                let rest = if black_box(n) == u64::MAX { 0 } else { deeper(n + 1) };
                rest + black_box(frame[usize::try_from(n % 512).unwrap_or(0)])
            }
            return Ok(ExitCode(u8::try_from(deeper(0) % 256)?));
        }
        // Asks for bytes that never come, as a deadlocked program would.
        "wait" => {
            let mut byte = [0];
            let _ = input.read(&mut byte)?;
        }
        "early" => {}
        "yes" => loop {
            output.write_all(b"y\n")?;
        },
        "generate" => {
            let block = [b'x'; 64 << 10];
            let mut left = number();
            while left > 0 {
                let n = usize::try_from(left.min(block.len() as u64))?;
                output.write_all(&block[..n])?;
                left -= n as u64;
            }
        }
        "report-broken-pipe" => {
            output.report_broken_pipe();
            let block = [b'x'; 64 << 10];
            loop {
                if let Err(error) = output.write_all(&block) {
                    return Ok(ExitCode(if error.kind() == io::ErrorKind::BrokenPipe { 7 } else { 8 }));
                }
            }
        }
        "ignore-broken-pipe" => {
            output.report_broken_pipe();
            let _ = input.copy_to(output);
        }
        "args" => {
            for arg in &args[1..] {
                writeln!(output, "{arg}")?;
            }
        }
        "env" => {
            for (key, value) in stagehost_guest::env() {
                writeln!(output, "{key}={value}")?;
            }
        }
        "stderr" => {
            stderr("on stderr\n");
        }
        "allocations" => {
            // What opens and closes the streams may allocate, and so may the output until its buffer has all its size; what passes
            // through them then may not.
            let (mut passed, mut first, mut last) = (0, None, 0);
            while let Some(line) = input.next_line()? {
                output.write_all(line)?;
                passed += line.len();
                last = counting::count();
                if passed > 64 << 10 {
                    first.get_or_insert(last);
                }
            }
            let between = last - first.unwrap_or(0);
            return Ok(ExitCode(u8::try_from(between).unwrap_or(u8::MAX)));
        }
        other => return Err(format!("no habit named {other}").into()),
    }
    Ok(ExitCode(0))
}

#[expect(clippy::print_stderr, reason = "a stage's stderr is what this habit is about")]
fn stderr(text: &str) {
    eprint!("{text}");
}

/// An allocator that counts.
mod counting {
    use std::{
        alloc::{GlobalAlloc, Layout, System},
        sync::atomic::{AtomicU64, Ordering::Relaxed},
    };

    struct Counting;
    static COUNT: AtomicU64 = AtomicU64::new(0);

    // SAFETY: every call goes to the system's allocator as it came.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            COUNT.fetch_add(1, Relaxed);
            // SAFETY: by this function's contract.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
            // SAFETY: by this function's contract.
            unsafe { System.dealloc(start, layout) }
        }
    }

    #[global_allocator]
    static GLOBAL: Counting = Counting;

    pub(super) fn count() -> u64 {
        COUNT.load(Relaxed)
    }
}

stage!(run, r#"{"name": "probe", "summary": "a stage of many habits", "ok_exit": [42]}"#);
