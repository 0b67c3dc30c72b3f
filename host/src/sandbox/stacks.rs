//! The stacks of guests that have no slot: many in one mapping.
//!
//! A process may have some 65,000 mappings, and idle guests by the thousand are held up by nothing sooner. A stack of its own mapping takes
//! one, a guard page below it another, and both stand between the memories of two guests, whose reserved ends are one mapping otherwise.
//! Here stacks lie in chunks, and a guard page is a mark in the page table where the kernel has those (`MADV_GUARD_INSTALL`, Linux
//! 6.13), which takes no mapping; elsewhere it is a page that nobody may touch, as usual.

use std::{
    io,
    ops::Range,
    ptr::{self, NonNull},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use wasmtime::{StackCreator, StackMemory};

/// The most stacks in one chunk: as many as a word has bits. A chunk has no more than are in use already: what may be written counts
/// against some limits (`ulimit -d`) though it is not touched.
const MOST: usize = 64;
/// `MADV_DONTNEED_LOCKED`, since Linux 5.18: the same where memory is locked.
const DONTNEED_LOCKED: libc::c_int = 24;
/// `MADV_GUARD_INSTALL` of Linux's `asm-generic/mman-common.h`, since 6.13.
const GUARD_INSTALL: libc::c_int = 102;

/// The stacks of one engine.
#[derive(Debug)]
pub(super) struct Stacks {
    /// How large a stack is, in bytes, without its guard page; a multiple of a page.
    size: usize,
    chunks: Mutex<Vec<Chunk>>,
}

/// A mapping of some stacks, each above its guard page.
#[derive(Debug)]
struct Chunk {
    base: Base,
    stacks: u32,
    /// Which stacks are in use, and which have had their guard page made.
    used: u64,
    guarded: u64,
}

/// Where a mapping begins that is this module's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Base(NonNull<u8>);

// SAFETY: an address of memory that belongs to no thread.
unsafe impl Send for Base {}
// SAFETY: as above; nothing is read or written through it here.
unsafe impl Sync for Base {}

fn page() -> usize {
    rustix::param::page_size()
}

/// Whether a guard page takes no mapping of its own here.
pub(super) fn are_guards_free() -> bool {
    static ARE: OnceLock<bool> = OnceLock::new();
    if let Some(are) = ARE.get() {
        return *are;
    }
    // Where there is no room for a page, nothing is learned.
    let Ok(base) = map(page()) else { return false };
    // SAFETY: the page was mapped above, and nobody else knows of it.
    let is_marked = unsafe { libc::madvise(base.0.as_ptr().cast(), page(), GUARD_INSTALL) } == 0;
    unmap(base, page());
    *ARE.get_or_init(|| is_marked)
}

/// Maps memory that takes none before it is touched.
fn map(len: usize) -> io::Result<Base> {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new mapping, at an address of the kernel's choice, touches nothing that is there.
    let base = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).map(Base).ok_or_else(|| io::Error::other("memory was mapped at no address"))
}

/// Unmaps what was mapped. Returns whether it is gone: mappings that lie side by side are one to the kernel, which may have no room for what
/// is left of it on both sides.
fn unmap(base: Base, len: usize) -> bool {
    // SAFETY: `base` and `len` are those of a mapping that `map` made, and nothing in it is in use.
    unsafe { libc::munmap(base.0.as_ptr().cast(), len) == 0 }
}

impl Stacks {
    /// Stacks of `size` bytes at least.
    pub(super) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size: size.next_multiple_of(page()), chunks: Mutex::default() })
    }

    fn chunks(&self) -> MutexGuard<'_, Vec<Chunk>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stride(&self) -> usize {
        page() + self.size
    }

    fn take(&self) -> io::Result<(Base, usize)> {
        let mut chunks = self.chunks();
        let index = match chunks.iter().position(|chunk| chunk.used.trailing_ones() < chunk.stacks) {
            Some(index) => index,
            None => {
                let used = chunks.iter().map(|chunk| chunk.stacks).sum::<u32>() as usize;
                chunks.push(self.chunk(used.clamp(1, MOST)).or_else(|_| self.chunk(1))?);
                chunks.len() - 1
            }
        };
        let stride = self.stride();
        let chunk = &mut chunks[index];
        let place = chunk.used.trailing_ones() as usize;
        if chunk.guarded & (1 << place) == 0 {
            guard(chunk.at(place, stride), are_guards_free())?;
            chunk.guarded |= 1 << place;
        }
        chunk.used |= 1 << place;
        Ok((chunk.base, place))
    }

    fn chunk(&self, stacks: usize) -> io::Result<Chunk> {
        let len = stacks * self.stride();
        let base = map(len)?;
        // SAFETY: advice on a mapping of our own. What a stack does not touch takes no memory: there is nothing to fail for.
        unsafe { libc::madvise(base.0.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) };
        Ok(Chunk { base, stacks: u32::try_from(stacks).unwrap_or(1), used: 0, guarded: 0 })
    }

    fn unmap(&self, chunk: &Chunk) -> bool {
        unmap(chunk.base, chunk.stacks as usize * self.stride())
    }

    /// Takes back a stack that nobody uses any more. What it held is gone.
    fn give_back(&self, base: Base, place: usize) {
        let start = base.0.as_ptr().wrapping_add(place * self.stride() + page());
        let forget = |how: libc::c_int| {
            // SAFETY: the stack's own range, of a chunk that stays mapped as long as the stack is in use; nothing refers to it any more.
            unsafe { libc::madvise(start.cast(), self.size, how) == 0 }
        };
        if !forget(libc::MADV_DONTNEED) && !forget(DONTNEED_LOCKED) {
            // SAFETY: as above; the range is mapped to be written.
            unsafe { ptr::write_bytes(start, 0, self.size) };
        }
        let mut chunks = self.chunks();
        let Some(index) = chunks.iter().position(|chunk| chunk.base == base) else { return };
        chunks[index].used &= !(1 << place);
        // One that is empty is kept: the next guest comes soon.
        let is_empty = |chunk: &Chunk| chunk.used == 0;
        if is_empty(&chunks[index]) && chunks.iter().filter(|chunk| is_empty(chunk)).count() > 1 {
            // One that cannot be unmapped stays, and is used again.
            if self.unmap(&chunks[index]) {
                chunks.swap_remove(index);
            }
        }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // Each stack holds this: none is in use.
        let chunks = std::mem::take(&mut *self.chunks());
        for chunk in &chunks {
            self.unmap(chunk);
        }
    }
}

impl Chunk {
    fn at(&self, place: usize, stride: usize) -> *mut u8 {
        self.base.0.as_ptr().wrapping_add(place * stride)
    }
}

/// Makes a page one that nobody can touch: by a mark if there are such, and that fails nowhere (as it does where memory is locked).
fn guard(start: *mut u8, has_marks: bool) -> io::Result<()> {
    // SAFETY: a page of a mapping of our own that nothing uses.
    if has_marks && unsafe { libc::madvise(start.cast(), page(), GUARD_INSTALL) } == 0 {
        return Ok(());
    }
    // SAFETY: as above.
    match unsafe { libc::mprotect(start.cast(), page(), libc::PROT_NONE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One stack in use.
#[derive(Debug)]
struct Stack {
    of: Arc<Stacks>,
    base: Base,
    place: usize,
}

impl Stack {
    fn start(&self) -> *mut u8 {
        self.base.0.as_ptr().wrapping_add(self.place * self.of.stride())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.of.give_back(self.base, self.place);
    }
}

/// What wasmtime asks for stacks.
#[derive(Debug)]
pub(super) struct Creator(pub(super) Arc<Stacks>);

// SAFETY: each stack is a range of a private mapping that is no other stack's until it is dropped. It is aligned to pages, zero when
// it is handed out (a new mapping, or dropped pages), and has a page below it that nobody can touch.
unsafe impl StackCreator for Creator {
    fn new_stack(&self, size: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        if size > self.0.size {
            return Err(wasmtime::Error::msg("a stack is larger than its engine's"));
        }
        let (base, place) = self.0.take()?;
        Ok(Box::new(Stack { of: self.0.clone(), base, place }))
    }
}

// SAFETY: the range stays mapped, and this stack's alone, as long as this lives; the guard page is the one below it.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.start().wrapping_add(self.of.stride())
    }

    fn range(&self) -> Range<usize> {
        self.start().addr() + page()..self.top().addr()
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.start()..self.start().wrapping_add(page())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    const SIZE: usize = 1 << 20;

    fn chunks(stacks: &Stacks) -> usize {
        stacks.chunks().len()
    }

    #[test]
    fn stacks_are_apart_zero_and_given_back() {
        let stacks = Stacks::new(SIZE);
        let creator = Creator(stacks.clone());
        let mut held: Vec<_> = (0..=MOST).map(|_| creator.new_stack(SIZE, false).expect("there is room")).collect();
        // 1, 1, 2, 4, 8, 16, 32, 64.
        assert_eq!(chunks(&stacks), 8);
        let mut ranges: Vec<_> = held.iter().map(|stack| stack.range()).collect();
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.iter().all(|range| range.len() == SIZE));
        assert!(ranges.windows(2).all(|pair| pair[0].end + page() <= pair[1].start), "a guard page lies between two");
        let last = held.last().expect("there are some").top().wrapping_sub(1);
        // SAFETY: the last byte of a stack that is ours.
        let read = || unsafe { last.read_volatile() };
        assert_eq!(read(), 0);
        // SAFETY: as above.
        unsafe { last.write_volatile(7) };
        assert_eq!(read(), 7);
        held.pop();
        held.push(creator.new_stack(SIZE, false).expect("there is room"));
        assert_eq!(held.last().expect("there are some").top().wrapping_sub(1), last, "the place is used again");
        assert_eq!(read(), 0, "nothing is left of what the last guest wrote");
        held.clear();
        assert_eq!(chunks(&stacks), 1, "one is kept");
        assert!(creator.new_stack(SIZE + 1, false).is_err());
    }

    #[test]
    fn what_is_locked_is_zero_again_too() {
        let creator = Creator(Stacks::new(SIZE));
        let stack = creator.new_stack(SIZE, false).expect("there is room");
        let last = stack.top().wrapping_sub(page());
        // SAFETY: the last page of a stack that is ours, which is written and locked.
        let locked = unsafe {
            last.write_volatile(7);
            libc::mlock(last.cast(), page())
        };
        assert_eq!(locked, 0, "a page may be locked: {}", io::Error::last_os_error());
        drop(stack);
        let again = creator.new_stack(SIZE, false).expect("there is room");
        assert_eq!(again.top().wrapping_sub(page()), last, "the place is used again");
        // SAFETY: as above.
        assert_eq!(unsafe { last.read_volatile() }, 0);
    }

    /// Whether an address can be read, by the kernel's word: a pipe that it is to be copied to takes it or not.
    fn can_read(at: *const u8) -> bool {
        let (_reader, writer) = std::io::pipe().expect("a pipe");
        // SAFETY: the kernel looks whether the address is one that can be read, and fails with EFAULT if not.
        let written = unsafe { libc::write(writer.as_raw_fd(), at.cast(), 1) };
        let failed = io::Error::last_os_error().raw_os_error();
        assert!(written == 1 || failed == Some(libc::EFAULT), "{failed:?}");
        written == 1
    }

    #[test]
    fn the_page_below_a_stack_cannot_be_touched() {
        let creator = Creator(Stacks::new(SIZE));
        let stack = creator.new_stack(SIZE, false).expect("there is room");
        assert!(can_read(stack.guard_range().end));
        assert!(!can_read(stack.guard_range().start));
        assert!(!can_read(stack.guard_range().end.wrapping_sub(1)));
    }

    #[test]
    fn without_marks_a_guard_page_is_one_that_nobody_may_touch() {
        let base = map(2 * page()).expect("there is room");
        let start = base.0.as_ptr();
        guard(start, false).expect("it can be protected");
        assert!(!can_read(start) && can_read(start.wrapping_add(page())));
        assert!(unmap(base, 2 * page()));
    }
}
