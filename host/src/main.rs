//! The `stagehost` command. clap, the environment, printing and exiting live here and in `cli/` only.
#![expect(clippy::exit, reason = "a command exits")]

mod cli;

#[global_allocator]
static ALLOCATOR: cli::memory::Told = cli::memory::Told;

fn main() -> ! {
    cli::main()
}
