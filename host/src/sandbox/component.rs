//! Loading: bytes to compiled code that can be instantiated, once per digest.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::{Module, component::Component};
use wasmtime_wasi::{p2, p3};

use super::{
    artifact::{self, Code},
    engine::{EngineKind, Machine, Sandbox, SandboxError},
    inspect::{NotAStage, Shape},
    limits::Limits,
    proposals::validate,
    store::Guest,
};
use crate::outcome::StageExit;

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
    ) -> Result<Loaded, StageExit> {
        let failed = |error: SandboxError| StageExit::HostError { message: error.to_string(), path: None };
        let machine = self.machine(kind).map_err(failed)?;
        let cell = machine.cell(code.digest);
        let entry = cell.get_or_try_init(|| self.enter(machine.clone(), kind, code, limits)).await?.clone();
        Ok(Loaded { machine, entry })
    }

    /// Finds code on disk or compiles it, and links it.
    async fn enter(
        self: &Arc<Self>,
        machine: Arc<Machine>,
        kind: EngineKind,
        code: &Source,
        limits: &Limits,
    ) -> Result<Entry, StageExit> {
        // Refused in our words, and without compiling, where there is nothing compiled.
        if !code.is_ours && !self.has(&machine, code) {
            let bytes = code.bytes.clone();
            let validating = tokio::task::spawn_blocking(move || validate(&bytes));
            let lost = |error| StageExit::HostError { message: format!("the validator failed: {error}"), path: None };
            let refused = |NotAStage { message, .. }| StageExit::StartFailed { message, missing: false };
            validating.await.map_err(lost)?.map_err(refused)?;
        }
        let compiled = match &self.compilers {
            Some(compilers) if !code.is_ours && !self.has(&machine, code) => {
                Some(compilers.compile(kind, code.shape, &code.bytes, limits).await?)
            }
            _ => None,
        };
        let (sandbox, code) = (self.clone(), code.clone());
        let linking = tokio::task::spawn_blocking(move || sandbox.link(&machine, &code, compiled));
        let lost = |error| StageExit::HostError { message: format!("the compiler failed: {error}"), path: None };
        let refused = |message| StageExit::StartFailed { message, missing: false };
        linking.await.map_err(lost)?.map_err(refused)
    }

    fn has(&self, machine: &Machine, code: &Source) -> bool {
        let is_module = code.shape == Shape::ModuleP1;
        self.artifacts
            .as_ref()
            .is_some_and(|artifacts| artifacts.find(&machine.engine, &code.digest, is_module).is_some())
    }

    /// Links code that is compiled already, is on disk, or is compiled here.
    fn link(&self, machine: &Machine, code: &Source, compiled: Option<Vec<u8>>) -> Result<Entry, String> {
        let refused = |error: wasmtime::Error| named_import(&readable(&error));
        let is_module = code.shape == Shape::ModuleP1;
        let engine = &machine.engine;
        let on_disk = || self.artifacts.as_ref().and_then(|artifacts| artifacts.find(engine, &code.digest, is_module));
        let keep = |bytes: wasmtime::Result<Vec<u8>>| {
            if let (Some(artifacts), Ok(bytes)) = (&self.artifacts, bytes) {
                artifacts.keep(engine, &code.digest, &bytes);
            }
        };
        let found = match compiled {
            Some(bytes) => {
                let found = artifact::load(engine, &bytes, is_module).map_err(refused)?;
                keep(Ok(bytes));
                found
            }
            None => match on_disk() {
                Some(found) => found,
                None => self.threads()?.install(|| -> Result<Code, String> {
                    if is_module {
                        let module = Module::new(engine, &code.bytes).map_err(refused)?;
                        keep(module.serialize());
                        return Ok(Code::Module(module));
                    }
                    let component = Component::new(engine, &code.bytes).map_err(refused)?;
                    keep(component.serialize());
                    Ok(Code::Component(component))
                })?,
            },
        };
        match found {
            Code::Module(module) => machine.modules.instantiate_pre(&module).map(Entry::P1).map_err(refused),
            Code::Component(component) => {
                let pre = machine.components.instantiate_pre(&component).map_err(refused)?;
                match code.shape {
                    Shape::ComponentP3 => p3::bindings::CommandPre::new(pre).map(Entry::P3).map_err(refused),
                    Shape::ComponentP2 | Shape::ModuleP1 => {
                        p2::bindings::CommandPre::new(pre).map(Entry::P2).map_err(refused)
                    }
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
    let mut text = format!("{error:#}").replace('\n', " ");
    while let Some(double) = text.find("  ") {
        text.remove(double);
    }
    text
}
