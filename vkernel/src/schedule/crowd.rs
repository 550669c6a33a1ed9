//! Whether there are more busy threads than CPUs.
//!
//! A thread that waits leaves its mark at the CPU that it waits on. One that finds the fresh mark of another there, before it
//! looks or after, has company: the two have that CPU in turns, by Linux's switches. Where every thread has a CPU for itself, each finds
//! its own marks. Nothing is counted, so a killed thread leaves nothing to be put right: its mark grows old.
//!
//! Marks are hints: they are stored and read without order, by threads that may have left the CPU meanwhile, and what they are worth is
//! decided by many of them.

use crate::task::header;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use pegasus_arch::area::cycles;
use pegasus_arch::switch::current_cpu;
use pegasus_contract::schedule::WorkerRecord;

/// A mark is fresh for so long, in units of [`TICK_BITS`]: some 100 µs.
const FRESH_TICKS: u64 = 256;
/// A unit of a mark's time is 1024 cycles.
const TICK_BITS: u32 = 10;
/// The low bits of a mark say whose it is.
const OWNER_BITS: u32 = 16;

const COMPANY: u32 = 16;
const CROWD_MAX: u32 = 256;
/// Two meetings within a few waits, or one in sixteen for long.
const CROWD_ENOUGH: u32 = 32;

/// How much company a thread has had.
pub struct Crowd(Cell<u32>);

impl Crowd {
    pub const fn new() -> Self {
        Self(Cell::new(0))
    }

    pub fn is_enough(&self) -> bool {
        self.0.get() >= CROWD_ENOUGH
    }

    /// Another thread has been met where this one waits, or none.
    pub fn note(&self, has_company: bool) {
        let crowd = self.0.get();
        self.0.set(if has_company {
            (crowd + COMPANY).min(CROWD_MAX)
        } else {
            crowd.saturating_sub(1)
        });
    }

    /// There is nothing to do where the others are.
    pub fn halve(&self) {
        self.0.set(self.0.get() / 2);
    }
}

/// Leaves the mark of `owner` at the present CPU. Tells whether another's was there, and fresh.
pub fn meet(owner: usize) -> bool {
    let Some(record) = header().schedule.workers.get(current_cpu()) else {
        return false;
    };
    let mark = mark(owner, cycles());
    let before = record.mark.load(Ordering::Relaxed);
    record.mark.store(mark, Ordering::Relaxed);
    is_company(before, mark)
}

/// Leaves the mark of a worker at its CPU: threads at home there have company.
pub fn leave_mark(record: &WorkerRecord, owner: usize, now: u64) {
    record.mark.store(mark(owner, now), Ordering::Relaxed);
}

fn mark(owner: usize, now: u64) -> u64 {
    // Threads begin on pages, at multiples of what they take.
    let owner = (owner >> 12) ^ (owner >> 21) ^ (owner >> 36);
    now >> TICK_BITS << OWNER_BITS | (owner as u64 & ((1 << OWNER_BITS) - 1))
}

fn is_company(before: u64, mark: u64) -> bool {
    let is_other = (before ^ mark) & ((1 << OWNER_BITS) - 1) != 0;
    let age = (mark >> OWNER_BITS).wrapping_sub(before >> OWNER_BITS);
    is_other && age < FRESH_TICKS
}

#[cfg(test)]
mod tests {
    use super::{Crowd, FRESH_TICKS, TICK_BITS, is_company, mark};

    const ONE: usize = 0x7000_0000_0000;
    const OTHER: usize = 0x7000_0000_3000;

    #[test]
    fn company_is_a_fresh_mark_of_another() {
        let now = 1 << 40;
        assert!(is_company(mark(OTHER, now), mark(ONE, now)));
        assert!(!is_company(mark(ONE, now), mark(ONE, now)));
        let later = now + (FRESH_TICKS << TICK_BITS);
        assert!(!is_company(mark(OTHER, now), mark(ONE, later)));
        assert!(is_company(mark(OTHER, now), mark(ONE, later - 1024)));
        assert!(!is_company(0, mark(ONE, now)));
    }

    #[test]
    fn seldom_company_is_no_crowd() {
        let crowd = Crowd::new();
        (0..1000).for_each(|wait| crowd.note(wait % 40 == 0));
        assert!(!crowd.is_enough());
        (0..1000).for_each(|wait| crowd.note(wait % 8 == 0));
        assert!(crowd.is_enough());
        (0..300).for_each(|_| crowd.note(false));
        assert!(!crowd.is_enough());
    }
}
