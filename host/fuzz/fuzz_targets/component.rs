//! Fuzzes what looks at components before anything is compiled, and what reads their debug information.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| stagehost_fuzz::component(bytes));
