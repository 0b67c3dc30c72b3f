//! Copies where a program meets something that is no descriptor: an embedder's reader or writer, and what is kept of its
//! standard error.

use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};

use crate::joint::{Buffers, DescriptorSink, DescriptorSource, OutputPort, Passing, Sink, Source};

/// A task that is ended with its owner.
#[derive(Debug)]
pub(super) struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    fn spawn(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }

    pub(super) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end. Cancel safe; not to be called again after it returned.
    pub(super) async fn ended(&mut self) -> io::Result<T> {
        (&mut self.0).await.map_err(io::Error::other)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What came of feeding a program.
#[derive(Debug)]
pub(super) struct Fed {
    pub(super) bytes: u64,
    pub(super) source: Source,
    /// The write end, still open if the source failed: its reader must not take that for an end.
    pub(super) failed: Option<(io::Error, DescriptorSink)>,
}

/// Feeds a program from a source until either side is done.
pub(super) fn feed(mut source: Source, mut sink: DescriptorSink, buffers: &Buffers) -> Task<Fed> {
    let buffers = buffers.clone();
    Task::spawn(async move {
        let mut bytes = 0;
        loop {
            // Taken only while there is something in it: most of the time such a source waits.
            poll_fn(|cx| source.poll_ready(cx)).await;
            let mut buffer = buffers.take();
            let n = match poll_fn(|cx| source.poll_read(cx, &mut buffer)).await {
                Ok(0) => return Fed { bytes, source, failed: None },
                Ok(n) => n,
                Err(error) => return Fed { bytes, source, failed: Some((error, sink)) },
            };
            let mut left = &buffer[..n];
            while !left.is_empty() {
                match poll_fn(|cx| sink.poll_write(cx, left)).await {
                    Ok(written) => left = &left[written..],
                    // The program has all it wanted, or is gone: its exit tells.
                    Err(_) => {
                        let failed = source.finish().await.err().map(|error| (error, sink));
                        return Fed { bytes, source, failed };
                    }
                }
            }
            bytes += n as u64;
            tokio::task::consume_budget().await;
        }
    })
}

/// What came of draining a program.
#[derive(Debug)]
pub(super) struct Drained {
    pub(super) bytes: u64,
    pub(super) sink: Sink,
    pub(super) failure: Option<io::Error>,
    /// Whether something that the program left behind still held its output open.
    pub(super) held_open: bool,
}

/// Takes what a program writes to a sink. Once `gone` says that the program has ended, what it wrote until then is taken
/// however long that takes; what it left behind may write for as long as it may linger.
pub(super) fn drain(
    mut source: DescriptorSource,
    mut sink: Sink,
    gone: watch::Receiver<bool>,
    linger: Duration,
    buffers: &Buffers,
) -> Task<Drained> {
    let buffers = buffers.clone();
    Task::spawn(async move {
        let mut bytes = 0;
        let mut lingering: Option<(u64, Instant)> = None;
        let (failure, held_open) = loop {
            let mut watched = gone.clone();
            let deadline = lingering.filter(|(left, _)| *left == 0).map(|(_, deadline)| deadline);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break (None, true);
            }
            tokio::select! {
                biased;
                _ = watched.wait_for(|gone| *gone), if lingering.is_none() => {
                    lingering = Some((source.waiting(), Instant::now() + linger));
                    continue;
                }
                () = poll_fn(|cx| source.poll_ready(cx)) => {}
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now).into()), if deadline.is_some() => {
                    break (None, true);
                }
            }
            let mut buffer = buffers.take();
            let n = match poll_fn(|cx| source.poll_read(cx, &mut buffer)).await {
                Ok(0) => break (None, false),
                Ok(n) => n,
                Err(error) => break (Some(error), false),
            };
            if let Some((left, _)) = &mut lingering {
                *left = left.saturating_sub(n as u64);
            }
            match write_all(&mut sink, &buffer[..n]).await {
                Ok(()) => bytes += n as u64,
                Err(error) => break (Some(error), false),
            }
            tokio::task::consume_budget().await;
        };
        Drained { bytes, sink, failure, held_open }
    })
}

async fn write_all(sink: &mut Sink, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = poll_fn(|cx| sink.poll_write(cx, bytes)).await?;
        bytes = &bytes[written..];
    }
    poll_fn(|cx| sink.poll_flush(cx)).await
}

/// A program's standard error on its way to the report, and to the host's own if it is passed on.
#[derive(Debug)]
pub(crate) struct Log {
    reading: Option<Task<()>>,
    port: OutputPort,
}

impl Log {
    pub(super) fn start(file: OwnedFd, sink: Sink, buffers: &Buffers) -> io::Result<Self> {
        let mut source = DescriptorSource::owned(file)?;
        let port = OutputPort::with_tail(sink, Passing::default());
        let (kept, buffers) = (port.clone(), buffers.clone());
        let reading = Task::spawn(async move {
            loop {
                poll_fn(|cx| source.poll_ready(cx)).await;
                let mut buffer = buffers.take();
                let Ok(n @ 1..) = poll_fn(|cx| source.poll_read(cx, &mut buffer)).await else { break };
                let mut left = &buffer[..n];
                while !left.is_empty() {
                    // Standard error never fails a stage.
                    let Ok(written) = poll_fn(|cx| kept.poll_write(cx, left)).await else { break };
                    left = &left[written..];
                }
            }
            let _ = poll_fn(|cx| kept.poll_flush(cx)).await;
        });
        Ok(Self { reading: Some(reading), port })
    }

    /// Waits until nobody can print any more and all is passed on. Cancel safe.
    pub(crate) async fn ended(&mut self) {
        if let Some(reading) = &mut self.reading {
            // A fault of ours in there loses what was still to be read, nothing else.
            let _ = reading.ended().await;
            self.reading = None;
        }
    }

    /// Whether somebody may still print.
    pub(crate) fn is_open(&self) -> bool {
        self.reading.is_some()
    }

    /// What is kept of it.
    pub(crate) fn text(&self) -> String {
        self.port.tail_text()
    }
}
