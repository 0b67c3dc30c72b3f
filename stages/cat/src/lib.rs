//! `cat`: copies its input to its output.

use stagehost_guest::{Input, Output, Result, stage};

fn run(input: &mut Input, output: &mut Output) -> Result {
    input.copy_to(output)?;
    Ok(())
}

stage!(run, include_str!("../section.json"));
