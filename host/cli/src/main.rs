//! The `stagehost` command: clap, the environment, printing, signals and exiting live here and nowhere else. One file a verb, one renderer
//! of errors.
#![expect(clippy::exit, reason = "a command exits")]

mod args;
mod failure;
mod inspect;
mod load;
mod lock;
mod memory;
mod plan;
mod render;
mod run;
mod signals;
mod stages;
mod started;
mod suspend;

use std::{ffi::OsString, io};

use clap::{CommandFactory, Parser, error::ErrorKind};
use stagehost::{ExitCode, Guard};

use args::{COMPILE, Cli, RunOnly, RunVerb, Verb};
use failure::Failure;

#[global_allocator]
static ALLOCATOR: memory::Told = memory::Told;

fn main() -> ! {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A compiler of our own: nobody else's arguments, and nothing else is to be done.
    if arguments.get(1).is_some_and(|verb| verb == COMPILE) {
        memory::keep_room();
        std::process::exit(i32::from(stagehost::compile_worker(&arguments[2..])));
    }
    std::process::exit(i32::from(follow(arguments)));
}

/// Whether there is so little address space that the first thing to be allocated may end this process without a word.
fn is_cramped() -> bool {
    const LEAST: u64 = 96 << 20;
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::As).current.is_some_and(|limit| limit < LEAST)
}

/// Makes this thread's stack as large as it will have to be, where address space is bounded: a stack that cannot grow any more ends the
/// process without a word.
#[inline(never)]
fn grow_stack() {
    use rustix::process::{Resource, getrlimit};
    if getrlimit(Resource::As).current.is_some() {
        std::hint::black_box([0_u8; 1 << 20]);
    }
}

/// Does what the arguments say, and returns the exit code.
fn follow(arguments: Vec<OsString>) -> u8 {
    if is_cramped() {
        let error =
            anyhow::anyhow!("the address space is limited to less than 96 MiB, which does not hold this program");
        render::failure(&Failure::new(ExitCode::Host, error).hint(Some("raise it: `ulimit -v 600000` or more".into())));
        return ExitCode::Host as u8;
    }
    grow_stack();
    memory::keep_room();
    let is_run = arguments.get(1).is_some_and(|verb| verb == "run");
    // Before the first thread, because it is a fork; and before anything else, because every page that is written before it has to
    // be copied after it. A run without commands sends it away again.
    let guard = is_run.then(Guard::start);
    let parse = |arguments: &[OsString]| match is_run {
        true => RunOnly::try_parse_from(arguments).map(|RunOnly { verb: RunVerb::Run(args) }| Verb::Run(args)),
        false => Cli::try_parse_from(arguments).map(|cli| cli.verb),
    };
    // What is wrong is told of arguments as they are shown: they are repeated.
    let told = |error| {
        let shown = |argument: &OsString| stagehost::shown::line(&argument.to_string_lossy()).into();
        parse(&arguments.iter().map(shown).collect::<Vec<_>>()).err().unwrap_or(error)
    };
    let parsed = parse(&arguments).map_err(told);
    let verb = match parsed {
        Ok(verb) => verb,
        Err(error) => {
            let usage = if is_run { ExitCode::Host } else { ExitCode::Usage };
            let shown = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let printed =
                if shown && started::was_closed(1) { Err(io::Error::other("it is closed")) } else { error.print() };
            return match printed {
                _ if !shown => usage as u8,
                Ok(()) => 0,
                Err(error) => {
                    let failure = Failure::from(error);
                    if !failure.silent {
                        render::failure(&failure);
                    }
                    failure.code
                }
            };
        }
    };
    // What is printed would go nowhere, and seem to be printed.
    if !is_run && started::was_closed(1) {
        let error = anyhow::anyhow!("standard output is closed");
        render::failure(&Failure::new(ExitCode::Host, error));
        return ExitCode::Usage as u8;
    }
    let done = match verb {
        Verb::Run(args) => run::run(args, guard),
        Verb::Check(args) => plan::check(&args),
        Verb::Plan(args) => plan::plan(&args),
        Verb::Inspect(args) => inspect::inspect(&args),
        Verb::Stages => stages::stages(),
        Verb::Lock(args) => lock::lock(&args),
        Verb::Schema { of } => stages::schema(&of),
        Verb::Completions { shell } => {
            // Into memory first: the generator panics when its output is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stagehost", &mut script);
            io::Write::write_all(&mut io::stdout(), &script).map(|()| 0).map_err(Failure::from)
        }
    };
    done.unwrap_or_else(|failure| {
        if !failure.silent {
            render::failure(&failure);
        }
        failure.code
    })
}
