//! What a function is given and gives back.

use std::{
    fmt,
    future::Future,
    io::{self, Read, Write},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    thread::Thread,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
};

use crate::{
    joint::{InputPort, OutputPort},
    wait::Unpark,
};

/// What a function returns.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// Why a function failed: any error. [`FinishedEarly`] is no failure.
///
/// An [`io::Error`] of kind `BrokenPipe`, after a write of the stage was refused, ends it as
/// [`StageExit::BrokenPipe`](crate::StageExit::BrokenPipe).
pub struct Error(Box<dyn std::error::Error + Send + Sync>);

impl Error {
    /// An error with a message.
    pub fn msg(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    pub(crate) fn as_dyn(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Says that a stage has all it wanted and needs no more input. Whoever then gets a broken pipe is excused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("finished early")]
pub struct FinishedEarly;

/// The run was stopped while a function waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run was stopped")]
pub struct Stopped;

/// A function that can be a stage. Clones share it.
#[derive(Clone)]
pub(crate) struct Function(Kind);

pub(crate) type Ending = Pin<Box<dyn Future<Output = Result> + Send>>;
type Blocking = dyn Fn(&mut Input, &mut Output) -> Result + Send + Sync;
type BlockingOnce = dyn FnOnce(&mut Input, &mut Output) -> Result + Send;
type Asynchronous = dyn Fn(AsyncInput, AsyncOutput) -> Ending + Send + Sync;
type AsynchronousOnce = dyn FnOnce(AsyncInput, AsyncOutput) -> Ending + Send;

#[derive(Clone)]
enum Kind {
    Blocking(Arc<Blocking>),
    Async(Arc<Asynchronous>),
    /// What can be called once is there until it is.
    Once(Arc<Mutex<Option<Body>>>),
}

/// A function that is about to be called.
pub(crate) enum Body {
    Blocking(Box<BlockingOnce>),
    Async(Box<AsynchronousOnce>),
}

impl Function {
    pub(crate) fn blocking(body: impl Fn(&mut Input, &mut Output) -> Result + Send + Sync + 'static) -> Self {
        Self(Kind::Blocking(Arc::new(body)))
    }

    pub(crate) fn asynchronous(body: impl Fn(AsyncInput, AsyncOutput) -> Ending + Send + Sync + 'static) -> Self {
        Self(Kind::Async(Arc::new(body)))
    }

    pub(crate) fn once(body: Body) -> Self {
        Self(Kind::Once(Arc::new(Mutex::new(Some(body)))))
    }

    /// The function for one run; `None`: it can be called once, and was.
    pub(crate) fn body(&self) -> Option<Body> {
        match &self.0 {
            Kind::Blocking(body) => {
                let body = body.clone();
                Some(Body::Blocking(Box::new(move |input, output| body(input, output))))
            }
            Kind::Async(body) => {
                let body = body.clone();
                Some(Body::Async(Box::new(move |input, output| body(input, output))))
            }
            Kind::Once(body) => body.lock().unwrap_or_else(PoisonError::into_inner).take(),
        }
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").finish_non_exhaustive()
    }
}

/// Releases the threads that wait in a function's reads and writes.
#[derive(Debug, Default)]
pub(crate) struct Release {
    released: AtomicBool,
    waiting: Mutex<Vec<Thread>>,
}

impl Release {
    pub(crate) fn is_released(&self) -> bool {
        self.released.load(SeqCst)
    }

    pub(crate) fn release(&self) {
        self.released.store(true, SeqCst);
        for thread in self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            thread.unpark();
        }
    }

    /// Polls until it is ready, parking this thread meanwhile.
    fn block_on<T>(
        &self,
        runtime: &Handle,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        thread_local!(static WAKER: Waker = Unpark::waker());
        let _inside = runtime.enter();
        WAKER.with(|waker| {
            let mut cx = Context::from_waker(waker);
            loop {
                if self.released.load(SeqCst) {
                    // Its ends may have been taken away: what they would say now is no end.
                    return Err(io::Error::other(Stopped));
                }
                if let Poll::Ready(done) = poll(&mut cx) {
                    return done;
                }
                {
                    let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    let this = std::thread::current();
                    if !waiting.iter().any(|thread| thread.id() == this.id()) {
                        waiting.push(this);
                    }
                }
                if !self.released.load(SeqCst) {
                    std::thread::park();
                }
            }
        })
    }
}

/// A blocking function's standard input.
#[derive(Debug)]
pub struct Input {
    pub(crate) port: InputPort,
    pub(crate) release: Arc<Release>,
    pub(crate) runtime: Handle,
}

impl Read for Input {
    /// Waits for at least one byte. 0 is the clean end.
    ///
    /// # Errors
    ///
    /// When the stage before failed (only under `on_failure: drain`; else the run is stopped), the system refuses, or the
    /// run is stopped.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        self.release.block_on(&self.runtime, |cx| self.port.poll_read(cx, into))
    }
}

/// A blocking function's standard output. What is written is seen by the reader at once; there is no buffer to flush.
#[derive(Debug)]
pub struct Output {
    pub(crate) port: OutputPort,
    pub(crate) release: Arc<Release>,
    pub(crate) runtime: Handle,
}

impl Write for Output {
    /// Waits until at least one byte is taken.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the reader is gone; otherwise when the run is stopped.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.release.block_on(&self.runtime, |cx| self.port.poll_write(cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An asynchronous function's standard input.
#[derive(Debug)]
pub struct AsyncInput(pub(crate) InputPort);

/// An asynchronous function's standard output.
#[derive(Debug)]
pub struct AsyncOutput(pub(crate) OutputPort);

impl AsyncRead for AsyncInput {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let n = std::task::ready!(self.0.poll_read(cx, buffer.initialize_unfilled()))?;
        buffer.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AsyncOutput {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The stage's end is the end of its output.
        Poll::Ready(Ok(()))
    }
}
