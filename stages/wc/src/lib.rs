//! `wc`: counts lines, words and bytes. A word is a run of bytes that are no ASCII white space.

use lexopt::prelude::*;
use stagehost_guest::{Input, Output, Result, Write, stage};

#[derive(Default)]
struct Options {
    lines: bool,
    words: bool,
    bytes: bool,
}

fn parse(args: Vec<String>) -> Result<Options, lexopt::Error> {
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('l') | Long("lines") => options.lines = true,
            Short('w') | Long("words") => options.words = true,
            Short('c') | Long("bytes") => options.bytes = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn count(options: &Options, input: &mut Input, output: &mut Output) -> Result {
    let all = !(options.lines || options.words || options.bytes);
    let (mut lines, mut words, mut bytes) = (0_u64, 0_u64, 0_u64);
    let mut in_word = false;
    while let Some(chunk) = input.next_chunk()? {
        bytes += chunk.len() as u64;
        if all || options.lines {
            lines += memchr::memchr_iter(b'\n', chunk).count() as u64;
        }
        if all || options.words {
            for byte in chunk {
                let space = byte.is_ascii_whitespace() || *byte == 0x0b;
                words += u64::from(!space && !in_word);
                in_word = !space;
            }
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
    count(&parse(stagehost_guest::args())?, input, output)
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], input: &'static [u8], expected: &str) {
        let mut output = Output::to_vec();
        let options = parse(args.iter().map(ToString::to_string).collect()).unwrap();
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
}
