//! `replace`: replaces, line by line, what matches a regular expression. `$1` and `${name}` stand for groups, `${1}x` where a letter,
//! digit or underscore follows, `$$` for a dollar sign.

use lexopt::prelude::*;
use regex::bytes::{NoExpand, Regex, RegexBuilder};
use stagehost_guest::{Input, Output, Result, Usage, Write, stage};

struct Options {
    pattern: Regex,
    replacement: String,
    literal: bool,
}

/// `None`: help is asked for.
fn parse(args: Vec<String>) -> Result<Option<Options>> {
    let (mut ignore_case, mut fixed, mut words) = (false, false, Vec::new());
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('i') | Long("ignore-case") => ignore_case = true,
            Short('F') | Long("fixed-strings") => fixed = true,
            Value(value) if words.len() < 2 => words.push(value.string()?),
            Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    let [pattern, replacement] = <[String; 2]>::try_from(words)
        .map_err(|_| "two arguments are needed; usage: replace [-i] [-F] PATTERN REPLACEMENT")?;
    let pattern = if fixed { regex::escape(&pattern) } else { pattern };
    let pattern = RegexBuilder::new(&pattern).case_insensitive(ignore_case).build()?;
    if !fixed {
        check_groups(&pattern, &replacement)?;
    }
    Ok(Some(Options { pattern, replacement, literal: fixed }))
}

/// Refuses a reference to a group that the pattern does not have: the regex library takes it for an empty one, and what was meant to
/// follow a shorter name is lost with it (`$2x`).
fn check_groups(pattern: &Regex, replacement: &str) -> Result {
    let exists = |name: &str| match name.parse::<usize>() {
        Ok(number) => number < pattern.captures_len(),
        Err(_) => pattern.capture_names().flatten().any(|known| known == name),
    };
    let mut rest = replacement;
    while let Some(dollar) = rest.find('$') {
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, braced) = match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((name, _)) => (name, true),
            None => (&rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())], false),
        };
        // A dollar sign before anything else stands for itself.
        if (braced || !name.is_empty()) && !exists(name) {
            // The longest beginning of it that is a group, if there is one.
            let shorter =
                (1..name.len()).rev().map(|end| name.split_at(end)).find(|(group, _)| !braced && exists(group));
            return Err(match shorter {
                Some((group, text)) => {
                    format!("the pattern has no group {name:?}: write ${{{group}}}{text} if group {group} is meant")
                }
                None => format!("the pattern has no group {name:?}: write $$ for a dollar sign"),
            }
            .into());
        }
    }
    Ok(())
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
    match parse(stagehost_guest::args()).map_err(Usage::new)? {
        Some(options) => pass(&options, input, output),
        None => Ok(output.write_all(include_bytes!("../help.txt"))?),
    }
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], input: &'static [u8], expected: &[u8]) {
        let mut output = Output::to_vec();
        let options = parse(args.iter().map(ToString::to_string).collect()).unwrap().unwrap();
        pass(&options, &mut Input::from_reader(input), &mut output).unwrap();
        assert_eq!(output.into_vec(), expected, "{args:?}");
    }

    #[test]
    fn groups_literals_and_bytes() {
        check(&["(a)(b)", "$2$1"], b"xab\nab", b"xba\nba");
        check(&["-F", "a.", "$1"], b"a.ab\n", b"$1ab\n");
        check(&["-i", "X", "y"], b"\xffxX\n", b"\xffyy\n");
        check(&["$", "!"], b"a\n\n", b"a!\n!\n");
        check(&["(a)(p)", "${2}x$1"], b"ap\n", b"pxa\n");
        check(&["(?<w>a)", "$w-$$1 $"], b"a\n", b"a-$1 $\n");
    }

    #[test]
    fn groups_that_are_not_there_are_refused() {
        let refused = |replacement: &str| {
            let args = ["(a)(p)", replacement].map(str::to_owned);
            parse(args.to_vec()).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(refused("$2x$1").contains("write ${2}x if group 2 is meant"));
        assert!(refused("$3").contains("no group \"3\""));
        assert!(refused("${name}").contains("no group \"name\""));
        assert!(refused("$name").contains("no group"));
        assert_eq!(refused("$$3 $ ${1}x $0"), "");
    }
}
