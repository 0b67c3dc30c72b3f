//! Buffers for copies that cannot be avoided, used again and again.

use std::sync::{Arc, Mutex, PoisonError};

/// A pool of buffers. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Box<[u8]>>>>);

/// A buffer, which goes back to its pool when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: Buffers,
}

/// The size of a buffer, in bytes: what one read of a pipe brings at most, with good use of the processor's cache.
const SIZE: usize = 64 << 10;
/// How many unused buffers are kept.
const KEPT: usize = 16;

impl Buffers {
    /// A buffer with whatever is in it.
    pub(crate) fn take(&self) -> Buffer {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { bytes: kept.unwrap_or_else(|| vec![0; SIZE].into()), pool: self.clone() }
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gp_81_a_buffer_is_used_again() {
        let pool = Buffers::default();
        let first = pool.take().as_ptr();
        assert_eq!(pool.take().as_ptr(), first);
        let many: Vec<_> = (0..2 * KEPT).map(|_| pool.take()).collect();
        drop(many);
        assert_eq!(pool.0.lock().unwrap().len(), KEPT);
    }
}
