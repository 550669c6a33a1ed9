//! Rings and locks that work across processes sharing the vkernel's heap.
//!
//! * [`Ring`]: bytes from one task to another that need not trust it. [`Claim`]: the right to be one of the two.
//! * [`Lock`]: for tasks that die together.
//!
//! One of the labelled unsafe rooms. Lock order is written in `docs/ARCHITECTURE.md`; no lock is
//! held across a call made on behalf of a container, nor when container code runs.
#![no_std]

mod atomic;
mod claim;
mod lock;
mod ring;

pub use claim::Claim;
pub use lock::{Lock, LockGuard};
pub use ring::{Corrupt, Ring, Stores, Stretch};
