//! The atomics of this crate: the CPU's, or those of the model checker (`--cfg loom`).

#[cfg(not(loom))]
pub use core::hint::spin_loop;
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub use loom::thread::{yield_now, yield_now as spin_loop};

/// Lets another task run.
#[cfg(not(loom))]
pub fn yield_now() {
    pegasus_host::process::yield_now();
}
