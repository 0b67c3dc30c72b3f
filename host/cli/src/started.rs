//! Which standard streams this process was started with. One of the crate's named exceptions to having no `unsafe`.
//!
//! Rust's runtime opens `/dev/null` in the place of a standard stream that is closed, before `main`: what is written to a closed
//! standard output would seem to be written. So this looks before the runtime does.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A bit for each of the descriptors 0 to 2 that was closed.
static CLOSED: AtomicU8 = AtomicU8::new(0);

extern "C" fn look() {
    for descriptor in 0..3 {
        // SAFETY: a system call on a number, which changes nothing.
        if unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0 {
            CLOSED.fetch_or(1 << descriptor, Relaxed);
        }
    }
}

// SAFETY: the loader calls the functions in this section, in this form, before `main`. Ours needs nothing that is set up by then: a
// system call, and memory that is there from the start.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether descriptor 0, 1 or 2 was closed when this process was started.
pub(crate) fn was_closed(descriptor: u8) -> bool {
    CLOSED.load(Relaxed) & 1 << descriptor != 0
}
