//! Files by their names, and where they have to be.
//!
//! A name is looked at when a run is planned and opened when it runs; whoever can write to a directory on its way may put a link there
//! in between. So a file that has to be below a directory is opened below it, link by link or not at all: what it was found to be then
//! is its real path, and no link is on that. Nothing is looked at on the way that is outside: no answer tells what is there.

mod base;
mod file;
mod root;
mod walk;

pub(crate) use base::Base;
pub(crate) use file::Named;
pub(crate) use root::Root;

#[cfg(test)]
mod tests;
