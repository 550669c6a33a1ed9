//! The vkernel as a freestanding program: entry point, panic handler and global allocator.
#![cfg_attr(feature = "freestanding", no_std, no_main)]

#[cfg(not(feature = "freestanding"))]
fn main() {}
