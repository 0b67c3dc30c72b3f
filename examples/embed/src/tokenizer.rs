//! A tokenizer of the program's own: records that end with a line of two hyphens become a line each.

use std::io::{Read, Write};

use stagehost::{
    Ends, Host, HostOptions, Pipeline, Policy, RunOptions, Stage, Stdin, Stdout,
    function::{Split, tokens},
};

use crate::Error;

/// What ends a record.
const END: &[u8] = b"\n--\n";

/// Where the first record in what was read so far ends: called again with more as long as it says that it needs more.
fn record(read: &[u8], is_all: bool) -> Split {
    match read.windows(END.len()).position(|window| window == END) {
        Some(at) => Split::Token { token: 0..at, used: at + END.len() },
        None if is_all && !read.is_empty() => Split::Token { token: 0..read.len(), used: read.len() },
        None => Split::More,
    }
}

/// Writes each record of `input` as a line, lowered by a sandboxed stage.
pub(crate) fn run(input: impl Read + Send + 'static, output: impl Write + Send + 'static) -> Result<(), Error> {
    let joins = tokens(record, |record, output| {
        let line: Vec<u8> = record.trim_ascii().iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect();
        output.write_all(&line)?;
        Ok(output.write_all(b"\n")?)
    });
    let pipeline = Pipeline::builder(Policy::allow_all())
        .stage(Stage::blocking("records", joins))
        .stage(Stage::wasm("builtin:lower"))
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
    fn records_become_lines_wherever_reads_cut_them() {
        let text = "A\nB\n--\nC -- D\n--\nLAST";
        for piece in 1..text.len() {
            /// Hands over so many bytes at a time.
            struct Slowly(&'static [u8], usize);
            impl Read for Slowly {
                fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                    let most = self.1.min(into.len());
                    self.0.read(&mut into[..most])
                }
            }
            let lines = Kept::default();
            run(Slowly(text.as_bytes(), piece), lines.clone()).expect("a run");
            assert_eq!(lines.text(), "a b\nc -- d\nlast\n", "{piece} bytes at a time");
        }
    }
}
