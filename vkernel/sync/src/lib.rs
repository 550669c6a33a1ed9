//! Locks that work across processes sharing the vkernel's heap.
//!
//! One of the labelled unsafe rooms. Lock order is written in `docs/ARCHITECTURE.md`; no lock is
//! held across a call made on behalf of a container, nor when container code runs.
#![no_std]

mod lock;

pub use lock::{Lock, LockGuard};
