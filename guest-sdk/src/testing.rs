//! For native tests of a stage: what the host would give it.
//!
//! ```
//! use stagehost_guest::{ExitCode, testing};
//!
//! testing::set_args(["-n", "3"]);
//! assert_eq!(stagehost_guest::args(), ["-n", "3"]);
//! testing::set_env([("LANG", "C")]);
//! assert_eq!(stagehost_guest::env_var("LANG").as_deref(), Some("C"));
//! assert_eq!(testing::exits(|| stagehost_guest::exit(3)), Err(ExitCode(3)));
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::{ExitCode, process::native};

/// Gives this thread's test the arguments that [`args`](crate::args) returns. Default: none.
pub fn set_args<A: Into<String>>(args: impl IntoIterator<Item = A>) {
    native::set_arguments(args.into_iter().map(Into::into).collect());
}

/// Gives this thread's test the variables that [`env`](crate::env) returns. Default: none.
pub fn set_env<K: Into<String>, V: Into<String>>(env: impl IntoIterator<Item = (K, V)>) {
    native::set_environment(env.into_iter().map(|(key, value)| (key.into(), value.into())).collect());
}

/// Runs something that may [`exit`](crate::exit).
///
/// # Errors
///
/// The code that it exited with. A panic of another kind goes on.
pub fn exits<T>(run: impl FnOnce() -> T) -> Result<T, ExitCode> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| match panic.downcast::<ExitCode>() {
        Ok(code) => *code,
        Err(panic) => resume_unwind(panic),
    })
}
