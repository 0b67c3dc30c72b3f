//! The canonical ABI's stream operations, called directly: a read or write of a slice with no allocation and no executor.
//!
//! The generated bindings start these same operations, but own their buffers and need a task around them. Streams are
//! still opened through the bindings; only their handles come here. The names and encodings are those of the component
//! model's canonical ABI (`stream.read`, `stream.write`, `waitable-set.wait`). This is the SDK's one place of
//! hand-written `unsafe`.

use std::io;

/// How a stream operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes moved.
    Bytes(usize),
    /// So many bytes moved, and the other end is gone.
    Dropped(usize),
}

/// The most bytes that one operation may name, by the canonical ABI.
const MOST: usize = (1 << 28) - 1;

/// Starts an operation and waits until it is done; `before_wait` runs once if it has to wait.
fn complete(handle: u32, started: u32, before_wait: impl FnOnce()) -> Moved {
    const BLOCKED: u32 = u32::MAX;
    let code = if started == BLOCKED {
        before_wait();
        imports::wait(handle)
    } else {
        started
    };
    let bytes = (code >> 4) as usize;
    if code & 0xf == 0 { Moved::Bytes(bytes) } else { Moved::Dropped(bytes) }
}

/// Reads at most `most` bytes into the spare capacity of `buffer`, which must have some.
pub(crate) fn read_stdin(stream: u32, buffer: &mut Vec<u8>, most: usize, before_wait: impl FnOnce()) -> Moved {
    let spare = buffer.spare_capacity_mut();
    let (start, len) = (spare.as_mut_ptr().cast::<u8>(), spare.len().min(most).min(MOST));
    // SAFETY: `start` is valid for `len` bytes of writes, and `buffer` is neither moved nor freed before `complete`
    // returns, which is when the host is done with it.
    let started = unsafe { imports::stdin_read(stream, start, len) };
    let moved = complete(stream, started, before_wait);
    let (Moved::Bytes(n) | Moved::Dropped(n)) = moved;
    // SAFETY: the host wrote `n` bytes, at most `len` by the canonical ABI, at the start of the spare capacity.
    unsafe { buffer.set_len(buffer.len() + n.min(len)) };
    moved
}

/// Writes from `bytes`; fewer than all may move.
pub(crate) fn write_stdout(stream: u32, bytes: &[u8]) -> Moved {
    let bytes = &bytes[..bytes.len().min(MOST)];
    // SAFETY: `bytes` is valid for reads of its length and borrowed until `complete` returns.
    let started = unsafe { imports::stdout_write(stream, bytes.as_ptr(), bytes.len()) };
    complete(stream, started, || {})
}

/// Drops the reading end of standard input.
pub(crate) fn drop_stdin(stream: u32) {
    // SAFETY: the caller owns the handle and no operation is under way on it.
    unsafe { imports::stdin_drop(stream) }
}

/// Drops the writing end of standard output.
pub(crate) fn drop_stdout(stream: u32) {
    // SAFETY: as in `drop_stdin`.
    unsafe { imports::stdout_drop(stream) }
}

/// Prints on standard error, whatever the target's standard library can do.
pub(crate) fn print_error(text: &str) {
    #[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
    {
        use io::Write;
        // Nobody is left to hear that stderr is closed.
        let _ = io::stderr().write_all(text.as_bytes());
    }
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    print_through_stream(text.as_bytes());
}

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
fn print_through_stream(mut bytes: &[u8]) {
    let (writer, reader) = crate::bindings::wit_stream::new::<u8>();
    let done = crate::bindings::wasi::cli::stderr::write_via_stream(reader);
    let stream = writer.handle();
    while !bytes.is_empty() {
        // SAFETY: as in `write_stdout`; every `stream<u8>` of the same type shares its operations.
        let started = unsafe { imports::stdout_write(stream, bytes.as_ptr(), bytes.len()) };
        match complete(stream, started, || {}) {
            Moved::Bytes(n) => bytes = &bytes[n..],
            Moved::Dropped(_) => break,
        }
    }
    drop(writer);
    drop(done);
}

/// Makes a panic print where the input was, and its message and place where the standard library's own hook has no stderr to
/// print to.
pub(crate) fn install_panic_hook() {
    #[cfg(target_family = "wasm")]
    {
        #[cfg(not(target_os = "unknown"))]
        let print = std::panic::take_hook();
        #[cfg(target_os = "unknown")]
        let print = |panic: &std::panic::PanicHookInfo<'_>| print_error(&format!("{panic}\n"));
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            print_error(&crate::position::note());
        }));
    }
}

#[cfg(target_family = "wasm")]
mod imports {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    #[link(wasm_import_module = "wasi:cli/stdin@0.3.0")]
    unsafe extern "C" {
        #[link_name = "[async-lower][stream-read-0]read-via-stream"]
        pub(super) fn stdin_read(stream: u32, start: *mut u8, len: usize) -> u32;
        #[link_name = "[stream-drop-readable-0]read-via-stream"]
        pub(super) fn stdin_drop(stream: u32);
    }

    #[link(wasm_import_module = "wasi:cli/stdout@0.3.0")]
    unsafe extern "C" {
        #[link_name = "[async-lower][stream-write-0]write-via-stream"]
        pub(super) fn stdout_write(stream: u32, start: *const u8, len: usize) -> u32;
        #[link_name = "[stream-drop-writable-0]write-via-stream"]
        pub(super) fn stdout_drop(stream: u32);
    }

    #[link(wasm_import_module = "$root")]
    unsafe extern "C" {
        #[link_name = "[waitable-set-new]"]
        fn waitable_set_new() -> u32;
        #[link_name = "[waitable-join]"]
        fn waitable_join(waitable: u32, set: u32);
        #[link_name = "[waitable-set-wait]"]
        fn waitable_set_wait(set: u32, payload: *mut [u32; 2]) -> u32;
    }

    /// The one set this module waits on; 0 until it is made. Sets are never 0.
    static SET: AtomicU32 = AtomicU32::new(0);

    /// Waits until the operation under way on `waitable` is done, and returns its code.
    pub(super) fn wait(waitable: u32) -> u32 {
        let mut payload = [0; 2];
        // SAFETY: plain calls with handles that we own; `payload` outlives the call that fills it. Only one waitable is
        // ever in the set, so the event is its.
        unsafe {
            if SET.load(Relaxed) == 0 {
                SET.store(waitable_set_new(), Relaxed);
            }
            waitable_join(waitable, SET.load(Relaxed));
            waitable_set_wait(SET.load(Relaxed), &mut payload);
            waitable_join(waitable, 0);
        }
        payload[1]
    }
}

/// Outside wasm there are no such streams: `Input::from_reader` and `Output::to_vec` are what native tests use.
#[cfg(not(target_family = "wasm"))]
mod imports {
    const WHY: &str = "a stage's standard streams exist only in wasm; use Input::from_reader and Output::to_vec";

    pub(super) unsafe fn stdin_read(_: u32, _: *mut u8, _: usize) -> u32 {
        unreachable!("{WHY}")
    }
    pub(super) unsafe fn stdin_drop(_: u32) {}
    pub(super) unsafe fn stdout_write(_: u32, _: *const u8, _: usize) -> u32 {
        unreachable!("{WHY}")
    }
    pub(super) unsafe fn stdout_drop(_: u32) {}
    pub(super) fn wait(_: u32) -> u32 {
        unreachable!("{WHY}")
    }
}

/// The error behind a stream that ended with a code.
pub(crate) fn error_of(code: crate::bindings::wasi::cli::types::ErrorCode) -> io::Error {
    use crate::bindings::wasi::cli::types::ErrorCode;
    match code {
        ErrorCode::Pipe => io::Error::from(io::ErrorKind::BrokenPipe),
        ErrorCode::IllegalByteSequence => io::Error::new(io::ErrorKind::InvalidData, "illegal byte sequence"),
        ErrorCode::Io => io::Error::other("the stream failed"),
    }
}
