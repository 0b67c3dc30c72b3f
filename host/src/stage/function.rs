//! A stage that is a function of the program that embeds the library.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::oneshot};

use super::{
    gauge::Phase,
    inside::{InProcess, StageEnd, settle},
    wasm::over_time,
};
use crate::{
    function::{
        AsyncInput, AsyncOutput, Body, Error, FinishedEarly, Function, Input, Output, Release, Result, Threads,
    },
    joint::{InputPort, OutputPort, Passing, Stop},
    outcome::{StageExit, TrapKind},
};

/// A function with its halves, ready to run.
#[derive(Debug)]
pub(crate) struct FunctionStage {
    pub(crate) inside: InProcess,
    pub(crate) function: Function,
    /// What it is called on if it blocks.
    pub(crate) threads: Arc<Threads>,
    pub(crate) wall_time: Option<Duration>,
    /// How long it may take to return after it was released.
    pub(crate) kill_after: Duration,
}

impl FunctionStage {
    /// Runs the function and returns how it ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future releases the function and drops both halves, which aborts a ring.
    pub(crate) async fn run(self, stop: Stop) -> StageEnd {
        let Self { inside, function, threads, wall_time, kill_after } = self;
        let (input, output) = inside.ports(Passing::default(), Passing::default());
        inside.gauge().enter(Phase::Running);
        let started = Instant::now();
        let mut notes = Vec::new();
        let Some(body) = function.body() else {
            let message =
                "its function can be called once, and was: one that is `Fn` runs any number of times".to_owned();
            let exit = StageExit::StartFailed { message, missing: false, path: None };
            return inside.end(exit, &input, &output, StageEnd::default());
        };
        let release = Releasing(Arc::default());
        let returned = start(body, &threads, &input, &output, &release.0);
        let ended = async {
            let mut returned = match returned {
                Ok(returned) => returned,
                Err(error) => {
                    return Err(StageExit::StartFailed { message: error.to_string(), missing: false, path: None });
                }
            };
            let stopped = tokio::select! {
                biased;
                () = stop.requested() => StageExit::Cancelled,
                failure = input.failed() => inside.input_failed(&failure),
                failure = output.failed() => inside.output_failed(&failure),
                exit = over_time(wall_time) => exit,
                returned = &mut returned.0 => return Ok(returned),
            };
            release.0.release();
            // An asynchronous function is simply dropped; a thread has to come back by itself.
            if returned.1.is_none() && tokio::time::timeout(kill_after, &mut returned.0).await.is_err() {
                notes.push("its function did not return when the run was stopped; its thread goes on".to_owned());
            }
            Err(stopped)
        };
        let exit = match ended.await {
            Err(exit) => exit,
            Ok(Ok(returned)) => settle(exit_of(returned), &inside, &input, &output),
            Ok(Err(_)) => StageExit::HostError { message: "the function was lost".into(), path: None },
        };
        let end = StageEnd { lifetime: Some(started.elapsed()), notes, ..StageEnd::default() };
        inside.end(exit, &input, &output, end)
    }
}

/// Releases a function when dropped.
struct Releasing(Arc<Release>);

impl Drop for Releasing {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// How a function came back: its result, or the text of its panic.
type Returned = std::result::Result<Result, String>;

/// An asynchronous function's task, ended with its owner.
struct Task(tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a function: on a thread, or as a task.
fn start(
    body: Body,
    threads: &Threads,
    input: &InputPort,
    output: &OutputPort,
    release: &Arc<Release>,
) -> io::Result<(oneshot::Receiver<Returned>, Option<Task>)> {
    let (sender, receiver) = oneshot::channel();
    match body {
        Body::Blocking(body) => {
            let runtime = Handle::current();
            let mut input = Input { port: input.clone(), release: release.clone(), runtime: runtime.clone() };
            let mut output = Output { port: output.clone(), release: release.clone(), runtime };
            threads.call(move || {
                let returned = catch_unwind(AssertUnwindSafe(|| body(&mut input, &mut output)));
                end_well(&returned, &input.release, &input.port, &output.port);
                // Nobody waits any longer if the run was stopped and gave this thread up.
                let _ = sender.send(returned.map_err(|panic| panic_text(&*panic)));
            })?;
            Ok((receiver, None))
        }
        Body::Async(body) => {
            let running =
                catch_unwind(AssertUnwindSafe(|| body(AsyncInput(input.clone()), AsyncOutput(output.clone()))));
            let (release, input, output) = (release.clone(), input.clone(), output.clone());
            let task = tokio::spawn(async move {
                let returned = match running {
                    Ok(running) => CatchUnwind(running).await,
                    Err(panic) => Err(panic_text(&*panic)),
                };
                end_well(&returned, &release, &input, &output);
                let _ = sender.send(returned);
            });
            Ok((receiver, Some(Task(task.abort_handle()))))
        }
    }
}

/// Where a function has ended well and nothing went wrong at its ends, its reader hears of it at once: what the run will make of it is the
/// same, and takes two more threads. One that was released may have taken that for the end of its input.
fn end_well<P>(returned: &std::result::Result<Result, P>, release: &Release, input: &InputPort, output: &OutputPort) {
    let went_well = matches!(returned, Ok(Ok(()))) && input.failure().is_none() && output.failure().is_none();
    if went_well && !release.is_released() {
        output.finish_ring();
    }
}

/// Turns a panic inside a future into a value.
struct CatchUnwind<F>(F);

impl<F: Future<Output = Result> + Unpin> Future for CatchUnwind<F> {
    type Output = Returned;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Returned> {
        let inner = std::pin::Pin::new(&mut self.0);
        match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(panic_text(&*panic))),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a text".into())
}

fn exit_of(returned: Returned) -> StageExit {
    match returned {
        Ok(Ok(())) => StageExit::Ok,
        Ok(Err(error)) if error.as_dyn().is::<FinishedEarly>() => StageExit::FinishedEarly,
        Ok(Err(error)) if is_broken_pipe(&error) => StageExit::BrokenPipe,
        Ok(Err(error)) => StageExit::Failed { message: error.to_string() },
        Err(text) => StageExit::Trap {
            trap: TrapKind::Panic,
            message: format!("panicked: {text}"),
            frames: Vec::new(),
            at: None,
        },
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_dyn());
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use stagehost_ring::{Options, Pool, ring};

    use super::*;
    use crate::joint::{Sink, Source};

    #[test]
    fn a_reader_hears_at_once_of_a_good_end_and_of_no_other() {
        let failed = || Err(Error::msg("it failed"));
        let ended = |returned: std::result::Result<Result, ()>, is_released: bool| {
            let (writer, mut reader) = ring(&Pool::new(1 << 20), Options::default());
            let input = InputPort::new(Source::Null, false, Passing::default());
            let output = OutputPort::new(Sink::Ring(writer), Passing::default());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(matches!(output.poll_write(&mut cx, b"all"), Poll::Ready(Ok(3))));
            let release = Release::default();
            if is_released {
                release.release();
            }
            end_well(&returned, &release, &input, &output);
            let mut read = [0; 8];
            assert!(matches!(reader.poll_read(&mut cx, &mut read), Poll::Ready(Ok(3))));
            match reader.poll_read(&mut cx, &mut read) {
                Poll::Ready(Ok(0)) => true,
                Poll::Pending => false,
                other => panic!("{other:?}"),
            }
        };
        assert!(ended(Ok(Ok(())), false));
        assert!(!ended(Ok(failed()), false) && !ended(Err(()), false));
        // It may have ended because the run was stopped, and taken that for the end of its input.
        assert!(!ended(Ok(Ok(())), true));
    }
}
