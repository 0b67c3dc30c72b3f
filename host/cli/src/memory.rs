//! The end of this process where memory or address space is used up: a line and the host's exit code, no abort.
//!
//! Code that allocates in passing cannot be told that there is nothing left, and aborts. What it had begun is left as it is when the
//! process is killed: outputs have not appeared, and the guard ends the commands.

use std::alloc::{GlobalAlloc, Layout, System};

use stagehost::ExitCode;

/// Keeps room for what is small, where address space is bounded: what is large is then refused first, which is told and not the end.
/// To be called before there is another thread.
///
/// The system's own libraries end the process where they find no room for a few bytes.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_room() {
    use rustix::process::{Resource, getrlimit};
    const LARGE: i32 = 128 << 10;
    const MOST: u64 = 16 << 20;
    let Some(limit) = getrlimit(Resource::As).current else { return };
    let room = i32::try_from(MOST.min(limit / 16)).unwrap_or(i32::MAX);
    // One heap for all threads (each of its own takes 64 MiB of address space), which grows by `room` and is never given back; what
    // is large is not from it.
    let asked = [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TOP_PAD, room),
        (libc::M_TRIM_THRESHOLD, i32::MAX),
        (libc::M_MMAP_THRESHOLD, LARGE),
    ];
    for (what, value) in asked {
        // SAFETY: sets how memory is taken from the system from now on.
        unsafe { libc::mallopt(what, value) };
    }
    // It grows with the next that does not fit.
    let mut grown = Vec::new();
    while grown.len() < 8 {
        grown.push(std::hint::black_box(vec![0_u8; LARGE.unsigned_abs() as usize - 64]));
    }
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_room() {}

/// The system's allocator, whose refusals end the process.
pub(crate) struct Told;

/// Says so and ends the process. Allocates nothing.
fn end(size: usize) -> ! {
    const BEFORE: &[u8] = b"error: there is not enough memory or address space: ";
    const AFTER: &[u8] = b" bytes more were asked for (`ulimit -v` bounds it)\n";
    let mut line = [0; BEFORE.len() + 20 + AFTER.len()];
    let mut length = BEFORE.len();
    line[..length].copy_from_slice(BEFORE);
    let mut digits = [0; 20];
    let (mut left, mut at) = (size, digits.len());
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    for part in [&digits[at..], AFTER] {
        line[length..length + part.len()].copy_from_slice(part);
        length += part.len();
    }
    // SAFETY: it writes from a live array, and ends the process without running anything of it. Nobody is left to hear that it could
    // not be said.
    unsafe {
        libc::write(2, line.as_ptr().cast(), length);
        libc::_exit(ExitCode::Host as i32)
    }
}

fn given(place: *mut u8, size: usize) -> *mut u8 {
    if place.is_null() { end(size) } else { place }
}

// SAFETY: the system's allocator does everything; what it refuses does not return.
unsafe impl GlobalAlloc for Told {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        given(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        given(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        given(unsafe { System.realloc(place, layout, size) }, size)
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(place, layout) }
    }
}
