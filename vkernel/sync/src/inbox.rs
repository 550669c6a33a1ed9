//! Values for one task, which sleeps while there are none.
//!
//! ```text
//! who has a value              whose inbox it is
//!   puts it into a free entry    asleep = 1, fence
//!   filled |= its bit, fence     filled is 0? sleep until asleep is 0
//!   asleep was 1? asleep = 0,
//!   wake
//! ```
//!
//! A task that is killed in between leaves an entry that nobody takes, or takes late: [`Inbox::withdraw`].

use crate::atomic::{AtomicU32, AtomicU64, Ordering, full_fence_after_rmw};
use core::ops::Range;

/// `LEN` is 32 at most. Zeroed memory is an empty one.
#[derive(Debug)]
#[repr(C)]
pub struct Inbox<const LEN: usize> {
    /// Futex of the owner: 1 while it sleeps, or is about to.
    asleep: AtomicU32,
    /// Which entries are filled.
    filled: AtomicU32,
    /// 0 for none.
    entries: [AtomicU64; LEN],
}

impl<const LEN: usize> Inbox<LEN> {
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            asleep: AtomicU32::new(0),
            filled: AtomicU32::new(0),
            entries: [const { AtomicU64::new(0) }; LEN],
        }
    }

    #[cfg(loom)]
    pub fn new() -> Self {
        Self {
            asleep: AtomicU32::new(0),
            filled: AtomicU32::new(0),
            entries: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Puts `value`, which is not 0, into a free entry, and wakes the owner. Tells whether there was one.
    pub fn offer(&self, value: u64, wake: impl FnOnce(&AtomicU32)) -> bool {
        let free = self.entries.iter().position(|entry| {
            entry
                .compare_exchange(0, value, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        });
        let Some(index) = free else { return false };
        self.filled.fetch_or(1 << index, Ordering::SeqCst);
        full_fence_after_rmw();
        let done = self
            .asleep
            .compare_exchange(1, 0, Ordering::SeqCst, Ordering::SeqCst);
        if done.is_ok() {
            wake(&self.asleep);
        }
        true
    }

    /// Whether there may be something to take. For the owner.
    pub fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Relaxed) != 0
    }

    /// Takes all there is. For the owner.
    pub fn take(&self, mut each: impl FnMut(u64)) {
        if !self.is_filled() {
            return;
        }
        let filled = self.filled.swap(0, Ordering::AcqRel);
        for index in (0..LEN).filter(|index| filled & 1 << index != 0) {
            match self.entries[index].swap(0, Ordering::AcqRel) {
                0 => {}
                value => each(value),
            }
        }
    }

    /// Sleeps until something has been put in. `sleep` returns when the word is no longer 1, or sooner. For the owner.
    pub fn wait(&self, mut sleep: impl FnMut(&AtomicU32)) {
        self.asleep.swap(1, Ordering::SeqCst);
        full_fence_after_rmw();
        if self.filled.load(Ordering::SeqCst) != 0 {
            self.asleep.store(0, Ordering::SeqCst);
            return;
        }
        while self.asleep.load(Ordering::SeqCst) == 1 {
            sleep(&self.asleep);
        }
    }

    /// Whether the owner sleeps.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst) == 1
    }

    /// Takes values out again whose owners are gone, as far as they have not been taken.
    pub fn withdraw(&self, gone: &[Range<u64>]) {
        for entry in &self.entries {
            let value = entry.load(Ordering::Acquire);
            if gone.iter().any(|range| range.contains(&value)) {
                let _ = entry.compare_exchange(value, 0, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }
}

impl<const LEN: usize> Default for Inbox<LEN> {
    fn default() -> Self {
        Self::new()
    }
}
