//! The `stagehost` command. clap, the environment, printing and exiting live here and in `cli/` only.
#![expect(clippy::print_stdout, clippy::print_stderr, clippy::exit, reason = "a command prints and exits")]

mod cli;

fn main() -> ! {
    cli::main()
}
