//! `wc`: counts lines, words and bytes. A word is a run of bytes that are no ASCII white space.

use lexopt::prelude::*;
use stagehost_guest::{Input, Output, Result, Usage, Write, stage};

#[derive(Default)]
struct Options {
    lines: bool,
    words: bool,
    bytes: bool,
}

/// `None`: help is asked for.
fn parse(args: Vec<String>) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('l') | Long("lines") => options.lines = true,
            Short('w') | Long("words") => options.words = true,
            Short('c') | Long("bytes") => options.bytes = true,
            Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(options))
}

/// White space, as `wc` has it in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// How many words begin in `bytes`, of which `before` is what comes before them: words begin where a byte that is no space
/// follows one that is.
fn word_starts(before: u8, bytes: &[u8]) -> u64 {
    /// As many as a byte can count, in whole vectors.
    const COUNTED: usize = 240;
    let Some(&first) = bytes.first() else { return 0 };
    let begins = |before: u8, byte: u8| is_space(before) & !is_space(byte);
    let pairs = bytes.chunks(COUNTED).zip(bytes[1..].chunks(COUNTED));
    let inside = pairs.map(|(before, bytes)| {
        let count: u8 = before.iter().zip(bytes).map(|(&before, &byte)| u8::from(begins(before, byte))).sum();
        u64::from(count)
    });
    u64::from(begins(before, first)) + inside.sum::<u64>()
}

fn count(options: &Options, input: &mut Input, output: &mut Output) -> Result {
    let all = !(options.lines || options.words || options.bytes);
    let (mut lines, mut words, mut bytes) = (0_u64, 0_u64, 0_u64);
    let mut before = b' ';
    while let Some(chunk) = input.next_chunk()? {
        bytes += chunk.len() as u64;
        if all || options.lines {
            lines += memchr::memchr_iter(b'\n', chunk).count() as u64;
        }
        if all || options.words {
            words += word_starts(before, chunk);
            before = *chunk.last().unwrap_or(&before);
        }
    }
    let counts: Vec<u64> = [(options.lines, lines), (options.words, words), (options.bytes, bytes)]
        .into_iter()
        .filter_map(|(wanted, count)| (all || wanted).then_some(count))
        .collect();
    if let [one] = counts[..] {
        writeln!(output, "{one}")?;
    } else {
        let columns: Vec<String> = counts.iter().map(|count| format!("{count:7}")).collect();
        writeln!(output, "{}", columns.join(" "))?;
    }
    Ok(())
}

fn run(input: &mut Input, output: &mut Output) -> Result {
    match parse(stagehost_guest::args()).map_err(Usage::new)? {
        Some(options) => count(&options, input, output),
        None => Ok(output.write_all(include_bytes!("../help.txt"))?),
    }
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], input: &'static [u8], expected: &str) {
        let mut output = Output::to_vec();
        let options = parse(args.iter().map(ToString::to_string).collect()).unwrap().unwrap();
        count(&options, &mut Input::from_reader(input), &mut output).unwrap();
        assert_eq!(String::from_utf8(output.into_vec()).unwrap(), expected);
    }

    #[test]
    fn counts_as_wc_does() {
        check(&[], b"a b\nc\xff\n", "      2       3       7\n");
        check(&["-l"], b"a\nb", "1\n");
        check(&["-w"], b" a\tb  c", "3\n");
        check(&["-c"], b"", "0\n");
        check(&["-l", "-c"], b"x\n", "      1       2\n");
    }

    #[test]
    fn words_begin_wherever_they_do() {
        for length in 0..1_000 {
            let text: Vec<u8> = (0..length).map(|i| b"a \x0bbc\r\xa0d\x08\n"[(i * i + i / 3) % 10]).collect();
            let words = text.split(|&byte| is_space(byte)).filter(|word| !word.is_empty()).count() as u64;
            assert_eq!(word_starts(b' ', &text), words, "{length}");
            let goes_on = text.first().is_some_and(|&byte| !is_space(byte));
            assert_eq!(word_starts(b'x', &text), words - u64::from(goes_on), "{length}");
        }
        assert_eq!(word_starts(b' ', &b"a ".repeat(1_000)), 1_000);
    }
}
