//! Loading: bytes to compiled code that can be instantiated, once per digest.

use std::{sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use wasmtime_wasi::{p2, p3};

use super::{
    artifact::{self, Code},
    compile_here::{self, Uncompiled},
    engine::{EngineKind, Machine, Sandbox, SandboxError, is_space_short},
    inspect::{NotAStage, Shape},
    limits::Limits,
    proposals::validate,
    store::Guest,
    trap,
    turns::RunTurns,
    weigh::work,
};
use crate::{fair::Slot, outcome::StageExit};

/// What is compiled in less time waits for nothing that takes longer.
const QUICK: Duration = Duration::from_millis(300);

/// How long compiling a file would take, in the words of who refuses it.
fn time_of(bytes: &[u8]) -> Result<Duration, NotAStage> {
    work(bytes).map_err(|why| NotAStage { message: format!("it is too costly to compile: {why}"), hint: None })
}

/// A file's SHA-256 digest.
pub(crate) type Digest = [u8; 32];

/// Compiled code, linked as far as it can be without a store, and its engine.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(super) machine: Arc<Machine>,
    pub(super) entry: Entry,
}

/// How a guest is entered.
#[derive(Clone)]
pub(super) enum Entry {
    P3(p3::bindings::CommandPre<Guest>),
    P2(p2::bindings::CommandPre<Guest>),
    P1(wasmtime::InstancePre<Guest>),
}

impl Entry {
    /// How much code it is, in bytes.
    pub(super) fn code_bytes(&self) -> usize {
        let image = match self {
            Self::P3(command) => command.instance_pre().component().image_range(),
            Self::P2(command) => command.instance_pre().component().image_range(),
            Self::P1(module) => module.module().image_range(),
        };
        image.end.addr() - image.start.addr()
    }
}

impl Sandbox {
    /// The digest of a `.wasm` file.
    pub(crate) fn digest(bytes: &[u8]) -> Digest {
        Sha256::digest(bytes).into()
    }

    /// Compiles and links a component, or finds it compiled. A second caller waits for the first.
    ///
    /// # Errors
    ///
    /// How it ends the stage: the code is invalid, it has an import that this host does not have, or compiling it takes more
    /// than it may.
    ///
    /// # Cancel safety
    ///
    /// A compiler in a process of its own is killed; compilation in this one goes on in its thread, and its result is dropped.
    pub(crate) async fn load(
        self: &Arc<Self>,
        kind: EngineKind,
        code: &Source,
        limits: &Limits,
        turns: &RunTurns,
    ) -> Result<Loaded, StageExit> {
        let failed = |error: SandboxError| StageExit::HostError { message: error.to_string(), path: None };
        let machine = self.machine(kind).map_err(failed)?;
        let cell = machine.cell(code.digest);
        let enter = async || {
            let entry = self.enter(machine.clone(), kind, code, limits, turns).await?;
            Ok((entry, usize::try_from(code.kept).unwrap_or(usize::MAX)))
        };
        let (entry, _) = cell.get_or_try_init(enter).await?.clone();
        Ok(Loaded { machine, entry })
    }

    /// Finds code on disk or compiles it, and links it.
    async fn enter(
        self: &Arc<Self>,
        machine: Arc<Machine>,
        kind: EngineKind,
        code: &Source,
        limits: &Limits,
        turns: &RunTurns,
    ) -> Result<Entry, StageExit> {
        // Ours are.
        let mut is_quick = code.is_ours;
        // Refused in our words, and without compiling, where there is nothing compiled.
        if !code.is_ours && !self.has(&machine, code) {
            let bytes = code.bytes.clone();
            let validating = tokio::task::spawn_blocking(move || validate(&bytes).and_then(|()| time_of(&bytes)));
            let lost = |error| StageExit::HostError { message: format!("the validator failed: {error}"), path: None };
            let refused = |NotAStage { message, .. }| StageExit::StartFailed { message, missing: false, path: None };
            is_quick = validating.await.map_err(lost)?.map_err(refused)? <= QUICK;
        }
        let found = match &self.compilers {
            // Ours too where address space is short: what runs out of it here ends the host.
            Some(compilers) if (!code.is_ours || is_space_short()) && !self.has(&machine, code) => {
                let bytes = compilers.compile(kind, code, limits, turns.compiler(is_quick).await).await?;
                self.on_a_thread(code, &machine, |sandbox, code, machine| sandbox.keep_and_load(code, machine, bytes))
                    .await?
            }
            _ => {
                match self.on_a_thread(code, &machine, |sandbox, code, machine| Ok(sandbox.find(code, machine))).await?
                {
                    Some(found) => found,
                    None => self.compile_here(&machine, code, turns.compiling_here(is_quick).await).await?,
                }
            }
        };
        self.on_a_thread(code, &machine, |_, code, machine| link(found, code.shape, machine)).await
    }

    /// Does what takes a while where it holds up nobody.
    async fn on_a_thread<T: Send + 'static>(
        self: &Arc<Self>,
        code: &Source,
        machine: &Arc<Machine>,
        work: impl FnOnce(&Self, &Source, &Machine) -> Result<T, StageExit> + Send + 'static,
    ) -> Result<T, StageExit> {
        let (sandbox, code, machine) = (self.clone(), code.clone(), machine.clone());
        let working = tokio::task::spawn_blocking(move || work(&sandbox, &code, &machine));
        let lost = |error| StageExit::HostError { message: format!("the sandbox failed: {error}"), path: None };
        working.await.map_err(lost)?
    }

    async fn compile_here(&self, machine: &Machine, code: &Source, turn: Slot) -> Result<Code, StageExit> {
        let is_module = code.shape == Shape::ModuleP1;
        let (engine, keep) = (machine.engine.clone(), self.artifacts.is_some());
        let compiling = compile_here::compile(engine, code.bytes.clone(), is_module, keep, turn);
        let (found, bytes) = compiling.await.map_err(|uncompiled| match uncompiled {
            Uncompiled::Refused(error) => refused(&error),
            Uncompiled::NoThreads(why) => {
                StageExit::HostError { message: format!("there are no threads to compile with: {why}"), path: None }
            }
        })?;
        if let (Some(artifacts), Some(bytes)) = (&self.artifacts, bytes) {
            artifacts.keep(&machine.engine, &code.digest, &bytes);
        }
        Ok(found)
    }

    fn has(&self, machine: &Machine, code: &Source) -> bool {
        self.find(code, machine).is_some()
    }

    /// Code that is on disk.
    fn find(&self, code: &Source, machine: &Machine) -> Option<Code> {
        self.artifacts.as_ref()?.find(&machine.engine, &code.digest, code.shape == Shape::ModuleP1)
    }

    fn keep_and_load(&self, code: &Source, machine: &Machine, bytes: Vec<u8>) -> Result<Code, StageExit> {
        let found =
            artifact::load(&machine.engine, &bytes, code.shape == Shape::ModuleP1).map_err(|error| refused(&error))?;
        if let Some(artifacts) = &self.artifacts {
            artifacts.keep(&machine.engine, &code.digest, &bytes);
        }
        Ok(found)
    }
}

/// How an error of the engine ends a stage before it has begun.
fn refused(error: &wasmtime::Error) -> StageExit {
    if let Some(shortage) = trap::shortage(error) {
        return shortage;
    }
    StageExit::StartFailed { message: named_import(&readable(error)), missing: false, path: None }
}

/// Links code as far as that goes without a store.
fn link(code: Code, shape: Shape, machine: &Machine) -> Result<Entry, StageExit> {
    let refused = |error: wasmtime::Error| refused(&error);
    match code {
        Code::Module(module) => machine.modules.instantiate_pre(&module).map(Entry::P1).map_err(refused),
        Code::Component(component) => {
            let pre = machine.components.instantiate_pre(&component).map_err(refused)?;
            match shape {
                Shape::ComponentP3 => p3::bindings::CommandPre::new(pre).map(Entry::P3).map_err(refused),
                Shape::ComponentP2 | Shape::ModuleP1 => {
                    p2::bindings::CommandPre::new(pre).map(Entry::P2).map_err(refused)
                }
            }
        }
    }
}

/// What a guest is compiled from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) digest: Digest,
    pub(crate) shape: Shape,
    /// Whether it is one of the stock stages.
    pub(crate) is_ours: bool,
    /// What is kept of it besides its code, in bytes.
    pub(crate) kept: u64,
}

/// Says in our words that an import is missing, which is what people need to know of a linker's error.
fn named_import(error: &str) -> String {
    let component = error.strip_prefix("component imports ").and_then(|rest| rest.split_once(", but a matching"));
    let import = component.map(|(import, _)| import);
    let module = error.strip_prefix("unknown import: ").and_then(|rest| rest.split_once(" has not been defined"));
    match import.or(module.map(|(import, _)| import)) {
        Some(import) => format!("it imports {import}, which this host does not offer"),
        None => error.to_owned(),
    }
}

/// An error's chain on one line.
pub(super) fn readable(error: &wasmtime::Error) -> String {
    // The alternate form leaves out what is behind an error of another library.
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    text = text.replace('\n', " ");
    while let Some(double) = text.find("  ") {
        text.remove(double);
    }
    text
}
