//! `words`: puts every run of ASCII letters on a line of its own, and drops everything between.

use stagehost_guest::{Input, Output, Result, Write, stage};

fn run(input: &mut Input, output: &mut Output) -> Result {
    if let Some(arg) = stagehost_guest::args().first() {
        return Err(format!("words takes no arguments, and got {arg:?}").into());
    }
    pass(input, output)
}

fn pass(input: &mut Input, output: &mut Output) -> Result {
    let mut lines = Vec::new();
    let mut in_word = false;
    while let Some(chunk) = input.next_chunk()? {
        lines.clear();
        for &byte in chunk {
            if byte.is_ascii_alphabetic() {
                lines.push(byte);
                in_word = true;
            } else if in_word {
                lines.push(b'\n');
                in_word = false;
            }
        }
        output.write_all(&lines)?;
    }
    if in_word {
        output.write_all(b"\n")?;
    }
    Ok(())
}

stage!(run, include_str!("../section.json"));

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &'static [u8], expected: &[u8]) {
        let mut output = Output::to_vec();
        pass(&mut Input::from_reader(input), &mut output).unwrap();
        assert_eq!(output.into_vec(), expected);
    }

    #[test]
    fn runs_of_letters() {
        check(b"", b"");
        check(b"  Hello, w0rld!", b"Hello\nw\nrld\n");
        check(b"no end", b"no\nend\n");
        check(b"\xff\x00a\xfe", b"a\n");
    }
}
