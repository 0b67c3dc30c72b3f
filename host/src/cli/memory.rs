//! The end of this process where memory or address space is used up: a line and the host's exit code, no abort.
//!
//! Code that allocates in passing cannot be told that there is nothing left, and aborts. What it had begun is left as it is when the
//! process is killed: outputs have not appeared, and the guard ends the commands.

use std::alloc::{GlobalAlloc, Layout, System};

use stagehost::ExitCode;

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
