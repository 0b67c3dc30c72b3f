//! How many memory maps a guest takes of those that its process may have.

use super::stacks;

/// Maps of a memory: what its guest writes before the image of its data, the image, what is behind it, and what is reserved, on one
/// side or two. So measured with wasmtime 48.
const OF_MEMORY: u64 = 4;
/// Another one for a guest, where its stack or something of the host's stands between the reserved parts of two memories.
const BETWEEN: u64 = 1;
/// Of a stack whose guard page is a map of its own: itself and that page.
const OF_STACK: u64 = 2;

/// How many maps a guest takes at most that has that many memories and stacks, and `large` things that are no memories and may each become
/// a map: tables without a small maximum, and a heap for garbage.
pub(crate) fn maps_of(memories: u64, stacks: u64, large: u64) -> u64 {
    let of_stack = if stacks::are_guards_free() { 0 } else { OF_STACK };
    let stacks = stacks.saturating_mul(of_stack);
    memories.saturating_mul(OF_MEMORY).saturating_add(large).saturating_add(BETWEEN).saturating_add(stacks)
}
