//! The vkernel as a freestanding program: entry point, panic handler, global allocator and the memory functions
//! that the compiler expects of a C library.
//!
//! Linked at its fixed address by `runtime/build.rs`, which sets the `freestanding` feature; without it this
//! package is empty, so that ordinary builds of the workspace need no special link arguments.
#![cfg_attr(feature = "freestanding", no_std, no_main)]

#[cfg(feature = "freestanding")]
mod freestanding;
#[cfg(feature = "freestanding")]
mod memory;

#[cfg(not(feature = "freestanding"))]
fn main() {}
