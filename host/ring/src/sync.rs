//! The only place that knows whether the model checker is in charge: atomics, wakers and the storage of bytes.
//!
//! Under `--cfg loom` atomics are loom's, a park takes no time, and every byte of storage is a checked cell, so that a
//! reader and a writer that touch the same byte at once are found.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence},
};

#[cfg(not(loom))]
pub(crate) use atomic_waker::AtomicWaker;
#[cfg(loom)]
pub(crate) use loom::sync::{
    Arc,
    atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering, fence},
};
// Counters take no part in the protocol; modelling them would only multiply the states.
#[cfg(loom)]
pub(crate) use std::sync::atomic::AtomicU64;

/// One byte of storage.
#[cfg(not(loom))]
pub(crate) type Byte = std::cell::UnsafeCell<u8>;
/// One byte of storage, watched by the model checker.
#[cfg(loom)]
pub(crate) type Byte = loom::cell::UnsafeCell<u8>;

/// The bytes of one ring.
pub(crate) struct Storage(Box<[Byte]>);

// SAFETY: a `Storage` is owned by one thread at a time, like the box in it; sharing its bytes is the `shared` module's
// business, which hands out disjoint ranges only.
unsafe impl Send for Storage {}

impl Storage {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(not(loom))]
    pub(crate) fn zeroed(len: usize) -> Self {
        // `vec![0; len]` asks the allocator for zeroed pages, which a large ring touches only as it is used.
        let bytes: Box<[u8]> = vec![0; len].into_boxed_slice();
        let raw: *mut [Byte] = Box::into_raw(bytes) as *mut [Byte];
        // SAFETY: `UnsafeCell<u8>` has the same layout as `u8`, and `raw` came from a box of `len` of them.
        Self(unsafe { Box::from_raw(raw) })
    }

    #[cfg(loom)]
    pub(crate) fn zeroed(len: usize) -> Self {
        Self((0..len).map(|_| Byte::new(0)).collect())
    }

    /// Gives up the bytes as a raw pointer, to be owned by a ring's `base`.
    pub(crate) fn into_base(self) -> *mut Byte {
        Box::into_raw(self.0).cast()
    }

    /// Takes the bytes back.
    ///
    /// # Safety
    ///
    /// `base` came from [`Storage::into_base`] of a storage of `len` bytes and is not used afterwards.
    pub(crate) unsafe fn from_base(base: *mut Byte, len: usize) -> Self {
        // SAFETY: by this function's contract.
        Self(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(base, len)) })
    }
}

/// A waker's cell with the meaning of the real one, in the model checker's terms.
#[cfg(loom)]
#[derive(Default)]
pub(crate) struct AtomicWaker(loom::sync::Mutex<Option<std::task::Waker>>);

#[cfg(loom)]
impl AtomicWaker {
    pub(crate) fn register(&self, waker: &std::task::Waker) {
        let old = self.0.lock().unwrap().replace(waker.clone());
        drop(old);
    }

    pub(crate) fn wake(&self) {
        let waker = self.0.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
