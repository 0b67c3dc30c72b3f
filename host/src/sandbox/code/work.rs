//! How long a component would take its compiler, estimated by reading it.

use std::time::Duration;

use wasmparser::{BinaryReaderError, FunctionBody, Operator, Payload};

use super::inspect::parser;

/// The most that the local variables of a function, times the branches and blocks in it, may come to: the compiler looks for each
/// where each of the others is. A million of them take it most of a second.
const MOST_LOOKS: u64 = 20_000_000;

/// Estimates how long compiling a file takes, from above where it matters: where a function is made so that its compilation takes
/// much longer than its size says. Reads all of its code. `None`: the file is damaged, or uses what is off here, of which whoever checks it
/// tells more.
///
/// # Errors
///
/// A function that would take the compiler too long.
pub(crate) fn work(bytes: &[u8]) -> Result<Option<Duration>, String> {
    /// As measured with wasmtime 48, in nanoseconds.
    const FUNCTION: u64 = 70_000;
    const MODULE: u64 = 1_400_000;
    const ITEM: u64 = 50_000;
    const BYTE: u64 = 300;
    const LOCAL: u64 = 70;
    const LOOK: u64 = 800;
    let mut nanos = 0_u64;
    let mut add = |count: u64, each: u64| nanos = nanos.saturating_add(count.saturating_mul(each));
    for payload in parser().parse_all(bytes) {
        match payload {
            Ok(Payload::Version { .. }) => add(1, MODULE),
            Ok(Payload::ComponentCanonicalSection(items)) => add(u64::from(items.count()), ITEM),
            Ok(Payload::ComponentInstanceSection(items)) => add(u64::from(items.count()), ITEM),
            Ok(Payload::CodeSectionEntry(body)) => {
                let Ok((locals, blocks)) = locals_and_blocks(&body) else { return Ok(None) };
                let looks = locals.saturating_mul(blocks);
                if looks > MOST_LOOKS {
                    return Err(format!(
                        "a function of it has {locals} local variables and {blocks} blocks and branches, which would take its compiler too long"
                    ));
                }
                add(1, FUNCTION);
                add(body.range().len() as u64, BYTE);
                add(locals, LOCAL);
                add(looks, LOOK);
            }
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(Duration::from_nanos(nanos)))
}

/// How many local variables a function has, besides its few parameters, and how many blocks and branches.
fn locals_and_blocks(body: &FunctionBody<'_>) -> Result<(u64, u64), BinaryReaderError> {
    let mut locals = 0_u64;
    for local in body.get_locals_reader()? {
        locals += u64::from(local?.0);
    }
    let mut blocks = 1_u64;
    for operator in body.get_operators_reader()? {
        blocks += match operator? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::Else => 1,
            Operator::Br { .. } | Operator::BrIf { .. } | Operator::TryTable { .. } => 1,
            Operator::BrOnNull { .. } | Operator::BrOnNonNull { .. } => 1,
            Operator::BrOnCast { .. } | Operator::BrOnCastFail { .. } => 1,
            Operator::BrTable { targets } => u64::from(targets.len()) + 1,
            _ => 0,
        };
    }
    Ok((locals, blocks))
}

#[cfg(test)]
mod tests {
    use super::{Duration, work};

    #[test]
    fn what_looks_small_and_is_not_is_not_quick() {
        // Empty modules, each of which takes a compiler about a millisecond.
        let mut modules = b"\0asm\x0d\0\x01\0".to_vec();
        (0..900).for_each(|_| modules.extend(b"\x01\x08\0asm\x01\0\0\0"));
        assert!(work(&modules).unwrap().unwrap() > Duration::from_secs(1));
        assert!(work(b"\0asm\x01\0\0\0").unwrap().unwrap() < Duration::from_millis(10));
        assert_eq!(work(b"\0asm\x01\0\0").unwrap(), None, "whoever checks it tells more");
    }
}
