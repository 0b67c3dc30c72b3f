//! How stages and runs end: exits, blame and exit codes.

mod blame;
mod exit;
mod report;

pub(crate) use blame::blame;
pub use exit::{ExitCode, InputPlace, LimitKind, Origin, StageExit, Tolerance, TrapKind};
pub(crate) use exit::{Matcher, Verdict, code_of};
pub use report::{JointReport, Outcome, RingReport, StageReport};
