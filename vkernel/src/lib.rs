//! The vkernel: a kernel in user space, inside the address space of the containers it serves.
//!
//! A call comes in at [`entry`], finds its row in [`syscall::table`], and is either forwarded to Linux, executed by
//! the calling task as it is, or served by one of the functions under [`syscall`]. Those use
//! [`task`] (processes and threads), [`mm`] (address spaces), [`signal`] and [`exec`] (loading programs).
//!
//! The crate is freestanding: no libc, no thread-local storage (the FS base is the container's), no mutable statics but one
//! (`pegasus_host::raw`).
//! All state lies in the shared heap ([`heap`]). `unsafe` is denied except in modules that say why.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod boot;
mod deadline;
pub mod entry;
mod epoll;
mod exec;
mod fault;
mod futex;
pub mod heap;
mod limits;
mod mm;
mod procfs;
mod rewrite;
mod schedule;
mod signal;
mod socket;
pub mod syscall;
mod task;
mod trace;
mod usermem;

pub use fault::die;
