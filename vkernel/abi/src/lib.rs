//! The Linux ABI of x86-64 as types and constants: numbers, errors, structures a system call takes.
//!
//! Nothing here acts. Names are Linux's, so that a man page is the documentation of each item.
#![no_std]
#![forbid(unsafe_code)]

pub mod clone;
pub mod errno;
pub mod fcntl;
pub mod futex;
pub mod mman;
pub mod nr;
pub mod poll;
pub mod prctl;
pub mod signal;
pub mod socket;

pub use errno::{Errno, Result};
