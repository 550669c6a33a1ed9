//! The atomics of this crate: the CPU's, or those of the model checker (`--cfg loom`).

#[cfg(not(loom))]
pub use core::hint::spin_loop;
#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::Ordering;
#[cfg(loom)]
pub use loom::thread::{yield_now, yield_now as spin_loop};
#[cfg(loom)]
pub use modelled::{AtomicU32, AtomicU64};

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

/// The model checker tries two orders of a store and a load only if nothing but the load was the last to touch the atomic: a load
/// by the storing task in between hides it. So each access here begins with one that is never hidden, and orders nothing.
#[cfg(loom)]
mod modelled {
    use loom::sync::atomic::{self, Ordering};

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub struct $name {
                value: atomic::$name,
                turn: atomic::AtomicU32,
            }

            #[allow(dead_code)]
            impl $name {
                pub fn new(value: $value) -> Self {
                    Self {
                        value: atomic::$name::new(value),
                        turn: atomic::AtomicU32::new(0),
                    }
                }

                fn in_turn(&self) -> &atomic::$name {
                    self.turn.fetch_add(1, Ordering::Relaxed);
                    &self.value
                }

                pub fn load(&self, order: Ordering) -> $value {
                    self.in_turn().load(order)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    self.in_turn().store(value, order);
                }

                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    self.in_turn().swap(value, order)
                }

                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    self.in_turn().fetch_add(value, order)
                }

                pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                    self.in_turn().fetch_sub(value, order)
                }

                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    self.in_turn().fetch_or(value, order)
                }

                pub fn compare_exchange(
                    &self,
                    current: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.in_turn()
                        .compare_exchange(current, new, success, failure)
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}
