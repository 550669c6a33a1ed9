//! Rings and locks that work across processes sharing the vkernel's heap.
//!
//! * [`Ring`]: bytes from one task to another that need not trust it. [`Claim`]: the right to be one of the two.
//! * [`Bell`]: how one of them wakes the other. [`Queue`]: what has become ready, for those who wait for many.
//! * [`Inbox`]: values for one task that may be asleep.
//! * [`Lock`]: for tasks that die together.
//!
//! One of the labelled unsafe rooms. Lock order is written in `docs/ARCHITECTURE.md`; no lock is
//! held across a call made on behalf of a container, nor when container code runs.
#![no_std]

#[cfg(not(loom))]
mod atomic;
/// Public for the models.
#[cfg(loom)]
pub mod atomic;
mod bell;
mod claim;
mod inbox;
mod lock;
mod queue;
mod ring;

pub use bell::{Bell, Kicks, Wanted};
pub use claim::Claim;
pub use inbox::Inbox;
pub use lock::{Lock, LockGuard};
pub use queue::{Link, Queue, Taken};
pub use ring::{Corrupt, Ring, Stores, Stretch};
