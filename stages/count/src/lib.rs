//! `count`: counts how often each line occurs. The most frequent come first, equal counts in byte order of the lines.
//!
//! The lines are kept in memory until the end: the stage's memory limit bounds how many different ones there may be.

use std::collections::HashMap;

use lexopt::prelude::*;
use stagehost_guest::{Input, Output, Result, Write, stage};

fn parse(args: Vec<String>) -> Result<usize, lexopt::Error> {
    let mut top = usize::MAX;
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('t') | Long("top") => top = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(top)
}

fn count(top: usize, input: &mut Input, output: &mut Output) -> Result {
    let mut counts: HashMap<Box<[u8]>, u64> = HashMap::new();
    while let Some(line) = input.next_line()? {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match counts.get_mut(line) {
            Some(count) => *count += 1,
            None => _ = counts.insert(line.into(), 1),
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    for (line, count) in counts.iter().take(top) {
        write!(output, "{count:7} ")?;
        output.write_all(line)?;
        output.write_all(b"\n")?;
    }
    Ok(())
}

fn run(input: &mut Input, output: &mut Output) -> Result {
    count(parse(stagehost_guest::args())?, input, output)
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(top: usize, input: &'static [u8], expected: &[u8]) {
        let mut output = Output::to_vec();
        count(top, &mut Input::from_reader(input), &mut output).unwrap();
        assert_eq!(output.into_vec(), expected);
    }

    #[test]
    fn most_frequent_first_then_byte_order() {
        check(9, b"b\na\nc\nc\n\xff\nb", b"      2 b\n      2 c\n      1 a\n      1 \xff\n");
        check(1, b"b\na\n", b"      1 a\n");
        check(9, b"", b"");
        check(9, b"\n\n", b"      2 \n");
    }
}
