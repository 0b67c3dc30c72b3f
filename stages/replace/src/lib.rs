//! `replace`: replaces, line by line, what matches a regular expression. `$1` and `${name}` stand for groups.

use lexopt::prelude::*;
use regex::bytes::{NoExpand, Regex, RegexBuilder};
use stagehost_guest::{Input, Output, Result, Write, stage};

struct Options {
    pattern: Regex,
    replacement: String,
    literal: bool,
}

fn parse(args: Vec<String>) -> Result<Options> {
    let (mut ignore_case, mut fixed, mut words) = (false, false, Vec::new());
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('i') | Long("ignore-case") => ignore_case = true,
            Short('F') | Long("fixed-strings") => fixed = true,
            Value(value) if words.len() < 2 => words.push(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let [pattern, replacement] = <[String; 2]>::try_from(words)
        .map_err(|_| "two arguments are needed; usage: replace [-i] [-F] PATTERN REPLACEMENT")?;
    let pattern = if fixed { regex::escape(&pattern) } else { pattern };
    let pattern = RegexBuilder::new(&pattern).case_insensitive(ignore_case).build()?;
    Ok(Options { pattern, replacement, literal: fixed })
}

fn pass(options: &Options, input: &mut Input, output: &mut Output) -> Result {
    while let Some(line) = input.next_line()? {
        let (line, newline) = match line.strip_suffix(b"\n") {
            Some(line) => (line, &b"\n"[..]),
            None => (line, &b""[..]),
        };
        let replaced = if options.literal {
            options.pattern.replace_all(line, NoExpand(options.replacement.as_bytes()))
        } else {
            options.pattern.replace_all(line, options.replacement.as_bytes())
        };
        output.write_all(&replaced)?;
        output.write_all(newline)?;
    }
    Ok(())
}

fn run(input: &mut Input, output: &mut Output) -> Result {
    pass(&parse(stagehost_guest::args())?, input, output)
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
    fn groups_literals_and_bytes() {
        check(&["(a)(b)", "$2$1"], b"xab\nab", b"xba\nba");
        check(&["-F", "a.", "$1"], b"a.ab\n", b"$1ab\n");
        check(&["-i", "X", "y"], b"\xffxX\n", b"\xffyy\n");
        check(&["$", "!"], b"a\n\n", b"a!\n!\n");
    }
}
