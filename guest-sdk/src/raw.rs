//! The canonical ABI's operations on a stage's standard streams, called directly: a read or write of a slice with no allocation and no
//! executor.
//!
//! The generated bindings start these same operations, but own their buffers and need a task around them; and a component that uses them
//! imports all operations that there are, which its host makes ready each time it starts. The names and encodings are those of the
//! component model's canonical ABI (`stream.read`, `stream.write`, `future.read`, `waitable-set.wait`). This is the SDK's one place of
//! hand-written `unsafe`.

use std::io;

use crate::bindings::wasi::cli::types::ErrorCode;

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

/// A stream of the process's, and what says how it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) stream: u32,
    pub(crate) ended: u32,
}

/// Opens standard input for reading.
pub(crate) fn open_stdin() -> Opened {
    let mut handles = [0; 2];
    // SAFETY: `handles` has room for the two handles that the call writes.
    unsafe { imports::stdin_open(handles.as_mut_ptr()) };
    Opened { stream: handles[0], ended: handles[1] }
}

/// Opens standard output for writing.
pub(crate) fn open_stdout() -> Opened {
    // SAFETY: the new stream's reading end is given away, which the call takes.
    unsafe {
        let (reader, stream) = ends(imports::stdout_new());
        Opened { stream, ended: imports::stdout_open(reader) }
    }
}

/// The reading and the writing end of a new stream.
fn ends(both: u64) -> (u32, u32) {
    ((both & 0xffff_ffff) as u32, (both >> 32) as u32)
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

/// Waits until it is known how standard input ended, and drops what says so.
pub(crate) fn stdin_ended(ended: u32) -> Result<(), ErrorCode> {
    wait_for_end(ended, imports::stdin_ended, imports::stdin_ended_drop)
}

/// The same for what was written to standard output.
pub(crate) fn stdout_ended(ended: u32) -> Result<(), ErrorCode> {
    wait_for_end(ended, imports::stdout_ended, imports::stdout_ended_drop)
}

/// Drops what would say how standard input ended.
pub(crate) fn forget_stdin_end(ended: u32) {
    // SAFETY: as in `drop_stdin`.
    unsafe { imports::stdin_ended_drop(ended) }
}

fn wait_for_end(
    ended: u32,
    read: unsafe extern "C" fn(u32, *mut u8) -> u32,
    drop: unsafe extern "C" fn(u32),
) -> Result<(), ErrorCode> {
    // A `result<_, error-code>`: whether it is an error, and which.
    let mut value = [0; 2];
    // SAFETY: `value` outlives the operation, which is over when `complete` returns; then nobody uses the handle any more.
    unsafe {
        let started = read(ended, value.as_mut_ptr());
        complete(ended, started, || {});
        drop(ended);
    }
    match value {
        [0, _] => Ok(()),
        [_, 0] => Err(ErrorCode::Io),
        [_, 1] => Err(ErrorCode::IllegalByteSequence),
        _ => Err(ErrorCode::Pipe),
    }
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
    // SAFETY: as in `open_stdout` and `write_stdout`; the handles are dropped when nothing is under way on them.
    unsafe {
        let (reader, stream) = ends(imports::stderr_new());
        let ended = imports::stderr_open(reader);
        while !bytes.is_empty() {
            let started = imports::stderr_write(stream, bytes.as_ptr(), bytes.len());
            match complete(stream, started, || {}) {
                Moved::Bytes(n) => bytes = &bytes[n..],
                Moved::Dropped(_) => break,
            }
        }
        imports::stderr_drop(stream);
        // Nobody is left to hear that stderr is closed.
        imports::stderr_ended_drop(ended);
    }
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
        #[link_name = "read-via-stream"]
        pub(super) fn stdin_open(handles: *mut u32);
        #[link_name = "[async-lower][stream-read-0]read-via-stream"]
        pub(super) fn stdin_read(stream: u32, start: *mut u8, len: usize) -> u32;
        #[link_name = "[stream-drop-readable-0]read-via-stream"]
        pub(super) fn stdin_drop(stream: u32);
        #[link_name = "[async-lower][future-read-1]read-via-stream"]
        pub(super) fn stdin_ended(ended: u32, value: *mut u8) -> u32;
        #[link_name = "[future-drop-readable-1]read-via-stream"]
        pub(super) fn stdin_ended_drop(ended: u32);
    }

    #[link(wasm_import_module = "wasi:cli/stdout@0.3.0")]
    unsafe extern "C" {
        #[link_name = "[stream-new-0]write-via-stream"]
        pub(super) fn stdout_new() -> u64;
        #[link_name = "write-via-stream"]
        pub(super) fn stdout_open(reader: u32) -> u32;
        #[link_name = "[async-lower][stream-write-0]write-via-stream"]
        pub(super) fn stdout_write(stream: u32, start: *const u8, len: usize) -> u32;
        #[link_name = "[stream-drop-writable-0]write-via-stream"]
        pub(super) fn stdout_drop(stream: u32);
        #[link_name = "[async-lower][future-read-1]write-via-stream"]
        pub(super) fn stdout_ended(ended: u32, value: *mut u8) -> u32;
        #[link_name = "[future-drop-readable-1]write-via-stream"]
        pub(super) fn stdout_ended_drop(ended: u32);
    }

    #[cfg(target_os = "unknown")]
    #[link(wasm_import_module = "wasi:cli/stderr@0.3.0")]
    unsafe extern "C" {
        #[link_name = "[stream-new-0]write-via-stream"]
        pub(super) fn stderr_new() -> u64;
        #[link_name = "write-via-stream"]
        pub(super) fn stderr_open(reader: u32) -> u32;
        #[link_name = "[async-lower][stream-write-0]write-via-stream"]
        pub(super) fn stderr_write(stream: u32, start: *const u8, len: usize) -> u32;
        #[link_name = "[stream-drop-writable-0]write-via-stream"]
        pub(super) fn stderr_drop(stream: u32);
        #[link_name = "[future-drop-readable-1]write-via-stream"]
        pub(super) fn stderr_ended_drop(ended: u32);
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

    pub(super) unsafe extern "C" fn stdin_open(_: *mut u32) {
        panic!("{WHY}")
    }
    pub(super) unsafe extern "C" fn stdin_read(_: u32, _: *mut u8, _: usize) -> u32 {
        unreachable!("{WHY}")
    }
    pub(super) unsafe extern "C" fn stdin_drop(_: u32) {}
    pub(super) unsafe extern "C" fn stdin_ended(_: u32, _: *mut u8) -> u32 {
        unreachable!("{WHY}")
    }
    pub(super) unsafe extern "C" fn stdin_ended_drop(_: u32) {}
    pub(super) unsafe extern "C" fn stdout_new() -> u64 {
        panic!("{WHY}")
    }
    pub(super) unsafe extern "C" fn stdout_open(_: u32) -> u32 {
        unreachable!("{WHY}")
    }
    pub(super) unsafe extern "C" fn stdout_write(_: u32, _: *const u8, _: usize) -> u32 {
        unreachable!("{WHY}")
    }
    pub(super) unsafe extern "C" fn stdout_drop(_: u32) {}
    pub(super) unsafe extern "C" fn stdout_ended(_: u32, _: *mut u8) -> u32 {
        unreachable!("{WHY}")
    }
    pub(super) unsafe extern "C" fn stdout_ended_drop(_: u32) {}
    pub(super) fn wait(_: u32) -> u32 {
        unreachable!("{WHY}")
    }
}

/// The error behind a stream that ended with a code.
pub(crate) fn error_of(code: ErrorCode) -> io::Error {
    match code {
        ErrorCode::Pipe => io::Error::from(io::ErrorKind::BrokenPipe),
        ErrorCode::IllegalByteSequence => io::Error::new(io::ErrorKind::InvalidData, "illegal byte sequence"),
        ErrorCode::Io => io::Error::other("the stream failed"),
    }
}
