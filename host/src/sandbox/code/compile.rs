//! Compiling strangers' code: in a process of its own, under limits.
//!
//! The compiler's time and memory depend on what it compiles in ways that nobody can foresee, and it cannot be interrupted.
//! So a small process does it, which the kernel ends when it has used what it was given. It gets the file and gives the code
//! as files in memory that have no name.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Seek, Write},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    process::{Resource, getrlimit},
};

use super::{file::ComponentFile, inspect::Shape, proposals::validate};
use crate::{
    outcome::{LimitKind, StageExit},
    process::{Grouping, Launch, Rlimits, Spawner, Status},
    sandbox::{
        kind::{Counting, EngineKind, config},
        limits::Limits,
        messages::readable,
    },
};

/// The most bytes of compiled code that are taken, for each byte of the file, and besides.
const EXPANSION: u64 = 64;
const BESIDES: u64 = 16 << 20;
/// The most compiled code of one file, in bytes.
const MOST_CODE: u64 = 512 << 20;
/// The most of the compiler's message that is read, in bytes.
const MESSAGE: u64 = 4096;

/// Starts compilers.
#[derive(Debug)]
pub(crate) struct Compilers {
    /// The program and its first arguments.
    command: Vec<OsString>,
    spawner: Arc<Spawner>,
}

impl Compilers {
    /// `command` is a program, and its first arguments, that calls [`compile_worker`] with the rest of them.
    pub(crate) fn new(command: Vec<OsString>, spawner: Arc<Spawner>) -> Self {
        Self { command, spawner }
    }

    /// Compiles a file.
    ///
    /// # Errors
    ///
    /// How that ends the stage: the file is refused, or a limit was reached.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the compiler.
    pub(crate) async fn compile(
        &self,
        kind: EngineKind,
        code: &ComponentFile,
        limits: &Limits,
    ) -> Result<Vec<u8>, StageExit> {
        let failed = |message: String| StageExit::HostError { message: format!("the compiler: {message}"), path: None };
        let file = &code.bytes[..];
        let memory = |name: &str| {
            let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
            file.map(File::from).map_err(|error| failed(error.to_string()))
        };
        let (mut input, mut output, mut messages) = (memory("component")?, memory("code")?, memory("messages")?);
        input.write_all(file).and_then(|()| input.rewind()).map_err(|error| failed(error.to_string()))?;
        let copy = |file: &File| file.try_clone().map(OwnedFd::from).map_err(|error| failed(error.to_string()));
        let counting = match kind.counting {
            Counting::Epochs => "epochs",
            Counting::EpochsAndFuel => "epochs-and-fuel",
            Counting::Fuel => "fuel",
        };
        let shape = if code.shape == Shape::ModuleP1 { "module" } else { "component" };
        let mut arguments = self.command.clone();
        let memories = if kind.small { "small" } else { "reserved" };
        arguments.extend([counting.into(), memories.into(), shape.into()]);
        let most = (file.len() as u64).saturating_mul(EXPANSION).saturating_add(BESIDES).min(MOST_CODE);
        // The kernel counts in nanoseconds, and nobody waits longer than a year.
        const YEAR: u64 = 365 * 24 * 3600;
        let seconds = |time: Duration| time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).min(YEAR);
        let launch = Launch {
            program: self.command.first().cloned().unwrap_or_default().into(),
            arguments,
            environment: Arc::default(),
            directory: None,
            directory_at: None,
            program_at: None,
            stdin: copy(&input)?,
            stdout: copy(&output)?,
            stderr: copy(&messages)?,
            grouping: Grouping::Group,
            rlimits: Rlimits {
                file_size: Some(most),
                address_space: limits.compile_memory,
                cpu_seconds: limits.compile_time.map(seconds),
                ..Rlimits::default()
            },
            guard: None,
            cgroup: None,
            wall: None,
        };
        let compiler = self.spawner.start(launch).await.map_err(|error| failed(error.to_string()))?;
        // It reads and writes memory only: its processor time bounds its time, but for a machine that is not its own.
        let patience = limits.compile_time.map(|time| time.saturating_mul(8).max(Duration::from_secs(10)));
        match patience {
            Some(patience) => {
                if tokio::time::timeout(patience, compiler.ended()).await.is_err() {
                    compiler.kill();
                    compiler.ended().await;
                }
            }
            None => compiler.ended().await,
        }
        let status = compiler.status().map_err(|error| failed(error.to_string()))?;
        compiler.reap();
        let read = |file: &mut File, most: u64| {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.take(most).read_to_end(&mut bytes)?;
            std::io::Result::Ok(bytes)
        };
        let message = read(&mut messages, MESSAGE).unwrap_or_default();
        let message = String::from_utf8_lossy(&message).trim().to_owned();
        let limit = |which, limit: Option<u64>| StageExit::Limit { which, limit, used: None, asked: None };
        let out_of_memory = || match getrlimit(Resource::As).current {
            // Not its own limit, but the machine's.
            Some(space) if limits.compile_memory.is_none_or(|most| space < most) => {
                failed(format!("there is too little address space for it: {space} bytes in all (ulimit -v)"))
            }
            _ => limit(LimitKind::CompileMemory, limits.compile_memory),
        };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match status {
            Some(Status::Exited(0)) => {
                let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
                fcntl_add_seals(&output, all).map_err(|error| failed(error.to_string()))?;
                read(&mut output, most).map_err(|error| failed(error.to_string()))
            }
            Some(Status::Exited(REFUSED)) => Err(StageExit::StartFailed { message, missing: false, path: None }),
            Some(Status::Signaled(libc::SIGXCPU | libc::SIGKILL)) => {
                Err(limit(LimitKind::CompileTime, limits.compile_time.map(millis)))
            }
            // How a program ends that is refused memory: it says so, or cannot even be loaded.
            Some(Status::Signaled(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS))
                if message.is_empty() || message.contains("memory allocation of") =>
            {
                Err(out_of_memory())
            }
            Some(Status::Exited(1 | 125 | 127))
                if ["out of memory", "annot allocate", "not enough memory"]
                    .iter()
                    .any(|text| message.contains(text)) =>
            {
                Err(out_of_memory())
            }
            Some(Status::Signaled(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS) | Status::Exited(101)) => {
                let last = message.lines().next().unwrap_or_default();
                let message = format!("the compiler broke down over it: {last}");
                Err(StageExit::StartFailed { message, missing: false, path: None })
            }
            Some(Status::Signaled(libc::SIGXFSZ)) => {
                let message = format!("it compiles to more than {most} bytes");
                Err(StageExit::StartFailed { message, missing: false, path: None })
            }
            Some(Status::Exited(code)) => Err(failed(format!("it exited with code {code}: {message}"))),
            Some(Status::Signaled(signal)) => Err(failed(format!("it died of signal {signal}: {message}"))),
            None => Err(failed("it still runs".into())),
        }
    }
}

/// The exit code of a compiler that refuses a file.
const REFUSED: u8 = 3;

/// Compiles one file: from standard input to standard output, with what is wrong with it on standard error. What a program
/// calls that is named as a host's compiler, with the arguments behind the named ones; its result is the exit code.
pub fn compile_worker(arguments: &[OsString]) -> u8 {
    let words: Vec<_> = arguments.iter().filter_map(|word| word.to_str()).collect();
    let [counting, memories, shape] = words[..] else { return 2 };
    let counting = match counting {
        "epochs" => Counting::Epochs,
        "epochs-and-fuel" => Counting::EpochsAndFuel,
        "fuel" => Counting::Fuel,
        _ => return 2,
    };
    let (small, is_module) = (memories == "small", shape == "module");
    let say = |message: &str| {
        // Nobody else is there to hear it.
        let _ = std::io::stderr().write_all(message.as_bytes());
    };
    let mut file = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut file) {
        say(&error.to_string());
        return 1;
    }
    // In our words, and before anything else is made of it.
    if let Err(refused) = validate(&file, None) {
        say(&refused.message);
        return REFUSED;
    }
    // What is fixed per engine but not in the code does not matter here.
    let kind = EngineKind { counting, stack: Limits::default().stack, dumps: false, pooled: false, small };
    let mut config = config(kind);
    // One thread: memory and time are this process's.
    config.parallel_compilation(false);
    let engine = match wasmtime::Engine::new(&config) {
        Ok(engine) => engine,
        Err(error) => {
            say(&format!("{error:#}"));
            return 1;
        }
    };
    let code = if is_module { engine.precompile_module(&file) } else { engine.precompile_component(&file) };
    match code {
        Ok(code) => match std::io::stdout().write_all(&code) {
            Ok(()) => 0,
            Err(error) => {
                say(&error.to_string());
                1
            }
        },
        Err(error) => {
            say(&readable(&error));
            REFUSED
        }
    }
}
