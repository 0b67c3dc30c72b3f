//! Fuzzes pipeline files and the shorthand.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| stagehost_fuzz::pipeline_file(text));
