//! Everything the vkernel asks of Linux, as raw system calls.
//!
//! No libc, no errno, no thread-local storage: the vkernel runs with the FS base of a container's
//! thread. `sys_*` is what the vkernel serves to containers; `host::*` is what it asks of Linux for itself.
//! Calls made on behalf of a container, which a signal must be able to interrupt, do not go through
//! here but through the gate (`pegasus-arch`).
//!
//! One of the labelled unsafe rooms. A function here is safe to call when no argument can make the
//! kernel write to, unmap or reprotect memory that Rust code relies on.
#![no_std]

pub mod file;
pub mod futex;
pub mod memory;
pub mod process;
pub mod raw;
pub mod schedule;
pub mod signal;
pub mod socket;

pub use pegasus_abi::{Errno, Result};
