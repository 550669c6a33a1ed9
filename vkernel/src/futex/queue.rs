//! Who waits, in order of arrival.
//!
//! A queue is a list through the waiters themselves, which lie in their threads: nothing is allocated to wait.
#![allow(unsafe_code)]

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Where a waiter stands.
mod state {
    /// In a queue, or in none.
    pub const AWAKE: u32 = 0;
    /// In a queue, and asleep in Linux on this very word.
    pub const ASLEEP: u32 = 1;
    /// Taken out of its queue by a wake-up.
    pub const WOKEN: u32 = 2;
    /// Taken out of its queue because Linux has taken over; see [`super::super::Table::retire`].
    pub const SENT_AWAY: u32 = 3;
}

/// How a waiter came out of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Woken,
    /// It is to wait in Linux instead.
    SentAway,
}

/// What is waited for: an address of the container's, and the reasons that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub address: usize,
    pub bitset: u32,
}

/// A thread's place in a queue; it has one.
pub struct Waiter {
    state: AtomicU32,
    /// Number of the bucket whose queue it is in. Changed under the locks of both the old one and the new one.
    bucket: AtomicUsize,
    key: Cell<Key>,
    /// Address of the process that it belongs to.
    owner: Cell<usize>,
    next: Cell<Option<&'static Waiter>>,
    previous: Cell<Option<&'static Waiter>>,
}

// SAFETY: a waiter in a queue is used under the lock of the queue's bucket, but for `state` and `bucket`, which are atomics; one
// in no queue is used by its thread alone. Taking it out is published by the store to `state`, the last use by whoever has.
unsafe impl Sync for Waiter {}

impl Waiter {
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(state::AWAKE),
            bucket: AtomicUsize::new(0),
            key: Cell::new(Key {
                address: 0,
                bitset: 0,
            }),
            owner: Cell::new(0),
            next: Cell::new(None),
            previous: Cell::new(None),
        }
    }

    /// For its thread, before it is put into a queue.
    pub fn prepare(&self, key: Key, owner: usize) {
        self.state.store(state::AWAKE, Ordering::Relaxed);
        self.key.set(key);
        self.owner.set(owner);
    }

    /// The word to sleep on, and what it holds while its thread may. `None`: released.
    pub fn fall_asleep(&self) -> Option<(&AtomicU32, u32)> {
        let _ = self.state.compare_exchange(
            state::AWAKE,
            state::ASLEEP,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        self.released()
            .is_none()
            .then_some((&self.state, state::ASLEEP))
    }

    pub fn released(&self) -> Option<Release> {
        match self.state.load(Ordering::Acquire) {
            state::WOKEN => Some(Release::Woken),
            state::SENT_AWAY => Some(Release::SentAway),
            _ => None,
        }
    }

    /// For whoever has taken it out of its queue: from here on it is its thread's alone. Gives the address of the word to wake if
    /// the thread sleeps.
    pub fn release(&self, how: Release) -> Option<usize> {
        let state = match how {
            Release::Woken => state::WOKEN,
            Release::SentAway => state::SENT_AWAY,
        };
        let word = self.state.as_ptr() as usize;
        (self.state.swap(state, Ordering::AcqRel) == state::ASLEEP).then_some(word)
    }

    pub fn bucket(&self) -> usize {
        self.bucket.load(Ordering::Acquire)
    }

    pub fn set_bucket(&self, bucket: usize) {
        self.bucket.store(bucket, Ordering::Release);
    }

    pub fn set_address(&self, address: usize) {
        self.key.set(Key {
            address,
            ..self.key.get()
        });
    }

    /// Whether a wake-up for `key` is for this one.
    pub fn heeds(&self, key: Key) -> bool {
        let own = self.key.get();
        own.address == key.address && own.bitset & key.bitset != 0
    }

    pub fn is_of(&self, owner: usize) -> bool {
        self.owner.get() == owner
    }
}

/// The waiters of a bucket, those for different addresses among each other.
pub struct Queue {
    first: Option<&'static Waiter>,
    last: Option<&'static Waiter>,
}

impl Queue {
    pub const fn new() -> Self {
        Self {
            first: None,
            last: None,
        }
    }

    pub fn push(&mut self, waiter: &'static Waiter) {
        waiter.next.set(None);
        waiter.previous.set(self.last);
        match self.last {
            Some(last) => last.next.set(Some(waiter)),
            None => self.first = Some(waiter),
        }
        self.last = Some(waiter);
    }

    /// Takes out a waiter that is in this queue.
    pub fn remove(&mut self, waiter: &'static Waiter) {
        let (previous, next) = (waiter.previous.take(), waiter.next.take());
        match previous {
            Some(previous) => previous.next.set(next),
            None => self.first = next,
        }
        match next {
            Some(next) => next.previous.set(previous),
            None => self.last = previous,
        }
    }

    /// All waiters, first come first. The one given last may be taken out.
    pub fn iter(&self) -> impl Iterator<Item = &'static Waiter> + use<> {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let waiter = next?;
            next = waiter.next.get();
            Some(waiter)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Queue, Release, Waiter};
    use alloc::boxed::Box;
    use alloc::vec::Vec;

    fn waiter(address: usize, bitset: u32) -> &'static Waiter {
        let waiter = Box::leak(Box::new(Waiter::new()));
        waiter.prepare(Key { address, bitset }, 1);
        waiter
    }

    fn order(queue: &Queue, known: &[&'static Waiter]) -> Vec<usize> {
        let place =
            |waiter: &'static Waiter| known.iter().position(|one| core::ptr::eq(*one, waiter));
        queue.iter().filter_map(place).collect()
    }

    #[test]
    fn a_queue_keeps_the_order_of_arrival_whoever_leaves() {
        let known: Vec<_> = (0..5).map(|at| waiter(4 * at, !0)).collect();
        let mut queue = Queue::new();
        known.iter().for_each(|one| queue.push(one));
        queue.remove(known[2]);
        assert_eq!(order(&queue, &known), [0, 1, 3, 4]);
        queue.remove(known[0]);
        queue.remove(known[4]);
        assert_eq!(order(&queue, &known), [1, 3]);
        queue.push(known[0]);
        assert_eq!(order(&queue, &known), [1, 3, 0]);
        for one in queue.iter() {
            queue.remove(one);
        }
        assert_eq!(order(&queue, &known), [0; 0]);
        queue.push(known[4]);
        assert_eq!(order(&queue, &known), [4]);
    }

    #[test]
    fn a_waiter_heeds_its_address_and_any_of_its_reasons() {
        let one = waiter(64, 0b110);
        let is_heeded = |address, bitset| one.heeds(Key { address, bitset });
        assert!(is_heeded(64, 0b010) && is_heeded(64, !0));
        assert!(!is_heeded(64, 0b001) && !is_heeded(68, !0));
        one.set_address(68);
        assert!(is_heeded(68, 0b100) && !is_heeded(64, !0));
    }

    #[test]
    fn only_who_sleeps_must_be_woken_by_linux() {
        let one = waiter(0, 1);
        assert_eq!(one.release(Release::Woken), None);
        assert_eq!(one.released(), Some(Release::Woken));
        assert!(one.fall_asleep().is_none());
        let other = waiter(0, 1);
        assert!(other.fall_asleep().is_some() && other.fall_asleep().is_some());
        assert!(other.release(Release::SentAway).is_some());
        assert_eq!(other.released(), Some(Release::SentAway));
    }
}
