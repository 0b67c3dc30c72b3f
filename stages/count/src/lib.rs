//! `count`: counts how often each line occurs. The most frequent come first, equal counts in byte order of the lines.
//!
//! The lines are kept in memory until the end: the stage's memory limit bounds how many different ones there may be.

use std::hash::{BuildHasher, Hasher, RandomState};

use foldhash::fast::FixedState;
use hashbrown::{HashTable, hash_table::Entry};
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

/// Whether the first and the last `N` bytes are the same: all there is, if there are `N` to twice as many.
#[inline]
fn same_ends<const N: usize>(a: &[u8], b: &[u8]) -> bool {
    a.first_chunk::<N>() == b.first_chunk() && a.last_chunk::<N>() == b.last_chunk()
}

/// Whether two lines are the same. Most lines are short, and the library's own comparison goes byte by byte here.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    let length = a.len();
    length == b.len()
        && match length {
            0..4 => same_ends::<1>(a, b) && a.get(length / 2) == b.get(length / 2),
            4..8 => same_ends::<4>(a, b),
            8..16 => same_ends::<8>(a, b),
            _ => same_ends::<8>(a, b) && a.as_chunks::<8>().0.iter().zip(b.as_chunks().0).all(|(a, b)| a == b),
        }
}

fn count(top: usize, input: &mut Input, output: &mut Output) -> Result {
    // Nobody can know beforehand which lines are slow to keep apart.
    let hashing = FixedState::with_seed(RandomState::new().hash_one(0));
    let hash = |line: &[u8]| {
        let mut hasher = hashing.build_hasher();
        hasher.write(line);
        hasher.finish()
    };
    let mut counts: HashTable<(Box<[u8]>, u64)> = HashTable::new();
    while let Some(line) = input.next_line()? {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        match counts.entry(hash(line), |(known, _)| same(known, line), |(known, _)| hash(known)) {
            Entry::Occupied(mut known) => known.get_mut().1 += 1,
            Entry::Vacant(place) => _ = place.insert((line.into(), 1)),
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

    #[test]
    fn lines_that_differ_anywhere_are_kept_apart() {
        for length in 0..40 {
            let line = vec![b'x'; length];
            assert!(same(&line, &line));
            assert!(!same(&line, &[&line[..], b"x"].concat()));
            for place in 0..length {
                let mut other = line.clone();
                other[place] = b'y';
                assert!(!same(&line, &other), "{length} {place}");
            }
        }
    }
}
