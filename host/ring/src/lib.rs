//! A bounded single-producer single-consumer byte ring in user space: the joint between two sandboxed stages.
//!
//! [`ring()`] makes a [`Writer`] and a [`Reader`] over a buffer that the ring owns and a [`Pool`] recycles. Bytes cross
//! without a system call, a lock or an allocation. The stream ends in one of three ways that never look alike: a clean
//! end ([`Writer::finish`]), an abort with a cause ([`Writer::abort`], or dropping the writer), or a reader that is gone
//! ([`Reader::fail`], or dropping the reader).
//!
//! This crate is a leaf: it knows no stage, no sandbox and no file descriptor. All hand-written `unsafe` of the data
//! path lives in its `shared` module.
//!
//! # Examples
//!
//! ```
//! use stagehost_ring::{Capacity, Options, Pool, ring};
//!
//! let pool = Pool::default();
//! let (mut writer, mut reader) = ring(&pool, Options { capacity: Capacity::new(4096)?, ..Options::default() });
//! assert_eq!(writer.write(b"hello, ring")?, 11);
//! writer.finish();
//!
//! let mut text = [0; 32];
//! assert_eq!(reader.read(&mut text)?, Some(11));
//! assert_eq!(&text[..11], b"hello, ring");
//! assert_eq!(reader.read(&mut text)?, Some(0), "a clean end");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(loom))]
mod blocking;
mod capacity;
mod copying;
mod counters;
mod ending;
mod monitor;
mod options;
mod pool;
mod reader;
mod ring;
mod shared;
mod sync;
#[cfg(not(loom))]
mod tasks;
mod writer;

#[cfg(not(loom))]
pub use blocking::{BlockingReader, BlockingWriter};
pub use capacity::{Capacity, CapacityError};
pub use copying::copy;
pub use counters::Counters;
pub use ending::{Cause, OutOfBounds, ReadError, WriteError};
pub use monitor::Monitor;
pub use options::{OnAbort, Options};
pub use pool::Pool;
pub use reader::Reader;
pub use ring::ring;
pub use writer::Writer;

#[cfg(all(test, loom))]
mod loom_tests;
