//! `grep`: passes the lines that match a regular expression. Bytes that are no UTF-8 are matched as bytes.

use lexopt::prelude::*;
use regex::bytes::{Regex, RegexBuilder};
use stagehost_guest::{ExitCode, Input, Output, Result, Write, stage};

/// The exit code of a wrong usage, as `grep`'s.
const USAGE: u8 = 2;

struct Options {
    pattern: Regex,
    invert: bool,
    count: bool,
    only_matching: bool,
}

fn parse(args: Vec<String>) -> Result<Options> {
    let (mut invert, mut ignore_case, mut count, mut fixed, mut only_matching) = (false, false, false, false, false);
    let mut patterns = Vec::new();
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('v') | Long("invert-match") => invert = true,
            Short('i') | Long("ignore-case") => ignore_case = true,
            Short('c') | Long("count") => count = true,
            Short('F') | Long("fixed-strings") => fixed = true,
            Short('o') | Long("only-matching") => only_matching = true,
            Short('e') | Long("regexp") => patterns.push(parser.value()?.string()?),
            Value(value) if patterns.is_empty() => patterns.push(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if patterns.is_empty() {
        return Err("a pattern is missing; usage: grep [-v] [-i] [-c] [-F] [-o] [-e] PATTERN".into());
    }
    // Any of them: each is a group of its own, so that none reaches into the next.
    let alternative = |pattern: &String| if fixed { regex::escape(pattern) } else { format!("(?:{pattern})") };
    let pattern = patterns.iter().map(alternative).collect::<Vec<_>>().join("|");
    let pattern = RegexBuilder::new(&pattern).case_insensitive(ignore_case).multi_line(true).build()?;
    Ok(Options { pattern, invert, count, only_matching })
}

/// Passes what matches, and returns how many lines did.
fn pass(options: &Options, input: &mut Input, output: &mut Output) -> Result<u64> {
    let mut selected = 0_u64;
    while let Some(line) = input.next_line()? {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if options.pattern.is_match(line) == options.invert {
            continue;
        }
        selected += 1;
        if options.count {
            continue;
        }
        if !options.only_matching {
            output.write_all(line)?;
            output.write_all(b"\n")?;
        } else if !options.invert {
            for found in options.pattern.find_iter(line).filter(|found| !found.is_empty()) {
                output.write_all(found.as_bytes())?;
                output.write_all(b"\n")?;
            }
        }
    }
    if options.count {
        writeln!(output, "{selected}")?;
    }
    Ok(selected)
}

fn run(input: &mut Input, output: &mut Output) -> Result<ExitCode> {
    let options = match parse(stagehost_guest::args()) {
        Ok(options) => options,
        Err(error) => {
            eprintln_stage(&format!("grep: {error}"));
            return Ok(ExitCode(USAGE));
        }
    };
    Ok(ExitCode(u8::from(pass(&options, input, output)? == 0)))
}

#[expect(clippy::print_stderr, reason = "a stage's stderr is where its messages belong")]
fn eprintln_stage(message: &str) {
    eprintln!("{message}");
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], input: &'static [u8], expected: &[u8]) {
        let mut output = Output::to_vec();
        let options = parse(args.iter().map(ToString::to_string).collect()).unwrap();
        pass(&options, &mut Input::from_reader(input), &mut output).unwrap();
        assert_eq!(output.into_vec(), expected, "{args:?}");
    }

    #[test]
    fn flags_do_what_greps_do() {
        let text = b"one\nTwo\n\xff two\nt.o";
        check(&["two"], text, b"\xff two\n");
        check(&["-i", "TWO"], text, b"Two\n\xff two\n");
        check(&["-v", "o$"], text, b"one\n");
        check(&["-c", "o"], text, b"4\n");
        check(&["-F", "t.o"], text, b"t.o\n");
        check(&["-o", "[tw]+"], text, b"w\ntw\nt\n");
        check(&["-e", "one", "-e", "T.o"], text, b"one\nTwo\n");
        check(&["-F", "-e", "t.o", "-e", "Two"], text, b"Two\nt.o\n");
        check(&[""], b"", b"");
        check(&["^$"], b"\n", b"\n");
    }

    #[test]
    fn a_bad_pattern_is_refused() {
        assert!(parse(vec!["(".into()]).is_err());
        assert!(parse(vec![]).is_err());
    }
}
