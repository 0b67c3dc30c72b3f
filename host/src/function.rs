//! Stages that are Rust functions of the program that embeds the library.
//!
//! A blocking function gets a [`Read`](std::io::Read) and a [`Write`](std::io::Write) and a thread that does nothing else meanwhile; an asynchronous one gets an
//! [`AsyncRead`](tokio::io::AsyncRead) and an [`AsyncWrite`](tokio::io::AsyncWrite). Both stand in a pipeline like any other
//! stage: a panic is how the stage ended and nothing more, and a read or write that waits is released when the run stops. A plan may be
//! run any number of times at once, so its functions are called by all its runs; one that can be called only once makes a plan that can
//! be run only once.
//!
//! ```
//! use stagehost::{Host, HostOptions, Pipeline, Policy, Stage, function};
//!
//! let host = Host::new(&HostOptions::default())?;
//! let squares = Pipeline::builder(Policy::allow_all())
//!     .stage(Stage::blocking("numbers", function::text("1\n2\n3\n")))
//!     .stage(Stage::blocking("square", function::lines(|line, output| {
//!         let number: u64 = String::from_utf8_lossy(line).parse()?;
//!         Ok(writeln!(output, "{}", number * number)?)
//!     })));
//! let (outcome, output) = squares.build()?.output(&host, 1 << 20).wait();
//! assert!(outcome.success);
//! assert_eq!(output, b"1\n4\n9\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod threads;
mod tokens;
mod work;

pub(crate) use threads::Threads;
pub use tokens::{MAX_TOKEN, Split, lines, separated_by, text, tokens, words};
pub use work::{AsyncInput, AsyncOutput, Error, FinishedEarly, Input, Output, Result, Stopped};
pub(crate) use work::{Body, Ending, Function, Release};
