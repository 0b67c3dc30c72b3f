//! `count`: counts how often each line occurs. The most frequent come first, equal counts in byte order of the lines.
//!
//! The lines are kept in memory until the end: the stage's memory limit bounds how many different ones there may be.

use std::hash::Hasher;

use foldhash::{SharedSeed, fast::FoldHasher};
use hashbrown::{HashTable, hash_table::Entry};
use lexopt::prelude::*;
use stagehost_guest::{Input, Output, Result, Usage, Write, stage};

/// How many lines are wanted. `None`: help is asked for.
fn parse(args: Vec<String>) -> Result<Option<usize>, lexopt::Error> {
    let mut top = usize::MAX;
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('t') | Long("top") => top = parser.value()?.parse()?,
            Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(top))
}

/// Whether the first and the last `N` bytes are the same: all there is, if there are `N` to twice as many.
#[inline]
fn same_ends<const N: usize>(a: &[u8], b: &[u8]) -> bool {
    // One question instead of two: the answer is nearly always yes.
    (a.first_chunk::<N>() == b.first_chunk()) & (a.last_chunk::<N>() == b.last_chunk())
}

/// Whether two lines are the same. Most lines are short, and the library's own comparison goes byte by byte here.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    let length = a.len();
    length == b.len()
        && match length {
            0..4 => same_ends::<1>(a, b) & (a.get(length / 2) == b.get(length / 2)),
            4..8 => same_ends::<4>(a, b),
            8..16 => same_ends::<8>(a, b),
            _ => same_ends::<8>(a, b) && a.as_chunks::<8>().0.iter().zip(b.as_chunks().0).all(|(a, b)| a == b),
        }
}

/// Hashes lines, differently in each run: nobody can know beforehand which ones get the same hash, and make the table
/// slow.
struct Hashing {
    seed: u64,
    /// What the bytes themselves are mixed with. (With the library's fixed one, some lines have the same hash whatever
    /// the seed is.)
    shared: SharedSeed,
}

impl Hashing {
    fn random() -> Self {
        let (seed, shared) = stagehost_guest::seed();
        Self { seed, shared: SharedSeed::from_u64(shared) }
    }

    #[inline]
    fn of(&self, line: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, &self.shared);
        hasher.write(line);
        hasher.finish()
    }
}

/// The lines that occurred, and how often.
type Counts = HashTable<(Box<[u8]>, u64)>;

/// Counts lines. Only the last one may lack its newline.
///
/// A function of its own: what goes on for each line is to find its registers free.
#[inline(never)]
fn tally(counts: &mut Counts, hashing: &Hashing, mut lines: &[u8]) {
    while !lines.is_empty() {
        let end = memchr::memchr(b'\n', lines).unwrap_or(lines.len());
        let line = &lines[..end];
        match counts.entry(hashing.of(line), |(known, _)| same(known, line), |(known, _)| hashing.of(known)) {
            Entry::Occupied(mut known) => known.get_mut().1 += 1,
            Entry::Vacant(place) => _ = place.insert((line.into(), 1)),
        }
        lines = lines.get(end + 1..).unwrap_or_default();
    }
}

fn count(top: usize, input: &mut Input, output: &mut Output) -> Result {
    let hashing = Hashing::random();
    let mut counts = Counts::new();
    while let Some(lines) = input.next_lines()? {
        tally(&mut counts, &hashing, lines);
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
    match parse(stagehost_guest::args()).map_err(Usage::new)? {
        Some(top) => count(top, input, output),
        None => Ok(output.write_all(include_bytes!("../help.txt"))?),
    }
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
    fn lines_made_for_the_librarys_constants_are_lines_like_others() {
        // With these ends a factor of the hash is zero under the library's fixed seeds, whatever comes before them.
        let short = 0x3f84_d5b5_b547_0917_u64.to_le_bytes();
        let long = 0xc0ac_29b7_c97c_50dd_u64.to_le_bytes();
        let hashing = Hashing::random();
        for end in [short.to_vec(), [long, long].concat()] {
            let hashes = (0..1_000).map(|i| hashing.of(&[format!("{i:08}").as_bytes(), &end].concat()));
            assert_eq!(hashes.collect::<std::collections::HashSet<_>>().len(), 1_000);
            let fixed = Hashing { seed: hashing.seed, shared: SharedSeed::global_fixed().clone() };
            let hashes = (0..1_000).map(|i| fixed.of(&[format!("{i:08}").as_bytes(), &end].concat()));
            assert_eq!(hashes.collect::<std::collections::HashSet<_>>().len(), 1);
        }
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
