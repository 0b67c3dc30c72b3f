//! The build script of stages that need little memory: a small stack, then data, then room for buffers. What never has to grow, and lies
//! within what a slot keeps of a memory, is made ready again without the kernel.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a build script is told and tells so")]

fn main() {
    println!("cargo:rerun-if-changed=../small_memory.rs");
    if std::env::var("CARGO_CFG_TARGET_FAMILY").is_ok_and(|family| family == "wasm") {
        println!("cargo:rustc-link-arg-cdylib=-zstack-size=32768");
        println!("cargo:rustc-link-arg-cdylib=--initial-memory=131072");
    }
}
