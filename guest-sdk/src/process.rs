//! What a stage is given besides its streams, and how it ends itself: the host's, or in a native test what the test says.

#[cfg(not(target_family = "wasm"))]
pub(crate) use native::{arguments, environment, exit_with_code, seed};

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::wasi::cli::{
    environment::{get_arguments as arguments, get_environment as environment},
    exit::exit_with_code,
};
#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::wasi::random::insecure_seed::get_insecure_seed as seed;

/// Natively there is no host. A test says what it would have said.
#[cfg(not(target_family = "wasm"))]
pub(crate) mod native {
    use std::{
        cell::RefCell,
        hash::{BuildHasher, RandomState},
    };

    use crate::ExitCode;

    thread_local! {
        static ARGUMENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
        static ENVIRONMENT: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn arguments() -> Vec<String> {
        std::iter::once("stage".to_owned()).chain(ARGUMENTS.with_borrow(Clone::clone)).collect()
    }

    pub(crate) fn environment() -> Vec<(String, String)> {
        ENVIRONMENT.with_borrow(Clone::clone)
    }

    pub(crate) fn seed() -> (u64, u64) {
        let random = || RandomState::new().hash_one(0);
        (random(), random())
    }

    /// Unwinds with the code, which [`testing::exits`](crate::testing::exits) catches.
    pub(crate) fn exit_with_code(code: u8) {
        std::panic::panic_any(ExitCode(code));
    }

    pub(crate) fn set_arguments(arguments: Vec<String>) {
        ARGUMENTS.set(arguments);
    }

    pub(crate) fn set_environment(environment: Vec<(String, String)>) {
        ENVIRONMENT.set(environment);
    }
}
