//! Making a ring.

use crate::{Options, Pool, Reader, Writer, shared::Shared};

/// Makes a ring whose storage comes from `pool`, and returns its two halves.
///
/// An empty ring holds no storage until the first write, and gives it back when it is drained and its writer is idle
/// ([`Writer::idle`]), or when it has ended.
pub fn ring(pool: &Pool, options: Options) -> (Writer, Reader) {
    let shared = Shared::new(pool.clone(), options);
    (Writer::new(shared.clone()), Reader::new(shared))
}
