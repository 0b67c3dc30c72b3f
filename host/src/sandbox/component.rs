//! Loading: bytes to compiled code that can be instantiated, once per digest.

use std::{pin::pin, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use wasmtime_wasi::{p2, p3};

use super::{
    code::{
        artifact::{self, Code},
        compile::Compilers,
        compile_here::{self, Uncompiled},
        file::ComponentFile,
        inspect::Shape,
        kept::Effort,
        work::work,
    },
    engine::{Machine, Sandbox, SandboxError},
    entry::Entry,
    kind::{EngineKind, is_space_short},
    limits::Limits,
    messages::{named_import, readable},
    trap,
    turns::RunTurns,
};
use crate::{
    digest::Digest,
    fair::Slot,
    outcome::{LimitKind, StageExit},
};

/// What is compiled in less time waits for nothing that takes longer.
const QUICK: Duration = Duration::from_millis(300);
/// How long something may take that was taken for quick, before it is not, by a compiler's processor time.
const MOST_QUICK: Duration = Duration::from_secs(2);

/// Compiled code, linked as far as it can be without a store, and its engine.
#[derive(Clone)]
pub(crate) struct Loaded {
    pub(super) machine: Arc<Machine>,
    pub(super) entry: Entry,
}

impl Loaded {
    /// How much code it is, in bytes.
    pub(super) fn code_bytes(&self) -> u64 {
        self.entry.code_bytes() as u64
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loaded")
    }
}

/// What an attempt to make a component came to.
enum Made {
    Entry(Entry),
    /// It has to be compiled.
    Known {
        is_quick: bool,
    },
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
        code: &ComponentFile,
        limits: &Limits,
        turns: &RunTurns,
    ) -> Result<Loaded, StageExit> {
        let failed = |error: SandboxError| StageExit::HostError { message: error.to_string(), path: None };
        let machine = self.machine(kind).map_err(failed)?;
        let cell = machine.cell(code.digest);
        loop {
            let mut changed = pin!(cell.changed());
            changed.as_mut().enable();
            if let Some((entry, _)) = cell.get() {
                return Ok(Loaded { machine: machine.clone(), entry: entry.clone() });
            }
            let is_quick = cell.is_quick();
            // Each waits in the turn of its own run, and whoever has its turn first makes it for all.
            let turn = tokio::select! {
                biased;
                () = changed.as_mut() => continue,
                turn = self.turn(code, turns, is_quick) => turn,
            };
            let (effort, given) = self.effort(code, limits, is_quick);
            let Some(making) = cell.make(effort) else {
                drop(turn);
                changed.await;
                continue;
            };
            let made = match is_quick {
                None => self.look(&machine, code, turn).await?,
                Some(_) => {
                    self.compile(&machine, kind, code, &given, turn, given.compile_time != limits.compile_time).await?
                }
            };
            match made {
                Made::Entry(entry) => making.made((entry, usize::try_from(code.kept).unwrap_or(usize::MAX))),
                Made::Known { is_quick } => cell.set_quick(is_quick),
            }
        }
    }

    /// Loads code that is loaded already for an engine of another kind, whose code is the same. `None`: it does not fit there, or there is
    /// no such engine to be had.
    pub(super) async fn load_again(
        self: &Arc<Self>,
        kind: EngineKind,
        code: &ComponentFile,
        loaded: &Loaded,
    ) -> Option<Loaded> {
        let (sandbox, shape, digest, entry) = (self.clone(), code.shape, code.digest, loaded.entry.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let machine = sandbox.machine(kind).ok()?;
            let cell = machine.cell(digest);
            if let Some((entry, _)) = cell.get() {
                return Some(Loaded { machine: machine.clone(), entry: entry.clone() });
            }
            let bytes = entry.serialize()?;
            let found = artifact::load(&machine.engine, &bytes, shape == Shape::ModuleP1).ok()?;
            let entry = link(found, shape, &machine).ok()?;
            if let Some(making) = cell.make(Effort::default()) {
                making.made((entry.clone(), 0));
            }
            Some(Loaded { machine, entry })
        });
        loading.await.ok().flatten()
    }

    /// The compilers of this host for what is not ours, or where even that is better not compiled here.
    fn compilers(&self, code: &ComponentFile) -> Option<&Compilers> {
        // Where address space is short, what runs out of it here ends the host.
        self.compilers.as_ref().filter(|_| !code.is_ours || is_space_short())
    }

    /// A turn for what comes next: looking at the disk, or compiling.
    async fn turn(&self, code: &ComponentFile, turns: &RunTurns, is_quick: Option<bool>) -> Slot {
        match (is_quick, self.compilers(code)) {
            (None, _) => turns.file_thread().await,
            (Some(is_quick), Some(_)) => turns.compiler(is_quick).await,
            (Some(is_quick), None) => turns.compiling_here(is_quick).await,
        }
    }

    /// Finds code on disk and links it, or else finds out whether compiling it is quick.
    async fn look(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        code: &ComponentFile,
        turn: Slot,
    ) -> Result<Made, StageExit> {
        self.on_a_thread(code, machine, turn, |sandbox, code, machine| match sandbox.find(code, machine) {
            Some(found) => link(found, code.shape, machine).map(Made::Entry),
            None if code.is_ours => Ok(Made::Known { is_quick: true }),
            None => match work(&code.bytes) {
                Ok(time) => Ok(Made::Known { is_quick: time.is_some_and(|time| time <= QUICK) }),
                Err(why) => {
                    let message = format!("it is too costly to compile: {why}");
                    Err(StageExit::StartFailed { message, missing: false, path: None })
                }
            },
        })
        .await
    }

    /// What may be spent on what comes next: looking at the disk, or compiling.
    fn effort(&self, code: &ComponentFile, limits: &Limits, is_quick: Option<bool>) -> (Effort, Limits) {
        let mut given = *limits;
        let Some(is_quick) = is_quick.filter(|_| self.compilers(code).is_some()) else {
            return (Effort::default(), given);
        };
        if is_quick {
            given.compile_time = Some(limits.compile_time.map_or(MOST_QUICK, |most| most.min(MOST_QUICK)));
        }
        (Effort { time: given.compile_time, memory: given.compile_memory }, given)
    }

    /// Compiles code and links it. Where what was given is less than it may take, it has to wait for another turn after that.
    async fn compile(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        kind: EngineKind,
        code: &ComponentFile,
        given: &Limits,
        turn: Slot,
        is_less: bool,
    ) -> Result<Made, StageExit> {
        let Some(compilers) = self.compilers(code) else {
            let found = self.compile_here(machine, code, turn).await?;
            return link(found, code.shape, machine).map(Made::Entry);
        };
        match compilers.compile(kind, code, given).await {
            Ok(bytes) => {
                let load = |sandbox: &Self, code: &ComponentFile, machine: &Machine| {
                    let found = sandbox.keep_and_load(code, machine, bytes)?;
                    link(found, code.shape, machine).map(Made::Entry)
                };
                self.on_a_thread(code, machine, turn, load).await
            }
            Err(StageExit::Limit { which: LimitKind::CompileTime, .. }) if is_less => {
                Ok(Made::Known { is_quick: false })
            }
            Err(exit) => Err(exit),
        }
    }

    /// Does what takes a while where it holds up nobody.
    async fn on_a_thread<T: Send + 'static>(
        self: &Arc<Self>,
        code: &ComponentFile,
        machine: &Arc<Machine>,
        turn: Slot,
        work: impl FnOnce(&Self, &ComponentFile, &Machine) -> Result<T, StageExit> + Send + 'static,
    ) -> Result<T, StageExit> {
        let (sandbox, code, machine) = (self.clone(), code.clone(), machine.clone());
        let working = tokio::task::spawn_blocking(move || {
            // Over when this is, whether or not anybody waits for it.
            let _turn = turn;
            work(&sandbox, &code, &machine)
        });
        let lost = |error| StageExit::HostError { message: format!("the sandbox failed: {error}"), path: None };
        working.await.map_err(lost)?
    }

    async fn compile_here(&self, machine: &Machine, code: &ComponentFile, turn: Slot) -> Result<Code, StageExit> {
        let is_module = code.shape == Shape::ModuleP1;
        let (engine, keep) = (machine.engine.clone(), self.artifacts.is_some());
        let compiling = compile_here::compile(engine, code.bytes.clone(), is_module, keep, turn, !code.is_ours);
        let (found, bytes) = compiling.await.map_err(|uncompiled| match uncompiled {
            Uncompiled::Invalid(message) => StageExit::StartFailed { message, missing: false, path: None },
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

    /// Code that is on disk.
    fn find(&self, code: &ComponentFile, machine: &Machine) -> Option<Code> {
        self.artifacts.as_ref()?.find(&machine.engine, &code.digest, code.shape == Shape::ModuleP1)
    }

    fn keep_and_load(&self, code: &ComponentFile, machine: &Machine, bytes: Vec<u8>) -> Result<Code, StageExit> {
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
