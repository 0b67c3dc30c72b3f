//! Functions of the program among sandboxed stages: text is lowered in a sandbox, each line is counted and numbered here.

use std::io::{Read, Write};

use stagehost::{Ends, Host, HostOptions, Pipeline, Policy, RunOptions, Stage, Stdin, Stdout, function::lines};

use crate::Error;

/// Numbers the lines of `input`, lowered.
pub(crate) fn run(input: impl Read + Send + 'static, output: impl Write + Send + 'static) -> Result<(), Error> {
    let mut number = 0_u64;
    // Each run begins with a clone of what it captures.
    let numbers = lines(move |line, output| {
        number += 1;
        write!(output, "{number:>6}  ")?;
        output.write_all(line)?;
        Ok(output.write_all(b"\n")?)
    });
    let pipeline = Pipeline::builder(Policy::allow_all())
        .stage(Stage::wasm("builtin:lower"))
        .stage(Stage::blocking("numbers", numbers))
        .build()?;
    let host = Host::new(&HostOptions::new())?;
    let ends = Ends::new().stdin(Stdin::blocking(input)).stdout(Stdout::blocking(output));
    let outcome = host.run(pipeline.plan(), ends, &RunOptions::new());
    if outcome.success { Ok(()) } else { Err(outcome.message.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::Kept;

    #[test]
    fn lines_are_numbered() {
        let numbered = Kept::default();
        run(&b"One\nTWO\nthree"[..], numbered.clone()).expect("a run");
        assert_eq!(numbered.text(), "     1  one\n     2  two\n     3  three\n");
    }
}
