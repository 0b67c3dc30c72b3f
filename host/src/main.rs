//! The `stagehost` command. clap, the environment, printing and exiting live here and in `cli/` only.
#![expect(clippy::exit, reason = "a command exits")]

mod cli;

fn main() -> ! {
    cli::main()
}
