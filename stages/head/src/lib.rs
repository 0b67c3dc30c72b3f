//! `head`: passes the first lines, or bytes, and stops.

use lexopt::prelude::*;
use stagehost_guest::{Input, Output, Result, Write, stage};

/// What is left to pass.
enum Left {
    Lines(u64),
    Bytes(u64),
}

fn parse(args: Vec<String>) -> Result<Left, lexopt::Error> {
    let mut left = Left::Lines(10);
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('n') | Long("lines") => left = Left::Lines(parser.value()?.parse()?),
            Short('c') | Long("bytes") => left = Left::Bytes(parser.value()?.parse()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(left)
}

fn pass(left: Left, input: &mut Input, output: &mut Output) -> Result {
    match left {
        Left::Lines(mut lines) => {
            // By chunks: a line is passed on while it comes, however long it is.
            while lines > 0
                && let Some(chunk) = input.next_chunk()?
            {
                let nth = usize::try_from(lines - 1).unwrap_or(usize::MAX);
                let end = memchr::memchr_iter(b'\n', chunk).nth(nth).map_or(chunk.len(), |newline| newline + 1);
                output.write_all(&chunk[..end])?;
                lines -= memchr::memchr_iter(b'\n', &chunk[..end]).count() as u64;
            }
        }
        Left::Bytes(mut bytes) => {
            while bytes > 0 {
                input.read_at_most(usize::try_from(bytes).unwrap_or(usize::MAX));
                let Some(chunk) = input.next_chunk()? else { break };
                let wanted = usize::try_from(bytes).map_or(chunk.len(), |bytes| bytes.min(chunk.len()));
                output.write_all(&chunk[..wanted])?;
                bytes -= wanted as u64;
            }
        }
    }
    Ok(())
}

fn run(input: &mut Input, output: &mut Output) -> Result {
    pass(parse(stagehost_guest::args())?, input, output)
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], input: &'static str, expected: &str) {
        let mut output = Output::to_vec();
        let left = parse(args.iter().map(ToString::to_string).collect()).unwrap();
        pass(left, &mut Input::from_reader(input.as_bytes()), &mut output).unwrap();
        assert_eq!(output.into_vec(), expected.as_bytes());
    }

    #[test]
    fn lines_and_bytes() {
        check(&["-n", "2"], "a\nb\nc\n", "a\nb\n");
        check(&["-n2"], "a", "a");
        check(&["-n", "0"], "a\n", "");
        check(&["-c", "3"], "abcd", "abc");
        check(&[], "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
    }
}
