//! The one renderer of errors: `error:`, `caused by:`, `hint:`.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
};

use stagehost::{
    InputPlace, Outcome, StageExit,
    outcome::{JointReport, StageReport},
    shown::{self, field},
    spec::Size,
};

use crate::failure::Failure;

/// Lines for people, each made safe as a whole: whatever is in one, it stays one.
#[derive(Debug, Default)]
pub(crate) struct Lines(pub(crate) String);

impl Lines {
    pub(crate) fn add(&mut self, line: impl std::fmt::Display) {
        self.0.push_str(&shown::line(&line.to_string()));
        self.0.push('\n');
    }
}

fn print(text: &str) {
    // Nobody is left to hear that stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[expect(clippy::disallowed_methods, reason = "the command line reads the environment")]
fn label(word: &str) -> String {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match word {
        "error" if colour => format!("\x1b[1;31m{word}\x1b[0m"),
        "hint" if colour => format!("\x1b[1;36m{word}\x1b[0m"),
        _ => word.to_owned(),
    }
}

/// Prints what ended a verb early.
pub(crate) fn failure(failure: &Failure) {
    let mut text = format!("{}: {}\n", label("error"), field(&failure.error.to_string()));
    for cause in failure.error.chain().skip(1) {
        let _ = writeln!(text, "caused by: {}", field(&cause.to_string()));
    }
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "{}: {}", label("hint"), field(hint));
    }
    print(&text);
}

/// Prints how a run ended, unless it plainly succeeded.
pub(crate) fn outcome(outcome: &Outcome) {
    if outcome.message.is_empty() {
        return;
    }
    let mut text = format!("{}: {}\n", label("error"), field(&outcome.message));
    if let Some(stage) = outcome.blamed.as_deref().and_then(|name| outcome.stage(name)) {
        match &stage.exit {
            StageExit::Trap { frames, at, .. } => place(*at, frames, &mut text),
            _ => place(stage.at, &stage.frames, &mut text),
        }
    }
    if let Some(hint) = &outcome.hint {
        let _ = writeln!(text, "{}: {}", label("hint"), field(hint));
    }
    print(&text);
}

/// Shows where a stage was, and its input.
fn place(at: Option<InputPlace>, frames: &[String], text: &mut String) {
    const SHOWN: usize = 8;
    // Writing to a string cannot fail.
    if let Some(at) = at {
        let _ = writeln!(text, "  {at}");
    }
    // How a panic ends a program says nothing of why it panicked.
    let machinery = frames.iter().take_while(|frame| is_of_panicking(frame)).count();
    let own = if machinery == frames.len() { frames } else { &frames[machinery..] };
    for frame in own.iter().take(SHOWN) {
        let _ = writeln!(text, "  at {}", shown::line(frame));
    }
    if own.len() > SHOWN {
        let _ = writeln!(text, "  and {} more frames", own.len() - SHOWN);
    }
}

/// Whether a frame is of the machinery between a panic and the trap that ends it.
fn is_of_panicking(frame: &str) -> bool {
    const MACHINERY: [&str; 6] = ["abort", "__rustc::", "rust_", "std::", "core::panicking", "core::option::unwrap"];
    MACHINERY.iter().any(|prefix| frame.starts_with(prefix))
}

/// Prints what is to be said of stages besides how they ended.
pub(crate) fn notes(stages: &[StageReport], verbose: bool) {
    for stage in stages {
        let remarks = if verbose || !stage.accepted { &stage.remarks[..] } else { &[] };
        for note in stage.notes.iter().chain(remarks) {
            warning(&format!("stage `{}`: {note}", stage.name));
        }
        notes(&stage.stages, verbose);
    }
}

/// Prints what `-v` asks for.
pub(crate) fn details(outcome: &Outcome) {
    let mut text = String::new();
    stages(&outcome.stages, &outcome.joints, &mut text);
    let _ = writeln!(text, "exit code {} after {} ms", outcome.exit_code, outcome.duration_ms);
    print(&text);
}

fn stages(reports: &[StageReport], joints: &[JointReport], text: &mut String) {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), |bytes| Size(bytes).to_string());
    for stage in reports {
        if !stage.stages.is_empty() {
            stages(&stage.stages, joints, text);
            continue;
        }
        let time = stage.duration_ms.map_or_else(|| "-".into(), |ms| format!("{ms} ms"));
        let _ = writeln!(
            text,
            "{}: {}; {} in, {} out, {} of memory, {time}",
            shown::line(&stage.name),
            shown::line(&stage.exit.to_string()),
            size(stage.input_bytes),
            size(stage.output_bytes),
            size(stage.peak_memory_bytes)
        );
        let Some(joint) = joints.iter().find(|joint| joint.from == stage.name) else { continue };
        match &joint.ring {
            Some(ring) => {
                let _ = writeln!(
                    text,
                    "  ring of {}: {}, at most {} at once; the writer waited {} times ({} ms), the reader {} times ({} ms)",
                    size(joint.capacity),
                    size(joint.bytes),
                    Size(ring.high_water_bytes),
                    ring.writer_waits,
                    ring.writer_wait_ms,
                    ring.reader_waits,
                    ring.reader_wait_ms
                );
            }
            None => _ = writeln!(text, "  pipe of {}: {}", size(joint.capacity), size(joint.bytes)),
        }
    }
}

/// Prints a warning.
pub(crate) fn warning(message: &str) {
    print(&format!("warning: {}\n", shown::line(message)));
}
