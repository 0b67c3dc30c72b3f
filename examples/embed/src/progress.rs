//! A view of a run while it goes on: what each stage has read and written, and what it waits for.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    thread,
    time::Duration,
};

use stagehost::{
    Ends, Host, HostOptions, Pipeline, Policy, RunOptions, RunSnapshot, Stage, StagePhase, Stdin, Stdout, WaitsFor,
};

use crate::Error;

/// Counts the words of `input`, and shows how far it is until it is done.
pub(crate) fn run(input: impl Read + Send + 'static, mut shown: impl Write) -> Result<(), Error> {
    let pipeline = Pipeline::builder(Policy::allow_all())
        .stage(Stage::wasm("builtin:lower"))
        .stage(Stage::wasm("builtin:words"))
        .stage(Stage::wasm("builtin:count"))
        .build()?;
    let host = Host::new(&HostOptions::new())?;
    let ends = Ends::new().stdin(Stdin::blocking(input)).stdout(Stdout::null());
    let running = host.start(pipeline.plan(), ends, &RunOptions::new());
    loop {
        let seen = running.snapshot();
        writeln!(shown, "{}", line(&seen))?;
        if seen.stages.iter().all(|stage| stage.state == StagePhase::Ended) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let outcome = running.wait();
    if outcome.success { Ok(()) } else { Err(outcome.message.into()) }
}

/// A run in one line.
fn line(seen: &RunSnapshot) -> String {
    let mut line = format!("{:5.1} s", seen.elapsed.as_secs_f64());
    for stage in &seen.stages {
        let waits = match (stage.state, stage.waits_for) {
            (StagePhase::Ended, _) => "done",
            (_, Some(WaitsFor::Input)) => "waits for input",
            (_, Some(WaitsFor::Output)) => "waits for room",
            _ => "works",
        };
        let mib = stage.input_bytes.unwrap_or_default() >> 20;
        // A string takes all that is written to it.
        let _ = write!(line, " | {} {mib} MiB, {waits}", stage.name);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_shown_until_its_stages_have_ended() {
        let mut shown = Vec::new();
        let text = "some words\n".repeat(300_000);
        run(std::io::Cursor::new(text), &mut shown).expect("a run");
        let shown = String::from_utf8(shown).expect("text");
        let last = shown.lines().last().unwrap_or_default();
        assert_eq!(last.matches("done").count(), 3, "{shown}");
        assert!(last.contains("lower 3 MiB"), "{shown}");
    }
}
