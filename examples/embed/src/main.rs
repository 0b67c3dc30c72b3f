//! How programs embed stagehost, each in a file of its own to be copied from:
//!
//! ```text
//! cargo run --release -p stagehost-embed-examples -- service 127.0.0.1:8080
//! cargo run --release -p stagehost-embed-examples -- functions < some.txt
//! cargo run --release -p stagehost-embed-examples -- progress < some.txt
//! cargo run --release -p stagehost-embed-examples -- cancel
//! cargo run --release -p stagehost-embed-examples -- tokenizer < some.txt
//! ```
#![expect(clippy::print_stderr, reason = "programs for people")]

mod cancel;
mod functions;
mod progress;
mod service;
mod tokenizer;

use std::{io, process::ExitCode};

/// What goes wrong in an example.
type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let done = match (args.next().as_deref(), args.next()) {
        (Some("service"), address) => service::run(address.as_deref().unwrap_or("127.0.0.1:8080")),
        (Some("functions"), None) => functions::run(io::stdin(), io::stdout()),
        (Some("progress"), None) => progress::run(io::stdin(), io::stderr()),
        (Some("cancel"), None) => cancel::run().map(|code| eprintln!("it ended as {code}")),
        (Some("tokenizer"), None) => tokenizer::run(io::stdin(), io::stdout()),
        _ => Err("one of: service [ADDRESS], functions, progress, cancel, tokenizer".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod kept {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    /// Keeps what is written to it.
    #[derive(Clone, Default)]
    pub(crate) struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        pub(crate) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().expect("nobody panics")).into_owned()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
