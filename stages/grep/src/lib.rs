//! `grep`: passes the lines that match a regular expression. Bytes that are no UTF-8 are matched as bytes.

use std::ops::Range;

use lexopt::prelude::*;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind, Look},
};
use stagehost_guest::{ExitCode, Input, Output, Result, Usage, Write, stage};

/// Where a pattern finds in many lines at once what it finds in each of them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Wherever they are.
    Lines,
    /// Where they are ASCII.
    AsciiLines,
    /// In no other case: a match may reach over a newline, or looks at the text's own beginning or end.
    Text,
}

struct Options {
    pattern: Regex,
    reach: Reach,
    invert: bool,
    count: bool,
    only_matching: bool,
}

/// `None`: help is asked for.
fn parse(args: Vec<String>) -> Result<Option<Options>> {
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
            Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    if patterns.is_empty() {
        return Err("a pattern is missing; usage: grep [-v] [-i] [-c] [-F] [-o] [-e] PATTERN".into());
    }
    // Any of them: each is a group of its own, so that none reaches into the next.
    let alternative = |pattern: &String| if fixed { regex::escape(pattern) } else { format!("(?:{pattern})") };
    let pattern = patterns.iter().map(alternative).collect::<Vec<_>>().join("|");
    let parsed =
        ParserBuilder::new().utf8(false).case_insensitive(ignore_case).multi_line(true).build().parse(&pattern);
    let reach = match parsed {
        // What is a word beside bytes that are no UTF-8 depends on the bytes before, newlines among them; and beside what is
        // not ASCII the engine leaves its quick way, for the rest of all that it was given.
        Ok(hir) if stays_in_lines(&hir) && hir.properties().look_set().contains_word_unicode() => Reach::AsciiLines,
        Ok(hir) if stays_in_lines(&hir) => Reach::Lines,
        _ => Reach::Text,
    };
    let pattern = RegexBuilder::new(&pattern).case_insensitive(ignore_case).multi_line(true).build()?;
    Ok(Some(Options { pattern, reach, invert, count, only_matching }))
}

/// Whether no match reaches over a newline, and the beginnings and ends that are looked for are those of lines and words.
fn stays_in_lines(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty => true,
        HirKind::Literal(literal) => !literal.0.contains(&b'\n'),
        HirKind::Class(Class::Unicode(class)) => {
            !class.iter().any(|range| (range.start()..=range.end()).contains(&'\n'))
        }
        HirKind::Class(Class::Bytes(class)) => {
            !class.iter().any(|range| (range.start()..=range.end()).contains(&b'\n'))
        }
        // A carriage return before a newline is another thing than one at the end.
        HirKind::Look(look) => !matches!(look, Look::Start | Look::End | Look::StartCRLF | Look::EndCRLF),
        HirKind::Repetition(repetition) => stays_in_lines(&repetition.sub),
        HirKind::Capture(capture) => stays_in_lines(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().all(stays_in_lines),
    }
}

impl Options {
    /// Whether many lines are looked at at once.
    fn takes_at_once(&self, lines: &[u8]) -> bool {
        match self.reach {
            Reach::Lines => true,
            Reach::AsciiLines => lines.is_ascii(),
            Reach::Text => false,
        }
    }

    /// The next line that matches from `from` on, where a line begins: its place with its newline. The last line's newline
    /// is behind the end of `lines`.
    fn next_match(&self, lines: &[u8], at_once: bool, from: usize) -> Option<Range<usize>> {
        let end = |at: usize| memchr::memchr(b'\n', &lines[at..]).map_or(lines.len(), |newline| at + newline) + 1;
        if at_once {
            // Some place in the first line that matches is enough; where the match is would take longer.
            let at = self.pattern.shortest_match_at(lines, from)?;
            let begin = memchr::memrchr(b'\n', &lines[from..at]).map_or(from, |newline| from + newline + 1);
            return Some(begin..end(at));
        }
        let mut begin = from;
        while begin <= lines.len() {
            let line = begin..end(begin);
            if self.pattern.is_match(&lines[begin..line.end - 1]) {
                return Some(line);
            }
            begin = line.end;
        }
        None
    }
}

/// Passes what matches, and returns how many lines did.
fn pass(options: &Options, input: &mut Input, output: &mut Output) -> Result<u64> {
    let mut selected = 0_u64;
    while let Some(lines) = input.next_lines()? {
        let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
        // Places of lines are with their newlines, so the end of the last one is this.
        let end = lines.len() + 1;
        let at_once = options.takes_at_once(lines);
        let mut from = 0;
        while from < end {
            let found = options.next_match(lines, at_once, from).unwrap_or(end..end);
            let wanted = if options.invert { from..found.start } else { found.clone() };
            from = found.end;
            if wanted.is_empty() {
                continue;
            }
            // Without the last newline, which may not be there.
            let text = &lines[wanted.start..wanted.end - 1];
            selected += if options.invert { memchr::memchr_iter(b'\n', text).count() as u64 + 1 } else { 1 };
            if options.count {
                continue;
            }
            if !options.only_matching {
                output.write_all(text)?;
                output.write_all(b"\n")?;
            } else if !options.invert {
                for found in options.pattern.find_iter(text).filter(|found| !found.is_empty()) {
                    output.write_all(found.as_bytes())?;
                    output.write_all(b"\n")?;
                }
            }
        }
    }
    if options.count {
        writeln!(output, "{selected}")?;
    }
    Ok(selected)
}

fn run(input: &mut Input, output: &mut Output) -> Result<ExitCode> {
    let Some(options) = parse(stagehost_guest::args()).map_err(Usage::new)? else {
        output.write_all(include_bytes!("../help.txt"))?;
        return Ok(ExitCode(0));
    };
    Ok(ExitCode(u8::from(pass(&options, input, output)? == 0)))
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
    fn many_lines_at_once_are_as_each_alone() {
        let patterns = [
            "a",
            "^$",
            "$",
            "^",
            "b*",
            "^b",
            "a$",
            r"\ba",
            r"a\b",
            r"\Ba",
            r"\<b",
            "[^a]b",
            r"\Aa",
            r"b\z",
            "(?-m)^a",
            "(?-m)b$",
            r"\s",
            "a.b",
            "(?R)a$",
            "(?R)^b",
            "(?s)a.b",
            r"a|\n",
            r"b\nb",
            r"\xff",
            r"(?-u)[^a]",
            "[ab]+",
            "(a|b){2}",
            "é",
            "a+b|b+a",
            r"\B",
            r"\b{start-half}[ab]",
            r"(?-u:[\x80-\xff])\B$",
            r"(?-u:\b)a",
            r"a(?-u:\b)",
            "a.*",
            ".*",
        ];
        let letters = [b"a".as_slice(), b"b", b"\n", b"\r", b"\xa9", "é".as_bytes()];
        let mut texts = vec![Vec::new()];
        for length in 0..5 {
            let longest: Vec<_> = texts.iter().filter(|text: &&Vec<&[u8]>| text.len() == length).cloned().collect();
            texts.extend(longest.iter().flat_map(|text| letters.map(|letter| [&text[..], &[letter]].concat())));
        }
        let mut at_once = 0;
        for (pattern, invert) in patterns.into_iter().flat_map(|pattern| [(pattern, false), (pattern, true)]) {
            let flags: &[&str] = if invert { &["-v"] } else { &[] };
            let options = parse(flags.iter().chain([&pattern]).map(ToString::to_string).collect()).unwrap().unwrap();
            at_once += u32::from(options.reach != Reach::Text);
            for text in texts.iter().map(|text| text.concat()) {
                let lines = text.strip_suffix(b"\n").unwrap_or(&text).split(|&byte| byte == b'\n');
                let lines = lines.filter(|line| !text.is_empty() && options.pattern.is_match(line) != invert);
                let expected: Vec<u8> = lines.flat_map(|line| [line, b"\n"].concat()).collect();
                let mut output = Output::to_vec();
                let selected = pass(&options, &mut Input::from_reader(std::io::Cursor::new(text.clone())), &mut output);
                let newlines = expected.iter().filter(|&&byte| byte == b'\n').count() as u64;
                assert_eq!(selected.unwrap(), newlines);
                assert_eq!(output.into_vec(), expected, "{pattern} {invert} {text:?}");
            }
        }
        assert_eq!(at_once, 2 * 24);
    }

    #[test]
    fn a_bad_pattern_is_refused() {
        assert!(parse(vec!["(".into()]).is_err());
        assert!(parse(vec![]).is_err());
    }
}
