//! An asynchronous SDK stage, for tests: passes its input on and exits with its argument.

use stagehost_guest::{
    ExitCode, Result,
    asynchronous::{Input, Output},
    stage,
};

async fn run(input: &mut Input, output: &mut Output) -> Result<ExitCode> {
    while let Some(chunk) = input.next_chunk().await? {
        output.write_all(chunk).await?;
    }
    let code = stagehost_guest::args().first().map_or(Ok(0), |code| code.parse())?;
    Ok(ExitCode(code))
}

stage!(async run);
