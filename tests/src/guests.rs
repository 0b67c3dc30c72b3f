//! Guests: components built by `scripts/build-guests.sh tests`, and modules written as text.

use std::{fs, path::PathBuf};

use wit_component::ComponentEncoder;

use crate::{Place, binary, repository};

/// The path of a guest that the script built.
pub fn built(name: &str) -> PathBuf {
    // The script writes beside the profile's directory, in the same target directory.
    let target = binary().parent().and_then(|profile| profile.parent()).map(|target| target.join("guests"));
    let path = target.expect("the binary lies in the target directory").join(name);
    assert!(path.exists(), "{} is missing; run scripts/build-guests.sh tests", path.display());
    path
}

/// The SDK's probe, built for `wasm32-wasip2`, as text for a shorthand.
pub fn probe() -> String {
    built("probe.wasm").display().to_string()
}

/// The SDK's probe, built for `wasm32-unknown-unknown` and made a component here.
pub fn probe_unknown(place: &Place) -> PathBuf {
    let module = fs::read(built("probe-unknown.core.wasm")).expect("the script built it");
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(&module).expect("a module with its world inside");
    let component = encoder.encode().expect("a component");
    place.write("probe-unknown.wasm", component)
}

/// A preview1 module written as text: the body of `_start`, over a memory of one page and the imports named below.
pub fn preview1(place: &Place, name: &str, body: &str) -> PathBuf {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (table 1 100000000 funcref)
            (func (export "_start") {body}))"#
    );
    place.write(name, wat::parse_str(text).expect("the text is right"))
}

/// A module or component written as text.
pub fn text(place: &Place, name: &str, text: &str) -> PathBuf {
    place.write(name, wat::parse_str(text).expect("the text is right"))
}

/// A stock stage's source directory, for the test of the manifest.
pub fn stock_directory() -> PathBuf {
    repository().join("stages")
}
