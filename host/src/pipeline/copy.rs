//! A pipeline without stages: copies stdin to stdout.

use std::{future::poll_fn, io, os::fd::OwnedFd, sync::Arc};

use rustix::io::Errno;

use crate::{
    joint::{Buffers, DescriptorSource, Sink, Source, Stop},
    outcome::StageExit,
    stage::StageEnd,
};

pub(super) async fn copy(
    mut source: Source,
    mut sink: Sink,
    (input_name, output_name): (&str, &str),
    buffers: &Buffers,
    stop: &Stop,
) -> (StageEnd, Option<Source>, Option<Sink>) {
    let (mut read_bytes, mut written_bytes) = (0, 0);
    let mut broken = false;
    let copying = async {
        if let (Source::Descriptor(pipe), Sink::File(file)) = (&mut source, &sink)
            && let (Some(from), Some(to)) = (pipe.pipe(), file.plain_file())
        {
            let spliced = splice_all(pipe, Arc::new(from), to, &mut read_bytes).await;
            written_bytes = read_bytes;
            if spliced.map_err(|error| (output_name.to_owned(), error))? {
                return Ok(());
            }
        }
        let mut buffer = buffers.take();
        loop {
            let read = poll_fn(|cx| source.poll_read(cx, &mut buffer)).await;
            let n = read.map_err(|error| (input_name.to_owned(), error))?;
            read_bytes += n as u64;
            let mut left = &buffer[..n];
            while !left.is_empty() {
                let written = poll_fn(|cx| sink.poll_write(cx, left)).await;
                let written = written.map_err(|error| (output_name.to_owned(), error))?;
                written_bytes += written as u64;
                left = &left[written..];
            }
            if n == 0 {
                return Ok::<(), (String, io::Error)>(());
            }
            // Ends that are always ready must not hold the thread.
            tokio::task::consume_budget().await;
        }
    };
    let exit = tokio::select! {
        biased;
        _ = stop.requested() => StageExit::Cancelled,
        copied = copying => match copied {
            Ok(()) => StageExit::Ok,
            Err((_, error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                broken = true;
                StageExit::BrokenPipe
            }
            Err((name, error)) => StageExit::HostError { message: error.to_string(), path: Some(name) },
        },
    };
    let mut ended = StageEnd::of_host(0, exit);
    (ended.broken, ended.input_bytes, ended.output_bytes) = (broken, Some(read_bytes), Some(written_bytes));
    (ended, Some(source), Some(sink))
}

/// Moves a pipe's bytes to a file without their passing through this process. `false`: this file takes none that way, and the
/// rest is to be copied.
async fn splice_all(
    pipe: &mut DescriptorSource,
    from: Arc<OwnedFd>,
    to: Arc<OwnedFd>,
    moved: &mut u64,
) -> io::Result<bool> {
    loop {
        match pipe.splice_to(&from, &to).await {
            Ok(0) => return Ok(true),
            Ok(n) => *moved += n as u64,
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
