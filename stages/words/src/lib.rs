//! `words`: puts every run of ASCII letters on a line of its own, and drops everything between.

use stagehost_guest::{Input, Output, Result, Usage, Write, stage};

fn run(input: &mut Input, output: &mut Output) -> Result {
    match stagehost_guest::args().first().map(String::as_str) {
        None => {}
        Some("--help") => return Ok(output.write_all(include_bytes!("../help.txt"))?),
        Some(other) => return Err(Usage(format!("it takes no arguments, and got {other:?}")).into()),
    }
    pass(input, output)
}

/// So many bytes are looked at together.
const BLOCK: usize = 16;

/// Puts the letters of at most [`BLOCK`] bytes into `lines`, and a newline behind every word that ends among them. `in_word`
/// says whether a word goes on when they begin. Returns how many bytes of `lines` are wanted, and whether a word goes on
/// when the bytes end.
///
/// Without a branch: where words end is what no processor can guess.
#[inline(always)]
fn split(bytes: &[u8], mut in_word: bool, lines: &mut [u8; BLOCK]) -> (usize, bool) {
    let mut end = 0;
    for &byte in bytes {
        // Without its case's bit, so that there is one range to look at.
        let letter = (byte | 0x20).is_ascii_lowercase();
        lines[end % BLOCK] = if letter { byte } else { b'\n' };
        end += usize::from(letter | in_word);
        in_word = letter;
    }
    (end, in_word)
}

fn pass(input: &mut Input, output: &mut Output) -> Result {
    let mut lines = Vec::new();
    let mut in_word = false;
    while let Some(chunk) = input.next_chunk()? {
        // No byte becomes more than one, and each block is given room for a whole one.
        if lines.len() < chunk.len() + BLOCK {
            lines.resize(chunk.len() + BLOCK, 0);
        }
        let (blocks, rest) = chunk.as_chunks::<BLOCK>();
        let mut end = 0;
        for block in blocks {
            let room = lines[end..].first_chunk_mut().expect("there is room for what comes and a block");
            let (length, goes_on) = split(block, in_word, room);
            (end, in_word) = (end + length, goes_on);
        }
        let room = lines[end..].first_chunk_mut().expect("there is room for a block");
        let (length, goes_on) = split(rest, in_word, room);
        (end, in_word) = (end + length, goes_on);
        output.write_all(&lines[..end])?;
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
        check(b"@AZ[`az{", b"AZ\naz\n");
        check(&[b'a'; 40], &[&[b'a'; 40][..], b"\n"].concat());
    }

    #[test]
    fn blocks_and_chunks_change_nothing() {
        /// Three bytes at a time: a word may end with each of them.
        struct Slow(Vec<u8>, usize);
        impl std::io::Read for Slow {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                let n = into.len().min(self.1).min(self.0.len());
                self.0.drain(..n).zip(into).for_each(|(byte, place)| *place = byte);
                Ok(n)
            }
        }
        for length in 0..5 * BLOCK {
            let text: Vec<u8> = (0..length).map(|i| b"a. bZ\xe1 cde."[(i * i + i / 3) % 11]).collect();
            let words = text.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty());
            let expected: Vec<u8> = words.flat_map(|word| [word, b"\n"].concat()).collect();
            for at_once in [3, BLOCK, 1 << 10] {
                let mut output = Output::to_vec();
                pass(&mut Input::from_reader(Slow(text.clone(), at_once)), &mut output).unwrap();
                assert_eq!(output.into_vec(), expected, "{length} {at_once}");
            }
        }
    }
}
