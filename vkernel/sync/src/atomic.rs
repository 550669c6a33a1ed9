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

/// Adds to a counter, and is a full fence.
pub fn add_and_fence(counter: &AtomicU32, number: u32) {
    counter.fetch_add(number, Ordering::SeqCst);
    full_fence_after_rmw();
}

/// Makes the read-modify-write before it a full fence. On x86-64 it is one.
#[cfg(all(target_arch = "x86_64", not(loom)))]
pub fn full_fence_after_rmw() {
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// Makes the read-modify-write before it a full fence.
#[cfg(not(all(target_arch = "x86_64", not(loom))))]
pub fn full_fence_after_rmw() {
    #[cfg(not(loom))]
    core::sync::atomic::fence(Ordering::SeqCst);
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// `new`, constant but for the model checker, whose atomics cannot be.
macro_rules! constructor {
    ($(#[$attribute:meta])* pub fn new() -> Self $body:block) => {
        $(#[$attribute])*
        #[cfg(not(loom))]
        pub const fn new() -> Self $body

        $(#[$attribute])*
        #[cfg(loom)]
        pub fn new() -> Self $body
    };
}
pub(crate) use constructor;
