//! Integration tests: the binary, run as its users run it. By theme, one file each.
#![expect(clippy::unwrap_used, reason = "a test's helpers are part of the test")]

mod bounds;
mod bytes;
mod cli;
mod commands;
mod compiling;
mod counted;
mod endings;
mod files;
mod findings;
mod generations;
mod grants;
mod guard;
mod house;
mod imports;
mod left;
mod limits;
mod messages;
mod nested;
mod network;
mod paths;
mod pressure;
mod proposals;
mod races;
mod repeatable;
mod sdk;
mod signals;
mod stock;
mod surroundings;
mod terminal;
mod traps;
mod trust;
mod walls;
mod weights;
mod words;
