//! Whether there are more busy threads than CPUs.
//!
//! A thread that waits leaves its mark at the CPU that it waits on. One that finds the fresh mark of another there, before it
//! looks or after, and on every other CPU that it might use the mark of a third one, has company: more threads than CPUs wait for each other.
//! Two that have met on one CPU while another is idle have not: Linux will part them. Nothing is counted, so a killed thread leaves nothing to be put right: its mark grows old.
//!
//! Marks are hints: they are stored and read without order, by threads that may have left the CPU meanwhile, and what they are worth is
//! decided by many of them.

use crate::limits::CROWDS_GO_AWAY;
use crate::task::header;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use pegasus_arch::area::cycles;
use pegasus_arch::switch::current_cpu;
use pegasus_contract::schedule::{WORKERS_MAX, WorkerRecord};

/// A mark is fresh for so long, in units of [`TICK_BITS`]: some 100 µs.
const FRESH_TICKS: u64 = 256;
/// One on another CPU, whose thread may be computing meanwhile, is for so long: some 500 µs.
const FRESH_TICKS_ELSEWHERE: u64 = 1024;
/// A unit of a mark's time is 1024 cycles.
const TICK_BITS: u32 = 10;
/// The low bits of a mark say whose it is.
const OWNER_BITS: u32 = 16;

const COMPANY: u32 = 16;
const CROWD_MAX: u32 = 256;
/// Two meetings within a few waits, or one in sixteen for long.
const CROWD_ENOUGH: u32 = 32;

/// A thread that is alone on its worker for so many waits in a row has a CPU for itself: it is better off at home.
const ALONE_MAX: u32 = 256;

/// How much company a thread has had.
pub struct Crowd {
    company: Cell<u32>,
    /// Waits in a row that it has been alone on a worker for.
    alone: Cell<u32>,
}

impl Crowd {
    pub const fn new() -> Self {
        Self {
            company: Cell::new(0),
            alone: Cell::new(0),
        }
    }

    pub fn is_enough(&self) -> bool {
        self.company.get() >= CROWD_ENOUGH
    }

    /// A wait on a worker is over, which has other threads or none. Tells whether there have been none for long: then there is no crowd.
    pub fn note_on_worker(&self, is_alone: bool) -> bool {
        let alone = if is_alone { self.alone.get() + 1 } else { 0 };
        let is_over = alone >= ALONE_MAX;
        self.alone.set(if is_over { 0 } else { alone });
        if is_over {
            self.forget();
        }
        is_over
    }

    pub fn forget(&self) {
        self.company.set(0);
    }

    /// Another thread has been met where this one waits, or none.
    pub fn note(&self, has_company: bool) {
        let company = self.company.get();
        self.company.set(if has_company {
            (company + COMPANY).min(CROWD_MAX)
        } else {
            company.saturating_sub(1)
        });
    }

    /// There is nothing to do where the others are.
    pub fn halve(&self) {
        self.company.set(self.company.get() / 2);
    }
}

/// Which CPUs a thread may use: bit by bit.
pub type Cpus = [u64; 4];

fn has_cpu(cpus: &Cpus, cpu: usize) -> bool {
    cpus[cpu / 64] & 1 << (cpu % 64) != 0
}

/// The CPUs in `cpus` that can have workers.
pub fn each_of(cpus: Cpus) -> impl Iterator<Item = usize> {
    (0..WORKERS_MAX.min(64 * cpus.len())).filter(move |&cpu| has_cpu(&cpus, cpu))
}

/// Leaves the mark of `owner` at the present CPU. Tells whether others are at work there and everywhere else; `cpus` is asked for what
/// else there is.
pub fn meet(owner: usize, cpus: impl FnOnce() -> Cpus) -> bool {
    if !CROWDS_GO_AWAY {
        return false;
    }
    let here = current_cpu();
    let Some(record) = header().schedule.workers.get(here) else {
        return false;
    };
    let mark = mark(owner, cycles());
    let before = record.mark.load(Ordering::Relaxed);
    record.mark.store(mark, Ordering::Relaxed);
    is_company(before, mark, FRESH_TICKS) && is_everywhere(cpus(), here, before, mark)
}

/// Whether every CPU but `here` has a fresh mark of neither of two.
fn is_everywhere(cpus: Cpus, here: usize, one: u64, other: u64) -> bool {
    each_of(cpus).filter(|&cpu| cpu != here).all(|cpu| {
        let there = header().schedule.workers[cpu].mark.load(Ordering::Relaxed);
        let is_third = is_company(there, other, FRESH_TICKS_ELSEWHERE);
        is_third && !is_same_owner(there, one)
    })
}

/// Whether a thread on the worker of CPU `here` could have another CPU for itself: nobody waits there, as far as the vkernel knows.
pub fn is_another_free(cpus: Cpus, here: usize) -> bool {
    let now = mark(0, cycles());
    each_of(cpus).filter(|&cpu| cpu != here).any(|cpu| {
        let there = header().schedule.workers[cpu].mark.load(Ordering::Relaxed);
        age(there, now) >= FRESH_TICKS_ELSEWHERE
    })
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

fn is_same_owner(one: u64, other: u64) -> bool {
    (one ^ other) & ((1 << OWNER_BITS) - 1) == 0
}

/// How many ticks `before` is older than `mark`; none if it is younger, by a CPU whose counter is a little ahead.
fn age(before: u64, mark: u64) -> u64 {
    (mark >> OWNER_BITS).saturating_sub(before >> OWNER_BITS)
}

fn is_company(before: u64, mark: u64, fresh_ticks: u64) -> bool {
    !is_same_owner(before, mark) && age(before, mark) < fresh_ticks
}

#[cfg(test)]
mod tests {
    use super::{ALONE_MAX, Crowd, FRESH_TICKS, TICK_BITS, each_of, is_company, mark};

    const ONE: usize = 0x7000_0000_0000;
    const OTHER: usize = 0x7000_0000_3000;

    #[test]
    fn company_is_a_fresh_mark_of_another() {
        let now = 1 << 40;
        let is_met = |before, mark| is_company(before, mark, FRESH_TICKS);
        assert!(is_met(mark(OTHER, now), mark(ONE, now)));
        assert!(!is_met(mark(ONE, now), mark(ONE, now)));
        let later = now + (FRESH_TICKS << TICK_BITS);
        assert!(!is_met(mark(OTHER, now), mark(ONE, later)));
        assert!(is_met(mark(OTHER, now), mark(ONE, later - 1024)));
        assert!(is_met(mark(OTHER, later), mark(ONE, now)));
        assert!(!is_met(0, mark(ONE, now)));
    }

    #[test]
    fn cpus_are_bits() {
        let cpus = [1 << 1 | 1 << 63, 1 << 0, 0, 0];
        assert!(each_of(cpus).eq([1, 63, 64]));
    }

    #[test]
    fn alone_on_a_worker_is_no_crowd() {
        let crowd = Crowd::new();
        (0..100).for_each(|_| crowd.note(true));
        assert!((1..ALONE_MAX).all(|_| !crowd.note_on_worker(true)));
        assert!(!crowd.note_on_worker(false) && crowd.is_enough());
        assert!((1..ALONE_MAX).all(|_| !crowd.note_on_worker(true)));
        assert!(crowd.note_on_worker(true) && !crowd.is_enough());
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
