//! Parity with go-pipe v2, behaviour by behaviour: each test carries the number of its row.
//!
//! go-pipe (Go, MIT) is the reference for pipelines that mix functions of a program with commands. Where stagehost differs on
//! purpose, the test pins our behaviour and says so. "F" is a stage in this process: a function, or a sandboxed stage where
//! the row needs no Rust state. Every test runs under the leak check.
#![expect(clippy::unwrap_used, reason = "a test's helpers are part of the test")]

mod blame;
mod ends;
mod environment;
mod functions;
mod limits;
mod negotiation;
mod start_stop;

use std::{
    io::{Read, Write},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use stagehost::{Host, HostOptions, Outcome, Pipeline, PipelineBuilder, Policy, Stage, function};
use stagehost_tests::{cache, leaks};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A host with two threads and the tests' code cache.
fn host() -> Host {
    Host::new(&HostOptions::new().threads(2).cache(cache())).unwrap()
}

/// A pipeline whose commands have a PATH and nothing else, and that reads nothing unless it says so.
fn pipeline() -> PipelineBuilder {
    let path = [
        ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
        ("LC_ALL".into(), "C".into()),
        // By which the leak check knows what a test's commands have started.
        (leaks::MARK.into(), leaks::process_mark().into()),
    ];
    Pipeline::builder(Policy::allow_all()).environment(path)
}

fn command(words: &[&str]) -> Stage {
    Stage::command(words.iter().copied())
}

fn shell(script: &str) -> Stage {
    command(&["sh", "-c", script])
}

/// Runs a pipeline and returns its outcome and output.
fn output(builder: PipelineBuilder) -> (Outcome, String) {
    let (outcome, output) = builder.build().unwrap().output(&host(), 64 << 20).wait();
    (outcome, String::from_utf8_lossy(&output).into_owned())
}

/// Runs a pipeline whose output goes nowhere.
fn run(builder: PipelineBuilder) -> Outcome {
    builder.stdout_null().build().unwrap().run(&host())
}

#[track_caller]
fn succeeds(outcome: &Outcome) {
    assert!(outcome.success, "{}\n{outcome:#?}", outcome.message);
}

#[track_caller]
fn check(builder: PipelineBuilder, expected: &str) {
    let (outcome, output) = output(builder);
    succeeds(&outcome);
    assert!(output == expected, "{} bytes: {:?}", output.len(), &output[..output.len().min(200)]);
}

/// A function that writes the numbers to `last`, a line each, and gives up when it cannot.
fn count_to(last: u32) -> Stage {
    Stage::blocking("count", move |_, output| {
        for number in 1..=last {
            output.write_all(format!("{number}\n").as_bytes())?;
        }
        Ok(())
    })
}

/// A function that copies.
fn copy(name: &str) -> Stage {
    Stage::blocking(name, |input, output| {
        std::io::copy(input, output)?;
        Ok(())
    })
}

/// A function that reads everything and does nothing with it.
fn read_all() -> Stage {
    Stage::blocking("read", |input, _| {
        input.read_to_end(&mut Vec::new())?;
        Ok(())
    })
}

/// A function that fails.
fn fails(message: &'static str) -> Stage {
    Stage::blocking("fails", move |_, _| Err(function::Error::msg(message)))
}

/// A program that cannot start although it is there: its interpreter is missing.
fn unstartable(place: &stagehost_tests::Place, name: &str) -> Stage {
    let path = place.write(name, "#!/nonexistent/interpreter\n");
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&path, executable).unwrap();
    Stage::command([path.display().to_string()])
}

/// What became of a reader or writer.
#[derive(Clone, Debug, Default)]
struct Fate(Arc<Mutex<FateState>>);

#[derive(Debug, Default)]
struct FateState {
    bytes: Vec<u8>,
    shut_down: u32,
    dropped: u32,
}

impl Fate {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    fn shut_down(&self) -> u32 {
        self.0.lock().unwrap().shut_down
    }

    fn dropped(&self) -> u32 {
        self.0.lock().unwrap().dropped
    }
}

/// A writer that remembers; with a `pause` it takes `piece` bytes at a time and rests in between.
struct Recorder {
    fate: Fate,
    pause: Option<(usize, std::time::Duration)>,
    resting: Option<Pin<Box<tokio::time::Sleep>>>,
}

fn recorder() -> (Recorder, Fate) {
    let fate = Fate::default();
    (Recorder { fate: fate.clone(), pause: None, resting: None }, fate)
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut n = bytes.len();
        if let Some((piece, pause)) = self.pause {
            n = n.min(piece);
            let resting = self.resting.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            std::task::ready!(resting.as_mut().poll(cx));
            self.resting = None;
        }
        self.fate.0.lock().unwrap().bytes.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.fate.0.lock().unwrap().shut_down += 1;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.fate.0.lock().unwrap().dropped += 1;
    }
}

/// A reader that has some bytes and then nothing, for ever.
struct NeverEnds {
    bytes: &'static [u8],
    fate: Fate,
}

impl AsyncRead for NeverEnds {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        if self.bytes.is_empty() {
            return Poll::Pending;
        }
        let n = self.bytes.len().min(buffer.remaining());
        buffer.put_slice(&self.bytes[..n]);
        self.bytes = &self.bytes[n..];
        Poll::Ready(Ok(()))
    }
}

impl Drop for NeverEnds {
    fn drop(&mut self) {
        self.fate.0.lock().unwrap().dropped += 1;
    }
}

/// Every numbered row has its test, here or beside what it is about.
#[test]
fn every_row_has_its_test() {
    let mut names = String::new();
    let mut directories =
        vec![stagehost_tests::repository().join("tests/tests"), stagehost_tests::repository().join("host/src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let rows = (1..=85).map(|row| format!("fn gp_{row:02}_")).chain((1..=8).map(|row| format!("fn n{row}_")));
    let missing: Vec<_> = rows.filter(|row| !names.contains(row)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
