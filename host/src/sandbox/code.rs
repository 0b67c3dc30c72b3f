//! What a component is before it runs: what its file says, what it weighs, how it is compiled and what is kept of that.

pub(super) mod artifact;
pub(super) mod compile;
pub(super) mod compile_here;
pub(super) mod file;
pub(super) mod inspect;
pub(super) mod kept;
pub(super) mod not_a_stage;
pub(super) mod offers;
pub(super) mod proposals;
pub(super) mod weigh;
pub(super) mod work;
