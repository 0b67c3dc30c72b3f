//! `cat`: copies its input to its output.

use stagehost_guest::{Input, Output, Result, stage};

fn run(input: &mut Input, output: &mut Output) -> Result {
    if let Some(arg) = stagehost_guest::args().first() {
        return Err(format!("cat takes no arguments, and got {arg:?}").into());
    }
    pass(input, output)
}

fn pass(input: &mut Input, output: &mut Output) -> Result {
    input.copy_to(output)?;
    Ok(())
}

stage!(run, include_str!("../section.json"));
