//! What an engine keeps of compiled code, so that the next run need not look for it.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::OnceCell;

use super::component::Digest;

/// How many components an engine keeps, and how many bytes of code and of what belongs to it.
const MOST: usize = 256;
const MOST_CODE: usize = 512 << 20;

/// Compiled components by the digest of their file, in the order of their last use. Those that are in use elsewhere are so when they are
/// no longer kept, too.
#[derive(Debug)]
pub(super) struct Kept<T>(VecDeque<(Digest, Arc<OnceCell<T>>)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Kept<T> {
    /// The place of a component, which is the last used from now on. What was not used for the longest time makes room for it.
    /// `bytes` says how much code one is.
    pub(super) fn cell(&mut self, digest: Digest, bytes: impl Fn(&T) -> usize) -> Arc<OnceCell<T>> {
        let known = self.0.iter().position(|(known, _)| *known == digest).and_then(|index| self.0.remove(index));
        let cell = known.map(|(_, cell)| cell).unwrap_or_default();
        let of = |cell: &OnceCell<T>| cell.get().map_or(0, &bytes);
        let mut code = self.0.iter().map(|(_, other)| of(other)).sum::<usize>() + of(&cell);
        while self.0.len() >= MOST || code > MOST_CODE {
            let Some((_, oldest)) = self.0.pop_front() else { break };
            // One may have been compiled since the sum was made.
            code = code.saturating_sub(of(&oldest));
        }
        self.0.push_back((digest, cell.clone()));
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u16) -> Digest {
        let mut digest = Digest::default();
        digest[..2].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_makes_room() {
        let mut kept = Kept::<usize>::default();
        let first = kept.cell(digest(0), |size| *size);
        first.set(1).unwrap();
        for number in 1..1000 {
            kept.cell(digest(number), |size| *size).set(1).unwrap();
            // The first is used again and again.
            assert!(Arc::ptr_eq(&kept.cell(digest(0), |size| *size), &first), "after {number}");
        }
        assert_eq!(kept.0.len(), MOST);
        assert!(kept.cell(digest(1), |size| *size).get().is_none(), "the second had to go");
    }

    #[test]
    fn much_code_makes_room_too() {
        let mut kept = Kept::<usize>::default();
        for number in 0..20 {
            kept.cell(digest(number), |size| *size).set(MOST_CODE / 4).unwrap();
            let code: usize = kept.0.iter().filter_map(|(_, cell)| cell.get()).sum();
            // The one that was compiled last is not counted before.
            assert!(code <= MOST_CODE + MOST_CODE / 4, "{code} bytes after {number}");
        }
        kept.cell(digest(30), |size| *size).set(2 * MOST_CODE).unwrap();
        kept.cell(digest(31), |size| *size);
        assert_eq!(kept.0.len(), 1, "one that is too much alone is not kept either");
    }
}
