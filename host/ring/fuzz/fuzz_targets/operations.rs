//! Fuzzes sequences of ring operations against the model of the property tests.
#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

libfuzzer_sys::fuzz_target!(|operations: &[u8]| model::run(operations));
