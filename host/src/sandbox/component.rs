//! Loading: bytes to compiled code that can be instantiated, once per digest.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::{Module, component::Component};
use wasmtime_wasi::{p2, p3};

use super::{
    engine::{EngineKind, Machine, Sandbox},
    inspect::Shape,
    store::Guest,
};

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

impl Sandbox {
    /// The digest of a `.wasm` file.
    pub(crate) fn digest(bytes: &[u8]) -> Digest {
        Sha256::digest(bytes).into()
    }

    /// Compiles and links a component, or finds it compiled. A second caller waits for the first.
    ///
    /// # Errors
    ///
    /// Why the code is refused: invalid, or an import that this host does not have.
    ///
    /// # Cancel safety
    ///
    /// Compilation goes on in its thread; its result is dropped.
    pub(crate) async fn load(
        self: &Arc<Self>,
        kind: EngineKind,
        digest: Digest,
        shape: Shape,
        bytes: bytes::Bytes,
    ) -> Result<Loaded, String> {
        let machine = self.machine(kind).map_err(|error| error.to_string())?;
        let cell = machine.cell(digest);
        let entry = cell.get_or_try_init(|| async {
            let (sandbox, machine) = (self.clone(), machine.clone());
            let compile = tokio::task::spawn_blocking(move || {
                let compilers = &sandbox.compilers;
                compilers.install(|| machine.compile(shape, &bytes))
            });
            compile.await.map_err(|error| format!("the compiler failed: {error}"))?
        });
        let entry = entry.await?.clone();
        Ok(Loaded { machine, entry })
    }
}

impl Machine {
    fn compile(&self, shape: Shape, bytes: &[u8]) -> Result<Entry, String> {
        let refused = |error: wasmtime::Error| named_import(&readable(&error));
        match shape {
            Shape::ComponentP3 => {
                let component = Component::new(&self.engine, bytes).map_err(refused)?;
                let pre = self.components.instantiate_pre(&component).map_err(refused)?;
                p3::bindings::CommandPre::new(pre).map(Entry::P3).map_err(refused)
            }
            Shape::ComponentP2 => {
                let component = Component::new(&self.engine, bytes).map_err(refused)?;
                let pre = self.components.instantiate_pre(&component).map_err(refused)?;
                p2::bindings::CommandPre::new(pre).map(Entry::P2).map_err(refused)
            }
            Shape::ModuleP1 => {
                let module = Module::new(&self.engine, bytes).map_err(refused)?;
                self.modules.instantiate_pre(&module).map(Entry::P1).map_err(refused)
            }
        }
    }
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
