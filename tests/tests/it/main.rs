//! Integration tests: the binary, run as its users run it. By theme, one file each.

mod cli;
mod endings;
mod files;
mod generations;
mod house;
mod limits;
mod messages;
mod sdk;
mod signals;
mod stock;
