//! The right to be a ring's producer or consumer, for tasks that do not die together.
//!
//! Two processes may have the same end of a connection (after fork(2)). Unlike [`Lock`](crate::Lock), a claim names its
//! holder, so that it can be taken over when the holder has been killed: what it guards (one side of a
//! [`Ring`](crate::Ring)) is right at every instruction.

use crate::atomic::{AtomicU32, Ordering, constructor, spin_loop, yield_now};

const FREE: u32 = 0;
const SPINS_MAX: u32 = if cfg!(loom) { 1 } else { 200 };
/// Every so many yields the holder is asked for.
const YIELDS_BEFORE_LOOK: u32 = if cfg!(loom) { 1 } else { 64 };

/// Names its holder, a number that is not 0.
#[derive(Debug)]
#[repr(transparent)]
pub struct Claim(AtomicU32);

impl Claim {
    constructor! {
        pub fn new() -> Self {
            Self(AtomicU32::new(FREE))
        }
    }

    /// Takes the claim for `holder`, at once or not at all.
    pub fn try_take(&self, holder: u32) -> bool {
        self.0
            .compare_exchange(FREE, holder, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes the claim for `holder`, when its present holder gives it back or `is_gone`.
    ///
    /// What `is_gone` learns of a holder's end must come after all that it wrote (the kernel's word does). It is also asked
    /// about a dead holder of the caller's own number. A number must not be given to another task between `is_gone`'s
    /// answer and the end of the call: then the claim would be taken from that one.
    pub fn take(&self, holder: u32, is_gone: impl Fn(u32) -> bool) {
        let mut yields = 0;
        while !self.try_take(holder) {
            for _ in 0..SPINS_MAX {
                if self.0.load(Ordering::Relaxed) == FREE {
                    break;
                }
                spin_loop();
            }
            let present = self.0.load(Ordering::Relaxed);
            if present == FREE {
                continue;
            }
            yields += 1;
            let may_be_stuck = yields % YIELDS_BEFORE_LOOK == 0;
            if may_be_stuck && is_gone(present) && self.take_over(present, holder) {
                return;
            }
            yield_now();
        }
    }

    /// [`Claim::take`] that does not wait: gives whether the claim was free, or its holder gone.
    pub fn try_take_over(&self, holder: u32, is_gone: impl Fn(u32) -> bool) -> bool {
        if self.try_take(holder) {
            return true;
        }
        let present = self.0.load(Ordering::Relaxed);
        present != FREE && is_gone(present) && self.take_over(present, holder)
    }

    fn take_over(&self, from: u32, holder: u32) -> bool {
        self.0
            .compare_exchange(from, holder, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives the claim back.
    pub fn give_back(&self) {
        self.0.store(FREE, Ordering::Release);
    }

    /// Whether somebody holds it.
    pub fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire) != FREE
    }
}

impl Default for Claim {
    fn default() -> Self {
        Self::new()
    }
}
