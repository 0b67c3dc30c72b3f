//! What the two halves share, and the protocol between them. All `unsafe` of the data path is here.
//!
//! # Bytes
//!
//! `tail` counts the bytes ever committed and is stored only by the writer; `head` counts the bytes ever consumed and
//! is stored only by the reader. Both run on without bound (wrapping), so a full ring (`tail - head == capacity`) never
//! looks like an empty one. The bytes from `head` to `tail` belong to the reader, all others to the writer. The writer
//! stores `tail` with Release after it filled the bytes and the reader loads it with Acquire before it looks at them;
//! the reader stores `head` with Release after it looked and the writer loads it with Acquire before it fills them
//! again. So no byte is ever touched by both.
//!
//! # Parking
//!
//! A half that finds nothing to do registers its waker, stores `parked`, passes a `SeqCst` fence and looks once more.
//! The other half stores its progress (`tail`, `head`, an ending), passes a `SeqCst` fence and loads `parked`. The two
//! fences are totally ordered: if the parking half's comes second it sees the progress and does not sleep; if it comes
//! first the other half sees `parked` and wakes it. A fence on one side only loses wake-ups. `parked` is swapped with
//! Release after the waker and `need` are in place and swapped with Acquire by whoever wakes, so that the waker found is
//! the one registered. Wakers run outside of any critical section: there is none.
//!
//! # Storage
//!
//! `slot` says who may touch `base`: `NONE` (no storage), `FREE` (storage, the writer does not fill it at the moment) or
//! `CLAIMED` (the writer may fill it). The upper bits count the claims. The writer claims before it fills and keeps the
//! claim until it is idle. Whoever finds the ring empty and the slot `FREE` may swap it for `NONE` and give the storage
//! back; the compare-exchange fails if the writer claimed in between, because the count changed. An idle writer drops
//! its claim and then looks whether the ring is empty; a parking reader empties the ring and then looks whether the slot
//! is `FREE`; each passes a `SeqCst` fence between the two, so at least one of them sees both.

use std::sync::OnceLock;

use crossbeam_utils::CachePadded;

#[cfg(not(loom))]
use crate::copying::copy;
use crate::{
    OnAbort, Options, Pool,
    counters::Cells,
    ending::Cause,
    sync::{
        Arc, AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, AtomicWaker, Byte,
        Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
        Storage, fence,
    },
};

const TAG: usize = 0b11;
const NONE: usize = 0b00;
const FREE: usize = 0b01;
const CLAIMED: usize = 0b10;
const CLAIM: usize = 0b100;

/// The writer has not ended the stream.
pub(crate) const OPEN: u8 = 0;
/// The writer finished: a clean end.
pub(crate) const FINISHED: u8 = 1;
/// The writer aborted; `cause` is set.
pub(crate) const ABORTED: u8 = 2;

/// One half's place to sleep.
#[derive(Default)]
pub(crate) struct Bed {
    parked: AtomicBool,
    waker: AtomicWaker,
}

impl Bed {
    /// Registers a waker and says so. The caller looks once more at what it waits for before it really sleeps.
    pub(crate) fn lie_down(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
        // Release: whoever swaps `parked` sees the waker. A read-modify-write, as every change of `parked` is, so that
        // all changes stand in one order (the model checker cannot order a plain store against a swap). The fence
        // pairs with that of the other half, between its progress and its look at `parked`.
        self.parked.swap(true, AcqRel);
        fence(SeqCst);
    }

    /// Takes back `lie_down`.
    pub(crate) fn get_up(&self) {
        self.parked.swap(false, AcqRel);
    }

    /// Whether the half sleeps here. Acquire pairs with `lie_down`.
    pub(crate) fn is_occupied(&self) -> bool {
        self.parked.load(Acquire)
    }

    /// Wakes the half if it sleeps. The caller has passed a `SeqCst` fence since its progress.
    pub(crate) fn wake(&self) {
        if self.parked.swap(false, AcqRel) {
            self.waker.wake();
        }
    }
}

/// The state that both halves and the monitors hold.
pub(crate) struct Shared {
    pub(crate) capacity: usize,
    pub(crate) on_abort: OnAbort,
    pool: Pool,
    /// The storage, valid while `slot` is not `NONE`.
    base: AtomicPtr<Byte>,
    slot: AtomicUsize,
    pub(crate) tail: CachePadded<AtomicUsize>,
    pub(crate) head: CachePadded<AtomicUsize>,
    pub(crate) reader_bed: CachePadded<Bed>,
    pub(crate) writer_bed: CachePadded<Bed>,
    /// How many bytes the parked reader waits for. Stored before it parks.
    pub(crate) need: AtomicUsize,
    pub(crate) ending: AtomicU8,
    pub(crate) reader_gone: AtomicBool,
    /// Why the writer aborted; set before `ending`.
    pub(crate) abort_cause: OnceLock<Cause>,
    /// Why the reader left; set before `reader_gone`.
    pub(crate) fail_cause: OnceLock<Cause>,
    pub(crate) cells: Cells,
}

// SAFETY: the raw storage behind `base` is reached only through the functions below, whose contracts (see the module's
// documentation) keep the two halves on disjoint bytes; everything else is atomics and `Sync` types.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(pool: Pool, options: Options) -> Arc<Self> {
        Arc::new(Self {
            capacity: options.capacity.bytes(),
            on_abort: options.on_abort,
            pool,
            base: AtomicPtr::new(std::ptr::null_mut()),
            slot: AtomicUsize::new(NONE),
            tail: CachePadded::new(AtomicUsize::new(0)),
            head: CachePadded::new(AtomicUsize::new(0)),
            reader_bed: CachePadded::default(),
            writer_bed: CachePadded::default(),
            need: AtomicUsize::new(0),
            ending: AtomicU8::new(OPEN),
            reader_gone: AtomicBool::new(false),
            abort_cause: OnceLock::new(),
            fail_cause: OnceLock::new(),
            cells: Cells::default(),
        })
    }

    /// Claims the storage for the writer, taking it from the pool if the ring holds none. Only the writer calls this,
    /// and only while it holds no claim.
    pub(crate) fn claim(&self) {
        let mut word = self.slot.load(Relaxed);
        loop {
            debug_assert_ne!(word & TAG, CLAIMED, "only the writer claims, and only once");
            // Acquire pairs with the Release of `release_if_drained`: storage that the reader gave back is not ours.
            match self.slot.compare_exchange_weak(word, ((word & !TAG).wrapping_add(CLAIM)) | CLAIMED, Acquire, Relaxed)
            {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & TAG == NONE {
            // Relaxed: the reader loads `base` only after it saw a `tail` that was stored after this.
            self.base.store(self.pool.lend(self.capacity).into_base(), Relaxed);
        }
    }

    /// Drops the writer's claim, and gives the storage back if there is nothing in it.
    pub(crate) fn unclaim(&self) {
        let word = self.slot.load(Relaxed);
        debug_assert_eq!(word & TAG, CLAIMED, "an unclaim follows a claim");
        self.slot.store((word & !TAG) | FREE, Release);
        // Pairs with the fence of a parking or leaving reader.
        fence(SeqCst);
        self.release_if_drained();
    }

    /// Gives the storage back to the pool if the writer does not claim it and nobody will read from it any more.
    pub(crate) fn release_if_drained(&self) {
        // The slot first, then the indices: a claim after this load makes the compare-exchange fail.
        let word = self.slot.load(Acquire);
        if word & TAG != FREE {
            return;
        }
        let drained = self.reader_gone.load(Acquire) || self.tail.load(Acquire) == self.head.load(Acquire);
        if !drained {
            return;
        }
        let base = self.base.load(Relaxed);
        if self.slot.compare_exchange(word, (word & !TAG) | NONE, AcqRel, Relaxed).is_ok() {
            // SAFETY: `base` was stored by the claim that `word` counts, no later claim happened (the count is equal),
            // and the slot now says that nobody owns it: the writer takes new storage, the reader has nothing to read.
            self.pool.take_back(unsafe { Storage::from_base(base, self.capacity) });
        }
    }

    /// Where position `index` lies, and how many bytes follow it before the wrap.
    fn place(&self, index: usize) -> (usize, usize) {
        let offset = index & (self.capacity - 1);
        (offset, self.capacity - offset)
    }

    /// The bytes from `index`, up to `len` of them or the wrap, for the writer to fill.
    ///
    /// # Safety
    ///
    /// The caller is the writer, holds the claim, and `index..index + len` is free: at or after `tail`, less than a
    /// capacity after `head`. It lets go of the slice before it commits any of it.
    #[cfg(not(loom))]
    #[expect(clippy::mut_from_ref, reason = "the protocol above makes the caller the only one to touch these bytes")]
    pub(crate) unsafe fn free_slice(&self, index: usize, len: usize) -> &mut [u8] {
        let (offset, to_wrap) = self.place(index);
        // SAFETY: the claim keeps `base` valid for `capacity` bytes, `offset + min(..) <= capacity`, the bytes were
        // initialised when allocated, and by this function's contract they are the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.load(Relaxed).cast::<u8>().add(offset), len.min(to_wrap)) }
    }

    /// The `len` bytes from `index` in two slices, split at the wrap.
    ///
    /// # Safety
    ///
    /// The caller is the reader, and `index..index + len` is filled: at or after `head`, not past a `tail` that it
    /// loaded with Acquire. It lets go of the slices before it consumes any of them.
    #[cfg(not(loom))]
    pub(crate) unsafe fn filled_slices(&self, index: usize, len: usize) -> (&[u8], &[u8]) {
        if len == 0 {
            return (&[], &[]);
        }
        let (offset, to_wrap) = self.place(index);
        let first = len.min(to_wrap);
        let base = self.base.load(Relaxed).cast::<u8>().cast_const();
        // SAFETY: a ring that is not empty keeps its storage, so `base` is valid for `capacity` bytes and visible since
        // the Acquire load of `tail`; both ranges lie within it, and the writer does not touch filled bytes.
        unsafe { (std::slice::from_raw_parts(base.add(offset), first), std::slice::from_raw_parts(base, len - first)) }
    }

    /// Copies `bytes` to `index` and on, across the wrap.
    ///
    /// # Safety
    ///
    /// As for `free_slice`, with `len` the length of `bytes`.
    pub(crate) unsafe fn copy_in(&self, index: usize, bytes: &[u8]) {
        #[cfg(not(loom))]
        {
            let (offset, to_wrap) = self.place(index);
            let (first, second) = bytes.split_at(bytes.len().min(to_wrap));
            let base = self.base.load(Relaxed).cast::<u8>();
            // SAFETY: as in `free_slice`; `bytes` is the caller's own memory and cannot overlap the ring's.
            let (into_first, into_second) = unsafe {
                (
                    std::slice::from_raw_parts_mut(base.add(offset), first.len()),
                    std::slice::from_raw_parts_mut(base, second.len()),
                )
            };
            copy(into_first, first);
            copy(into_second, second);
        }
        #[cfg(loom)]
        for (i, byte) in bytes.iter().enumerate() {
            let (offset, _) = self.place(index.wrapping_add(i));
            // SAFETY: as in `free_slice`; loom checks it.
            unsafe { (*self.base.load(Relaxed).add(offset)).with_mut(|cell| *cell = *byte) };
        }
    }

    /// Copies `into.len()` bytes from `index` on, across the wrap.
    ///
    /// # Safety
    ///
    /// As for `filled_slices`, with `len` the length of `into`.
    pub(crate) unsafe fn copy_out(&self, index: usize, into: &mut [u8]) {
        #[cfg(not(loom))]
        {
            // SAFETY: by this function's contract.
            let (first, second) = unsafe { self.filled_slices(index, into.len()) };
            let (into_first, into_second) = into.split_at_mut(first.len());
            copy(into_first, first);
            copy(into_second, second);
        }
        #[cfg(loom)]
        for (i, byte) in into.iter_mut().enumerate() {
            let (offset, _) = self.place(index.wrapping_add(i));
            // SAFETY: as in `filled_slices`; loom checks it.
            unsafe { (*self.base.load(Relaxed).add(offset)).with(|cell| *byte = *cell) };
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.slot.load(Relaxed) & TAG != NONE {
            // SAFETY: both halves are gone, so nobody else reaches `base`; the slot says that it holds storage.
            self.pool.take_back(unsafe { Storage::from_base(self.base.load(Relaxed), self.capacity) });
        }
    }
}
