//! From places in a component's code to source lines, by the debug information that the component carries.
//!
//! That information is the component's own word: it may be wrong, and made to be slow to read. So only the line programs are read,
//! from front to back and each once, with bounds on what is read at all, on a thread that gives up when its time is over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use gimli::{
    AttributeValue, ColumnType, DebugLine, DebugLineOffset, DebugLineStr, DebugStr, EndianSlice, LittleEndian,
};
use tokio::task::JoinHandle;
use wasmparser::{Encoding, Payload, TypeRef};

use super::code::inspect::parser;

/// How long looking for lines may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// The largest line program, and the largest header of one, that is read, in bytes.
const MOST_PROGRAM: usize = 8 << 20;
const MOST_HEADER: usize = 1 << 20;
/// The longest part of a path, in characters.
const MOST_PATH: usize = 512;

/// A place in the code, as a backtrace names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodePlace {
    /// The function's index in its module.
    pub(super) function: u32,
    /// Bytes from the function's beginning.
    pub(super) in_function: usize,
    /// Bytes from the file's beginning.
    pub(super) in_file: usize,
}

/// The source lines of places in a component's code, where they can be found: `src/lib.rs:70:13`.
///
/// # Cancel safety
///
/// The thread that looks gives up soon after.
pub(super) async fn find(file: Bytes, places: Vec<CodePlace>) -> Vec<Option<String>> {
    let count = places.len();
    let given_up = GiveUp(Arc::default());
    let stop = given_up.0.clone();
    patiently(tokio::task::spawn_blocking(move || look(&file, &places, &stop)), count).await
}

/// What was found in time, of so many places.
async fn patiently(looking: JoinHandle<Vec<Option<String>>>, count: usize) -> Vec<Option<String>> {
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(Ok(found)) => found,
        // Out of time, or damaged beyond what was foreseen.
        Ok(Err(_)) | Err(_) => vec![None; count],
    }
}

struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Looks for the line of every function's beginning: what the fuzzer does.
#[cfg(fuzzing)]
pub(crate) fn look_everywhere(file: &[u8]) {
    let stop = AtomicBool::new(false);
    for core in cores(file).unwrap_or_default() {
        let places: Vec<_> = (core.imported..)
            .zip(&core.bodies)
            .take(8)
            .map(|(function, body)| CodePlace { function, in_function: 0, in_file: *body })
            .collect();
        let _ = look(file, &places, &stop);
    }
}

/// A core module in the file.
#[derive(Debug, Default)]
struct Core<'a> {
    start: usize,
    end: usize,
    /// Where its code begins, which is what debug information counts from.
    code: usize,
    imported: u32,
    /// Where its functions begin.
    bodies: Vec<usize>,
    lines: &'a [u8],
    strings: &'a [u8],
    line_strings: &'a [u8],
}

fn look(file: &[u8], places: &[CodePlace], stop: &AtomicBool) -> Vec<Option<String>> {
    let mut found = vec![None; places.len()];
    for core in cores(file).unwrap_or_default() {
        let wanted: Vec<_> = places.iter().map(|place| core.address(*place)).collect();
        if wanted.iter().any(Option::is_some) {
            core.find(&wanted, &mut found, stop);
        }
    }
    found
}

fn cores(file: &[u8]) -> wasmparser::Result<Vec<Core<'_>>> {
    let (mut all, mut inside) = (Vec::<Core<'_>>::new(), false);
    for payload in parser().parse_all(file) {
        let payload = payload?;
        if let Payload::Version { encoding: Encoding::Module, range, .. } = &payload {
            inside = true;
            all.push(Core { start: range.start, ..Core::default() });
            continue;
        }
        let (true, Some(core)) = (inside, all.last_mut()) else { continue };
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    core.imported += u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                }
            }
            Payload::CodeSectionStart { range, .. } => core.code = range.start,
            Payload::CodeSectionEntry(body) => core.bodies.push(body.range().start),
            Payload::CustomSection(section) => match section.name() {
                ".debug_line" => core.lines = section.data(),
                ".debug_str" => core.strings = section.data(),
                ".debug_line_str" => core.line_strings = section.data(),
                _ => {}
            },
            Payload::End(at) => {
                core.end = at;
                inside = false;
            }
            _ => {}
        }
    }
    Ok(all)
}

impl Core<'_> {
    /// A place as this module's debug information counts; `None` if it is in another module, or in code that the host made
    /// to join modules.
    fn address(&self, place: CodePlace) -> Option<u64> {
        let index = usize::try_from(place.function.checked_sub(self.imported)?).ok()?;
        let begins = place.in_file.checked_sub(place.in_function)?;
        let is_here = (self.start..self.end).contains(&place.in_file) && self.bodies.get(index) == Some(&begins);
        is_here.then(|| place.in_file.checked_sub(self.code).map(|at| at as u64)).flatten()
    }

    fn find(&self, wanted: &[Option<u64>], found: &mut [Option<String>], stop: &AtomicBool) {
        let section = DebugLine::new(self.lines, LittleEndian);
        let word = |at: usize| {
            let bytes = self.lines.get(at..at.checked_add(4)?)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
        };
        let mut at = 0;
        // Units of the 64-bit format, which no wasm has, begin with a number that is no length.
        while let Some(length) = word(at).filter(|length| *length < 0xffff_fff0) {
            if stop.load(Relaxed) {
                return;
            }
            let is_v5 = self.lines.get(at + 4) == Some(&5);
            let header = word(at + if is_v5 { 8 } else { 6 }).unwrap_or(usize::MAX);
            if length <= MOST_PROGRAM
                && header <= MOST_HEADER
                && let Ok(program) = section.program(DebugLineOffset(at), 4, None, None)
            {
                self.follow(program, wanted, found);
            }
            at = at.saturating_add(4).saturating_add(length);
        }
    }

    /// Goes through one line program.
    fn follow<'a>(
        &'a self,
        program: gimli::IncompleteLineProgram<EndianSlice<'a, LittleEndian>>,
        wanted: &[Option<u64>],
        found: &mut [Option<String>],
    ) {
        let mut rows = program.rows();
        // Address, file, line and column of the row before: it covers what comes before this one.
        let mut before: Option<(u64, u64, u64, u64)> = None;
        while let Ok(Some((header, row))) = rows.next_row() {
            if let Some((from, file, line, column)) = before {
                for (want, slot) in wanted.iter().zip(found.iter_mut()) {
                    let is_here = want.is_some_and(|want| (from..row.address()).contains(&want));
                    if slot.is_none() && is_here && line != 0 {
                        *slot = self.path(header, file).map(|path| format!("{path}:{line}:{column}"));
                    }
                }
            }
            let column = match row.column() {
                ColumnType::Column(column) => column.get(),
                ColumnType::LeftEdge => 1,
            };
            let line = row.line().map_or(0, std::num::NonZero::get);
            before = (!row.end_sequence()).then(|| (row.address(), row.file_index(), line, column));
        }
    }

    fn path<'a>(
        &'a self,
        header: &gimli::LineProgramHeader<EndianSlice<'a, LittleEndian>>,
        file: u64,
    ) -> Option<String> {
        let strings = DebugStr::new(self.strings, LittleEndian);
        let line_strings = DebugLineStr::new(self.line_strings, LittleEndian);
        let text = |value| {
            let text = match value {
                AttributeValue::String(text) => text,
                AttributeValue::DebugStrRef(at) => strings.get_str(at).ok()?,
                AttributeValue::DebugLineStrRef(at) => line_strings.get_str(at).ok()?,
                _ => return None,
            };
            Some(text.to_string_lossy().chars().take(MOST_PATH).collect::<String>())
        };
        let entry = header.file(file)?;
        let name = text(entry.path_name())?;
        match entry.directory(header).and_then(text) {
            Some(directory) if !name.starts_with('/') && !directory.is_empty() => Some(format!("{directory}/{name}")),
            _ => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_debug_information_makes_it_panic() {
        // Line programs of bytes that mean nothing, behind a header that looks right.
        let mut seed = 1_u32;
        for _ in 0..2_000 {
            let mut unit = vec![0; 4];
            unit.extend_from_slice(&[4, 0, 20, 0, 0, 0, 1, 1, 1, 0xfb, 14, 13]);
            for _ in 0..200 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                unit.push(seed.to_le_bytes()[3]);
            }
            let length = u32::try_from(unit.len() - 4).unwrap();
            unit[..4].copy_from_slice(&length.to_le_bytes());
            let core = Core { lines: &unit, ..Core::default() };
            core.find(&[Some(0), Some(100)], &mut [None, None], &AtomicBool::new(false));
        }
    }

    #[test]
    fn looking_for_lines_is_given_up() {
        // Far longer than it may take, so that no machine is too slow to tell the two apart.
        let found = async {
            let looking = tokio::spawn(async {
                tokio::time::sleep(60 * PATIENCE.min(Duration::from_secs(1))).await;
                vec![Some("src/lib.rs:1:1".to_owned())]
            });
            patiently(looking, 1).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(runtime.block_on(found), [None]);
    }

    #[test]
    fn no_program_is_followed_that_is_too_long() {
        /// A unit whose program has a row for line 1 at every address, as long as it takes.
        fn unit(rows: usize) -> Vec<u8> {
            let mut header = vec![1, 1, 1, 0, 1, 1, 0];
            header.extend(b"a.rs\0\0\0\0\0");
            let mut unit = vec![4, 0];
            unit.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
            unit.extend(header);
            // Its only opcode: the next address, the same line.
            unit.extend(std::iter::repeat_n(2, rows));
            let length = u32::try_from(unit.len()).unwrap().to_le_bytes();
            [&length[..], &unit].concat()
        }
        let find = |lines: &[u8]| {
            let mut found = [None];
            Core { lines, ..Core::default() }.find(&[Some(3)], &mut found, &AtomicBool::new(false));
            let [found] = found;
            found
        };
        assert_eq!(find(&unit(100)).as_deref(), Some("a.rs:1:1"));
        assert_eq!(find(&unit(MOST_PROGRAM)), None);
        // What follows one is read.
        assert!(find(&[unit(MOST_PROGRAM), unit(100)].concat()).is_some());
    }
}
