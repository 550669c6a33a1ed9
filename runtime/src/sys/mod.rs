//! The only part of this program with `unsafe` code: calls that have no safe wrapper.
//!
//! Each function takes typed arguments, checks what it can, and turns the result into `Errno`.

#![allow(unsafe_code)]

pub mod anchor;
pub mod clock;
pub mod file;
pub mod futex;
pub mod keyring;
pub mod memory;
pub mod name_service;
pub mod pidfd;
pub mod plain;
pub mod process;
pub mod seccomp;
pub mod shared_vkernel;
pub mod signals;
pub mod socket;
pub mod terminal;
pub mod vkernel;
