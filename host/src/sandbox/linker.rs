//! The functions that guests find: the stock ones, and ours in the place of some.

use wasmtime::{Engine, component::Linker};

use super::{
    calls::{clock, files, listing, lists, net, paths, preview1, streams},
    guest::Guest,
};

/// What components find.
pub(super) fn components(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut components = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut components)?;
    wasmtime_wasi::p3::add_to_linker(&mut components)?;
    components.allow_shadowing(true);
    clock::add_to_linker(&mut components)?;
    net::add_to_linker(&mut components)?;
    files::add_to_linker(&mut components)?;
    paths::add_to_linker(&mut components)?;
    lists::add_to_linker(&mut components)?;
    listing::add_to_linker(&mut components)?;
    streams::add_to_linker(&mut components)?;
    Ok(components)
}

/// What modules find.
pub(super) fn modules(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<Guest>> {
    let mut modules = wasmtime::Linker::new(engine);
    preview1::add_to_linker(&mut modules)?;
    Ok(modules)
}
