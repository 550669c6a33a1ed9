//! How long a thread looks at a word before it goes to sleep.
//!
//! Looking answers in a tenth of a microsecond; a sleep and its wake-up take tens. But who looks keeps a CPU from others. So a
//! thread looks for about as long as its last waits have taken, if that is short, and hardly at all if it is long.

use crate::task::Thread;
use core::cell::Cell;
use pegasus_arch::area::cycles;

/// The longest look, in cycles of the time-stamp counter: 25 to 50 µs, what a sleep costs.
const LOOK_CYCLES_MAX: u64 = 100_000;
const LOOK_CYCLES_USUAL: u64 = 8_000;
const LOOK_CYCLES_MIN: u64 = 500;
/// Every so many waits a thread looks for the longest time whatever it has learnt: of two that sleep, each finds the other
/// slow for ever.
const WAITS_PER_TRIAL: u32 = 32;
/// How often a thread that has one CPU lets others run before it sleeps.
const YIELDS_MAX: u32 = 4;
/// How many waits a thread trusts what it knows of its CPUs.
const WAITS_PER_LOOK_AT_CPUS: u32 = 4096;
/// Cycles between two reads of the word. Each read takes it away from the CPU of whoever is about to change it, and perhaps to
/// change it again: a mutex whose owner is disturbed all the time is freed late.
const CYCLES_PER_READ: u64 = 400;

/// What a thread has learnt about its waits.
pub struct Patience {
    look_cycles: Cell<u64>,
    waits: Cell<u32>,
    has_one_cpu: Cell<bool>,
}

impl Patience {
    pub const fn new() -> Self {
        Self {
            look_cycles: Cell::new(LOOK_CYCLES_MAX),
            waits: Cell::new(0),
            has_one_cpu: Cell::new(false),
        }
    }

    /// Looks until `is_over`, or something is pending, for as long as it seems worth while.
    pub fn look(&self, thread: &Thread, mut is_over: impl FnMut() -> bool) {
        let look_cycles = self.begin();
        let begin = cycles();
        let elapsed = || cycles().wrapping_sub(begin);
        if self.has_one_cpu.get() {
            // Nobody can answer while this thread runs. One that has learnt that others take the CPU for long sleeps: it is
            // woken in time, but not let run again in time.
            let yields = if look_cycles < LOOK_CYCLES_USUAL {
                0
            } else {
                YIELDS_MAX
            };
            for _ in 0..yields {
                pegasus_host::process::yield_now();
                if is_over() {
                    return self.learn(elapsed());
                }
                if thread.has_pending() {
                    return;
                }
            }
            return;
        }
        let mut next_read = CYCLES_PER_READ;
        loop {
            core::hint::spin_loop();
            let elapsed = elapsed();
            if elapsed < next_read {
                continue;
            }
            if is_over() {
                return self.learn(elapsed);
            }
            if thread.has_pending() || elapsed > look_cycles {
                return;
            }
            next_read = elapsed + CYCLES_PER_READ;
        }
    }

    fn begin(&self) -> u64 {
        let waits = self.waits.get();
        self.waits.set(waits.wrapping_add(1));
        if waits.is_multiple_of(WAITS_PER_LOOK_AT_CPUS) {
            let cpus = pegasus_host::process::usable_cpus();
            self.has_one_cpu.set(cpus == 1);
        }
        if waits.is_multiple_of(WAITS_PER_TRIAL) {
            LOOK_CYCLES_MAX
        } else {
            self.look_cycles.get()
        }
    }

    /// A wait is over after so long.
    pub fn learn(&self, waited_cycles: u64) {
        let cycles = if waited_cycles < LOOK_CYCLES_MAX {
            (4 * waited_cycles).clamp(LOOK_CYCLES_USUAL, LOOK_CYCLES_MAX)
        } else {
            (self.look_cycles.get() / 2).max(LOOK_CYCLES_MIN)
        };
        self.look_cycles.set(cycles);
    }
}

#[cfg(test)]
mod tests {
    use super::{LOOK_CYCLES_MAX, LOOK_CYCLES_MIN, LOOK_CYCLES_USUAL, Patience};

    #[test]
    fn long_waits_make_impatient_and_a_short_one_patient_again() {
        let patience = Patience::new();
        for _ in 0..20 {
            patience.learn(LOOK_CYCLES_MAX * 10);
        }
        assert_eq!(patience.look_cycles.get(), LOOK_CYCLES_MIN);
        patience.learn(1);
        assert_eq!(patience.look_cycles.get(), LOOK_CYCLES_USUAL);
        patience.learn(LOOK_CYCLES_USUAL);
        assert_eq!(patience.look_cycles.get(), 4 * LOOK_CYCLES_USUAL);
        patience.learn(LOOK_CYCLES_MAX - 1);
        assert_eq!(patience.look_cycles.get(), LOOK_CYCLES_MAX);
    }
}
