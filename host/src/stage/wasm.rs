//! A sandboxed stage.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    gauge::Phase,
    inside::{InProcess, StageEnd, exit_of, settle},
};
use crate::{
    joint::{Countdown, OutputPort, Passing, Sink, Stop},
    outcome::{InputPlace, LimitKind, StageExit},
    sandbox::{
        CodeBudget, ComponentFile, Denials, Denied, GuestRun, GuestSpec, ReadyCode, RunTurns, Sandbox, Stdio, Usage,
        run_guest,
    },
    spec::Size,
};

/// A stage with its halves, ready to run.
#[derive(Debug)]
pub(crate) struct WasmStage {
    pub(crate) inside: InProcess,
    pub(crate) spec: GuestSpec,
    pub(crate) code: ComponentFile,
    /// The same, if it was loaded ahead.
    pub(crate) ready: Option<ReadyCode>,
    /// Of the code of all stages of its run.
    pub(crate) budget: Arc<CodeBudget>,
    pub(crate) wall_time: Option<Duration>,
    pub(crate) stderr: Sink,
    /// Where it stands in the file.
    pub(crate) place: String,
    /// What its component asks for and is not granted.
    pub(crate) asked: Vec<String>,
    /// The variables that it cannot be told.
    pub(crate) untold: Vec<String>,
    /// Whether its component says that it reads text.
    pub(crate) reads_text: bool,
}

impl WasmStage {
    /// Compiles the stage if need be, runs it, and returns how it ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the guest and drops both halves, which aborts a ring.
    pub(crate) async fn run(self, sandbox: Arc<Sandbox>, turns: RunTurns, stop: Stop) -> StageEnd {
        let Self { inside, spec, code, ready, budget, wall_time, stderr, place, asked, untold, reads_text } = self;
        let (dirs, linger) = (spec.rights.dirs.clone(), spec.linger);
        let limits = spec.limits;
        let passing = |most| Passing { most, exact: spec.deterministic };
        inside.gauge().enter(Phase::Starting);
        let (stdin, stdout) = inside.ports(passing(limits.input_bytes), passing(limits.output_bytes));
        let stdio = Stdio { stdin, stdout, stderr: OutputPort::with_tail(stderr, passing(limits.stderr_bytes)) };
        let is_ready = ready.is_some();
        let (ready, slot) = ready.map(|ready| (ready.loaded, ready.slot)).unzip();
        let loading = async {
            let loaded = match ready {
                Some(loaded) => loaded,
                None => sandbox.load(spec.engine(), &code, &limits, &turns).await?,
            };
            budget.charge(&code, spec.engine(), &loaded).map(|()| loaded)
        };
        let (mut dumps, mut frames) = (None, Vec::new());
        // Where nothing bounds it, the run's own timeout does.
        let compiling = (!is_ready && sandbox.bounds_compiling()).then(|| stop.compiling());
        let loaded = tokio::select! {
            biased;
            _ = stop.requested() => Err(StageExit::Cancelled),
            loaded = loading => loaded,
        };
        drop(compiling);
        let started = Instant::now();
        let mut unfinished = false;
        let (usage, denials) = (Arc::new(Usage::new(limits.cpu_time)), Denials::default());
        let ran = loaded.is_ok();
        if ran {
            inside.gauge().watch_guest(&usage);
            inside.gauge().enter(Phase::Running);
        }
        let exit = match loaded {
            Err(exit) => exit,
            Ok(loaded) => {
                let running = run_guest(GuestRun {
                    turns,
                    loaded,
                    spec,
                    stdio: stdio.clone(),
                    stop: stop.clone(),
                    usage: usage.clone(),
                    denials: denials.clone(),
                    file: code.bytes,
                    slot: slot.flatten(),
                });
                let ended = tokio::select! {
                    biased;
                    _ = stop.requested() => Err(StageExit::Cancelled),
                    failure = stdio.stdin.failed() => Err(inside.input_failed(&failure)),
                    failure = stdio.stdout.failed() => Err(inside.output_failed(&failure)),
                    failure = stdio.stderr.failed() => Err(exit_of(&failure, LimitKind::StderrBytes, None)),
                    exit = stalled(limits.stall_time, &stdio) => Err(exit),
                    exit = over_time(wall_time) => Err(exit),
                    end = running => Ok(end),
                };
                if ended.is_err() {
                    usage.left().await;
                }
                match ended {
                    Err(exit) => exit,
                    Ok(end) => {
                        (dumps, frames, unfinished) = (end.note, end.frames, end.unfinished);
                        match settle(end.exit, &inside, &stdio.stdin, &stdio.stdout) {
                            StageExit::Ok if !stdio.stdin.ended() => StageExit::FinishedEarly,
                            exit => exit,
                        }
                    }
                }
            }
        };
        let lifetime = started.elapsed();
        // What was printed is handed on before the report; a reader of stderr that does not read holds nothing up.
        stop.patiently(poll_fn(|cx| stdio.stderr.poll_flush(cx))).await;
        let stderr = stdio.stderr.tail_text();
        let mut notes = denials.notes(&place);
        notes.extend(
            untold.iter().map(|key| {
                format!("was not told the variable {key}: a sandboxed stage can be told only what is UTF-8")
            }),
        );
        let (mut remarks, mut hint) = (Vec::new(), None);
        let fails = !matches!(exit, StageExit::Ok | StageExit::FinishedEarly | StageExit::Cancelled);
        if unfinished {
            notes.push(format!(
                "had tasks that still ran when its `run` had returned: they were dropped after its `linger` of {}",
                humantime::format_duration(linger)
            ));
        }
        if let Some(Denied { limit, used, asked }) = usage.refused()
            && !matches!(exit, StageExit::Limit { which: LimitKind::Memory, .. })
        {
            let (limit, used, asked) = (Size(limit), Size(used), Size(asked));
            remarks.push(format!("was refused memory: {asked} more than the {used} in use, over its limit of {limit}"));
            hint = Some(format!("raise `{place}.limits.memory`, or --limit memory=…: it was refused memory"));
        }
        if fails {
            notes.extend(
                asked.iter().map(|right| format!("asks for {right} and is not granted it: see `{place}.grants`")),
            );
            notes.extend(denials.refused_open(&place, &dirs));
            if looked_for_files(&stderr, !dirs.is_empty()) {
                let grant = format!("add {{\"host\": DIR, \"guest\": \"/\"}} to `{place}.grants.dirs`");
                let has =
                    if dirs.is_empty() { "has no directories" } else { "found none of its directories around it" };
                notes.push(format!("looked for a file, and {has}: {grant}"));
                hint = hint.or(Some(grant));
            }
        }
        if reads_text && let Some(program) = stdio.stdin.decompressor() {
            notes.push(format!("reads text, and its input looks compressed: put `{program} -dc` before it"));
        }
        let end = StageEnd {
            peak_memory: ran.then(|| usage.peak_memory()),
            cpu: ran.then(|| usage.cpu()),
            fuel: usage.fuel(),
            frames,
            at: match exit {
                StageExit::Limit { .. } if ran => {
                    Some(InputPlace { byte: stdio.stdin.delivered(), line: None, exact: false })
                }
                _ => None,
            },
            lifetime: ran.then_some(lifetime),
            stderr,
            notes: notes.into_iter().chain(dumps).collect(),
            remarks,
            hint: hint.filter(|_| fails),
            ..StageEnd::default()
        };
        inside.end(exit, &stdio.stdin, &stdio.stdout, end)
    }
}

/// Whether what a program printed last says that it missed a file. Where no directory fits, C libraries and Rust's find nothing to ask
/// the host for, so that nobody else can tell. With directories a file may just not be there.
fn looked_for_files(stderr: &str, has_some: bool) -> bool {
    const OF_NO_DIRECTORY: [&str; 2] = ["Capabilities insufficient", "pre-opened file descriptor"];
    const OF_NONE_AT_ALL: [&str; 2] = ["No such file or directory", "Bad file descriptor"];
    let end = stderr.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
    let says = |signs: &[&str]| signs.iter().any(|sign| stderr[end..].contains(sign));
    says(&OF_NO_DIRECTORY) || !has_some && says(&OF_NONE_AT_ALL)
}

/// Waits until a stage has had its time.
pub(super) async fn over_time(wall_time: Option<Duration>) -> StageExit {
    let Some(limit) = wall_time else { return std::future::pending().await };
    Countdown::wait(limit).await;
    let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    StageExit::Limit { which: LimitKind::WallTime, limit: Some(limit), used: Some(limit), asked: None }
}

/// Waits until a stage has moved nothing for as long as it may, though it waited neither for input nor for room.
async fn stalled(limit: Option<Duration>, stdio: &Stdio) -> StageExit {
    const MOST: Duration = Duration::from_millis(250);
    let Some(limit) = limit else { return std::future::pending().await };
    let look = (limit / 4).clamp(Duration::from_millis(1), MOST);
    let moved = || stdio.stdin.delivered() + stdio.stdout.written() + stdio.stderr.written();
    let (mut last, mut still) = (moved(), Duration::ZERO);
    while still < limit {
        Countdown::wait(look).await;
        let waits = poll_fn(|cx| std::task::Poll::Ready(stdio.waits(cx))).await;
        let now = moved();
        still = if waits || now != last { Duration::ZERO } else { still + look };
        last = now;
    }
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    StageExit::Limit { which: LimitKind::StallTime, limit: Some(millis(limit)), used: Some(millis(still)), asked: None }
}
