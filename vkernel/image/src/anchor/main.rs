//! The program of a container's anchor while the container runs: a process that sleeps, passes signals on and ends as
//! the container does.
//!
//! The anchor begins as a clone of the runtime, which takes megabytes. All that it has left to do fits into a few
//! pages, so it executes this. Built as the vkernel image is; see `main.rs` there about the feature.
#![cfg_attr(feature = "freestanding", no_std, no_main)]

#[cfg(feature = "freestanding")]
#[path = "../memory.rs"]
mod memory;
#[cfg(feature = "freestanding")]
mod stay;

#[cfg(not(feature = "freestanding"))]
fn main() {}
