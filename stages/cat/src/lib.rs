//! `cat`: copies its input to its output.

use stagehost_guest::{Input, Output, Result, Usage, Write, stage};

fn run(input: &mut Input, output: &mut Output) -> Result {
    match stagehost_guest::args().first().map(String::as_str) {
        None => {}
        Some("--help") => return Ok(output.write_all(include_bytes!("../help.txt"))?),
        Some(other) => return Err(Usage(format!("it takes no arguments, and got {other:?}")).into()),
    }
    pass(input, output)
}

fn pass(input: &mut Input, output: &mut Output) -> Result {
    input.copy_to(output)?;
    Ok(())
}

stage!(run, include_str!("../section.json"));
