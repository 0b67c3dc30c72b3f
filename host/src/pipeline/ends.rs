//! The ends of a pipeline, opened for the kind of stage that gets them.

use std::{
    io::{self, IsTerminal},
    os::fd::OwnedFd,
};

use rustix::pipe::{PipeFlags, pipe_with};

use super::{
    options::StderrPrefix,
    shared::{EndError, Shared},
    wiring::{Sides, Wiring},
};
use crate::{
    ends::{Ends, StdinKind, StdoutKind},
    joint::{
        self, Declared, Named, Opened, Output, OutputPort, OutsideSink, OutsideSource, Passing, Prefixed, Shown, Sink,
        Source, Stop,
    },
    plan::{Input, Outlet, Planned, PlannedStage, Work},
    spec::{StderrSpec, to_text},
    stage::{ChildInput, ChildOutput, ChildStderr},
};

/// What a run reads and where it writes, by the program's word or else the plan's.
pub(super) struct RunEnds {
    stdin: Option<OutsideSource>,
    planned_stdin: Input,
    stdout: Option<OutsideSink>,
    /// What the output is, if it is nothing that the program gave.
    pub(super) outlet: Outlet,
    pub(super) names: Names,
}

/// What a run's input and output are called in messages.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) input: String,
    pub(super) output: String,
}

impl RunEnds {
    /// # Errors
    ///
    /// An output that cannot be written as it is to be.
    pub(super) fn new(ends: Ends, plan: &Planned) -> Result<Self, EndError> {
        let mut names = Names { input: String::new(), output: plan.stdout_name.clone() };
        let (mut stdin, mut stdout) = (None, None);
        let planned_stdin = match ends.stdin.map(|stdin| stdin.0) {
            None => plan.stdin.clone(),
            Some(StdinKind::Inherit) => Input::Inherit,
            Some(StdinKind::Null) => Input::Null,
            Some(StdinKind::Bytes(bytes)) => Input::Text(bytes),
            Some(StdinKind::File(path)) => {
                let named = Named::anywhere(&path);
                let size = named.metadata().ok().filter(|metadata| metadata.is_file()).map(|metadata| metadata.len());
                Input::File(named, size)
            }
            Some(StdinKind::Outside(outside)) => {
                stdin = Some(outside);
                Input::Program
            }
        };
        names.input = planned_stdin.to_string();
        let outlet = match ends.stdout.map(|stdout| stdout.0) {
            None => plan.stdout.clone(),
            Some(StdoutKind::Inherit) => Outlet::Place(Output::Inherit),
            Some(StdoutKind::Null) => Outlet::Null,
            Some(StdoutKind::File { path, append, atomic }) => {
                names.output = to_text(&path);
                let output = Output::of(&Named::anywhere(&path), append, atomic)
                    .map_err(|why| EndError { name: names.output.clone(), error: io::Error::other(why) })?;
                Outlet::Place(output)
            }
            Some(StdoutKind::Outside(outside)) => {
                stdout = Some(outside);
                Outlet::Program
            }
        };
        match &outlet {
            Outlet::Program => names.output = "the program's writer".into(),
            Outlet::Null => names.output = "nothing".into(),
            Outlet::Place(Output::Inherit) => names.output = "standard output".into(),
            Outlet::Place(_) => {}
        }
        Ok(Self { stdin, planned_stdin, stdout, outlet, names })
    }
}

/// Of an end that was left to the program.
fn not_given() -> io::Error {
    io::Error::other("the program was to give it to the run, and gave none")
}

/// Opens the pipeline's input for the first stage, if there is one; else it is what is left in the half.
pub(super) async fn input(
    ends: &mut RunEnds,
    first: Option<&mut Wiring<'_>>,
    shared: &Shared,
    stop: &Stop,
) -> Result<Opened<Option<Source>>, EndError> {
    let name = ends.names.input.clone();
    let given = std::mem::replace(&mut ends.planned_stdin, Input::Null);
    let line_at_a_time = matches!(&first, Some(Wiring::Wasm(wasm, _)) if wasm.inspection.section.line_at_a_time);
    let opened = match first.map(Wiring::sides) {
        None => source(given, ends.stdin.take(), false).map(|opened| opened.map(Some)),
        Some(Sides::Inside(halves)) => source(given, ends.stdin.take(), line_at_a_time).map(|opened| {
            opened.map(|source| {
                halves.source = source;
                None
            })
        }),
        Some(Sides::Child(descriptors)) => child_input(given, ends.stdin.take(), shared, stop).await.map(|opened| {
            opened.map(|input| {
                descriptors.stdin = Some(input);
                None
            })
        }),
    };
    opened.map_err(|error| EndError { name, error })
}

/// Opens an input to be read by a program.
async fn child_input(
    given: Input,
    outside: Option<OutsideSource>,
    shared: &Shared,
    stop: &Stop,
) -> io::Result<Opened<ChildInput>> {
    let child = |file| ChildInput { file, feed: None };
    let fed = |source| -> io::Result<ChildInput> {
        let pipe = shared.pipes.pipe(joint::PIPE_CAPACITY)?;
        Ok(ChildInput { file: pipe.read, feed: Some((source, pipe.write, pipe.kept)) })
    };
    match given {
        // Somebody has to look at it on its way, even to a program.
        Input::Declared(..) => {
            let Opened { half, identity, atomic, rewind, whole } = source(given, outside, false)?;
            Ok(Opened { half: fed(half)?, identity, atomic, rewind, whole })
        }
        Input::Inherit => joint::input_descriptor(None, stop).await.map(|opened| opened.map(child)),
        Input::File(file, size) => {
            let opened = joint::input_descriptor(Some(&file), stop).await?;
            let watched = opened.half.try_clone().ok();
            let whole = watched.zip(size);
            Ok(Opened { whole, ..opened.map(child) })
        }
        Input::Null => joint::null().map(|file| Opened::plain(child(file))),
        Input::Text(text) => match joint::text_descriptor(&text) {
            Ok(file) => Ok(Opened::plain(child(file))),
            Err(_) => fed(Source::Text { text }).map(Opened::plain),
        },
        Input::Program => fed(Source::Outside(outside.ok_or_else(not_given)?)).map(Opened::plain),
    }
}

/// Opens an input to be read in this process.
fn source(given: Input, outside: Option<OutsideSource>, line_at_a_time: bool) -> io::Result<Opened<Source>> {
    match given {
        Input::Inherit => joint::open_stdin(None, line_at_a_time, None),
        Input::File(file, size) => joint::open_stdin(Some(&file), false, size),
        Input::Text(text) => Ok(Opened::plain(Source::Text { text })),
        Input::Null => Ok(Opened::plain(Source::Null)),
        Input::Program => outside.map(|outside| Opened::plain(Source::Outside(outside))).ok_or_else(not_given),
        Input::Declared(given, expected) => {
            let opened = source(*given, outside, false)?;
            Ok(opened.map(|source| Source::Declared(Box::new(Declared::new(source, expected)))))
        }
    }
}

/// Opens the pipeline's output for the last stage, if there is one; else it is what is left in the half.
pub(super) async fn output(
    ends: &mut RunEnds,
    last: Option<&mut Wiring<'_>>,
    shared: &Shared,
    stop: &Stop,
) -> Result<Opened<Option<Sink>>, EndError> {
    let name = ends.names.output.clone();
    let given = ends.stdout.take();
    let opened = match last.map(Wiring::sides) {
        None => sink(&ends.outlet, given, stop).await.map(|opened| opened.map(Some)),
        Some(Sides::Inside(halves)) => sink(&ends.outlet, given, stop).await.map(|opened| {
            opened.map(|sink| {
                halves.sink = sink;
                None
            })
        }),
        Some(Sides::Child(descriptors)) => child_output(&ends.outlet, given, shared, stop).await.map(|opened| {
            opened.map(|output| {
                descriptors.stdout = Some(output);
                None
            })
        }),
    };
    opened.map_err(|error| EndError { name, error })
}

/// Opens an output to be written in this process.
async fn sink(outlet: &Outlet, given: Option<OutsideSink>, stop: &Stop) -> io::Result<Opened<Sink>> {
    match outlet {
        Outlet::Null => Ok(Opened::plain(Sink::Null)),
        Outlet::Program => Ok(Opened::plain(Sink::Outside(given.ok_or_else(not_given)?))),
        Outlet::Place(output) => joint::open_stdout(output, stop).await,
    }
}

/// Opens an output to be written by a program.
async fn child_output(
    outlet: &Outlet,
    given: Option<OutsideSink>,
    shared: &Shared,
    stop: &Stop,
) -> io::Result<Opened<ChildOutput>> {
    match outlet {
        Outlet::Null => {
            let file = joint::null()?;
            Ok(Opened::plain(ChildOutput { file, drain: None, kept: None, end: None }))
        }
        Outlet::Program => {
            let sink = Sink::Outside(given.ok_or_else(not_given)?);
            let pipe = shared.pipes.pipe(joint::PIPE_CAPACITY)?;
            let drain = Some((pipe.read, sink));
            Ok(Opened::plain(ChildOutput { file: pipe.write, drain, kept: Some(pipe.kept), end: None }))
        }
        Outlet::Place(output) => {
            let opened = joint::output_descriptor(output, stop).await?;
            // Whether a reader is gone can be seen of what has readers.
            let has_readers = opened.identity.is_none() && !matches!(output, Output::Atomic(_));
            let end = if has_readers { Some(opened.half.try_clone()?) } else { None };
            Ok(opened.map(|file| ChildOutput { file, drain: None, kept: None, end }))
        }
    }
}

/// Opens what stages print to. All that print through share one sink.
pub(super) struct Logs {
    /// Whether stages whose `stderr` says nothing print through.
    tee: bool,
    /// Whose lines get their stage's name.
    prefix: StderrPrefix,
    port: Option<OutputPort>,
}

impl Logs {
    pub(super) fn new(tee: bool, prefix: StderrPrefix) -> Self {
        Self { tee, prefix, port: None }
    }

    /// Puts the stage's name before what it prints through, if that is wanted.
    fn named(&self, sink: Sink, stage: &PlannedStage) -> Sink {
        let is_guest = matches!(stage.work, Work::Wasm(_));
        let wanted = self.prefix == StderrPrefix::All || self.prefix == StderrPrefix::Guests && is_guest;
        match sink {
            Sink::Shared(_) | Sink::Shown(_) if wanted => Sink::Prefixed(Box::new(Prefixed::new(sink, &stage.name))),
            sink => sink,
        }
    }

    /// Opens what a stage prints to.
    pub(super) async fn open(
        &mut self,
        stage: &PlannedStage,
        wiring: &mut Wiring<'_>,
        stop: &Stop,
    ) -> Result<(), EndError> {
        let name = || stage.log.as_ref().map_or_else(|| "standard error".into(), |path| to_text(path.path()));
        let opened = match wiring.sides() {
            Sides::Inside(halves) => self.inside(stage, stop).await.map(|sink| halves.stderr = sink),
            Sides::Child(descriptors) => self.child(stage, stop).await.map(|log| descriptors.stderr = Some(log)),
        };
        opened.map_err(|error| EndError { name: name(), error })
    }

    async fn inside(&mut self, stage: &PlannedStage, stop: &Stop) -> io::Result<Sink> {
        let sink = match (&stage.stderr, &stage.log) {
            (Some(StderrSpec::File(_)), Some(path)) => joint::open_log(path, stop).await?,
            (spec, _) => match self.sink(spec.as_ref()) {
                // A guest may print anything; a program of the user's own is trusted with the terminal.
                Sink::Shared(port) if matches!(stage.work, Work::Wasm(_)) && io::stderr().is_terminal() => {
                    Sink::Shown(Shown::new(port))
                }
                sink => sink,
            },
        };
        Ok(self.named(sink, stage))
    }

    async fn child(&mut self, stage: &PlannedStage, stop: &Stop) -> io::Result<ChildStderr> {
        let plain = |file: OwnedFd| ChildStderr { file, log: None };
        match (&stage.stderr, &stage.log) {
            (Some(StderrSpec::File(_)), Some(path)) => joint::log_descriptor(path, stop).await.map(plain),
            (Some(StderrSpec::Inherit), _) => joint::stderr_descriptor().map(plain),
            (Some(StderrSpec::Null), _) => joint::null().map(plain),
            (spec, _) => pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).map(|(read, write)| {
                let sink = self.sink(spec.as_ref());
                ChildStderr { file: write, log: Some((read, self.named(sink, stage))) }
            }),
        }
    }

    fn sink(&mut self, spec: Option<&StderrSpec>) -> Sink {
        let through = match spec {
            None => self.tee,
            Some(StderrSpec::Tee | StderrSpec::Inherit) => true,
            Some(StderrSpec::Capture | StderrSpec::Null | StderrSpec::File(_)) => false,
        };
        if !through {
            return Sink::Null;
        }
        let port = self.port.get_or_insert_with(|| {
            OutputPort::with_tail(joint::open_stderr().unwrap_or(Sink::Null), Passing::default())
        });
        Sink::Shared(port.clone())
    }

    /// Hands on what was printed. A reader that does not read holds the end of the run up for no longer than this.
    pub(super) async fn flush(&self, stop: &Stop) {
        if let Some(port) = &self.port {
            stop.patiently(std::future::poll_fn(|cx| port.poll_flush(cx))).await;
        }
    }
}
