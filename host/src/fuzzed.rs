//! The root of a crate that holds what is fuzzed with coverage: the parsers, without the sandbox, which would take minutes to
//! build with the fuzzer's flags. It lies here because it takes its modules from here; the host's own crate does not know it.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, reason = "a part of the host, without the rest")]

pub mod digest;
pub mod shown;
pub mod spec;

pub mod sandbox {
    pub mod code {
        pub mod inspect;
        pub mod not_a_stage;
        pub mod offers;
        pub mod proposals;
        pub mod weigh;
    }
    pub mod lines;
}

mod api {
    pub(crate) use crate::{
        sandbox::code::inspect::inspect,
        spec::{parse, shorthand},
    };
}
#[path = "../fuzz/targets.rs"]
mod targets;

/// A pipeline file, or a pipeline in shorthand.
pub fn pipeline_file(text: &[u8]) {
    targets::pipeline_file(text);
}

/// A component: what looks at it before anything is compiled, and what reads its debug information.
pub fn component(bytes: &[u8]) {
    targets::component(bytes);
    // Whether it is refused does not matter; that it is decided does.
    let _ = sandbox::code::weigh::weigh(bytes);
    sandbox::lines::look_everywhere(bytes);
}
