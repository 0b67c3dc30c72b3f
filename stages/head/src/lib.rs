//! `head`: passes the first lines, or bytes, and stops.

use lexopt::prelude::*;
use stagehost_guest::{Input, Output, Result, Usage, Write, stage};

/// What is left to pass.
enum Left {
    Lines(u64),
    Bytes(u64),
}

/// A number as `head` takes it: with a unit of 512 bytes, of powers of 1024, or (with a `B`) of powers of 1000.
fn number(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if text.starts_with('-') {
        return Err(format!("all but the last lines or bytes ({text}) are not supported; the program `head` has it"));
    }
    let factor: u64 = match unit {
        "" => 1,
        "b" => 512,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(format!("cannot parse {text:?} as a number")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("cannot parse {text:?} as a number"))?;
    Ok(number.saturating_mul(factor))
}

/// `None`: help is asked for.
fn parse(args: Vec<String>) -> Result<Option<Left>, lexopt::Error> {
    let mut left = Left::Lines(10);
    // `-5` is `-n 5`, where it is no flag's value.
    let mut is_value = false;
    let args = args.into_iter().map(|arg| {
        let was_value = std::mem::replace(&mut is_value, matches!(&*arg, "-n" | "-c" | "--lines" | "--bytes"));
        match arg.strip_prefix('-') {
            Some(digits) if !was_value && digits.starts_with(|c: char| c.is_ascii_digit()) => format!("-n{digits}"),
            _ => arg,
        }
    });
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('n') | Long("lines") => left = Left::Lines(parser.value()?.parse_with(number)?),
            Short('c') | Long("bytes") => left = Left::Bytes(parser.value()?.parse_with(number)?),
            Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(left))
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
    match parse(stagehost_guest::args()).map_err(Usage::new)? {
        Some(left) => pass(left, input, output),
        None => Ok(output.write_all(include_bytes!("../help.txt"))?),
    }
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], input: &'static str, expected: &str) {
        let mut output = Output::to_vec();
        let left = parse(args.iter().map(ToString::to_string).collect()).unwrap().unwrap();
        pass(left, &mut Input::from_reader(input.as_bytes()), &mut output).unwrap();
        assert_eq!(output.into_vec(), expected.as_bytes());
    }

    #[test]
    fn numbers_have_units() {
        let units =
            [("7", 7), ("2b", 1024), ("1k", 1024), ("1K", 1024), ("2kB", 2000), ("1M", 1 << 20), ("3MB", 3_000_000)];
        for (text, value) in units {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        assert!(number("1x").is_err() && number("").is_err() && number("k").is_err());
        assert!(number("-5").unwrap_err().contains("not supported"));
    }

    #[test]
    fn lines_and_bytes() {
        check(&["-n", "2"], "a\nb\nc\n", "a\nb\n");
        check(&["-n2"], "a", "a");
        check(&["-n", "0"], "a\n", "");
        check(&["-c", "3"], "abcd", "abc");
        check(&["-2"], "a\nb\nc\n", "a\nb\n");
        check(&["-c", "1k"], "abcd", "abcd");
        check(&[], "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n", "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
    }
}
