//! How long a thread looks at a word before it goes to sleep.
//!
//! Looking answers in a tenth of a microsecond; a sleep and its wake-up take tens. But who looks keeps a CPU from others. So a
//! thread looks for about as long as its last waits have taken, if that is short, and hardly at all if it is long. And of the threads
//! of a process always fewer look than there are CPUs: somebody must be left to answer.

use crate::deadline::Deadline;
use crate::schedule::away::{self, is_away};
use crate::task::Thread;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};
use pegasus_arch::area::cycles;

/// The longest look, in cycles of the time-stamp counter: 25 to 50 µs, what a sleep costs.
const LOOK_CYCLES_MAX: u64 = 100_000;
const LOOK_CYCLES_USUAL: u64 = 8_000;
const LOOK_CYCLES_MIN: u64 = 500;
/// Every so many waits a thread looks for the longest time whatever it has learnt: of two that sleep, each finds the other
/// slow for ever. Twice as many after each trial in vain: the other may need this very CPU.
const WAITS_PER_TRIAL_MIN: u32 = 32;
const WAITS_PER_TRIAL_MAX: u32 = 1024;
/// How often a thread that has one CPU lets others run before it sleeps.
const YIELDS_MAX: u32 = 4;
/// How many waits a thread trusts what it knows of its CPUs.
const WAITS_PER_LOOK_AT_CPUS: u32 = 4096;
/// Cycles between two reads of the word. Each read takes it away from the CPU of whoever is about to change it, and perhaps to
/// change it again: a mutex whose owner is disturbed all the time is freed late.
const CYCLES_PER_READ: u64 = 400;
/// How long a thread looks without asking how many others do.
const LOOK_CYCLES_FREE: u64 = 2_000;

/// What a thread has learnt about its waits.
pub struct Patience {
    look_cycles: Cell<u64>,
    waits: Cell<u32>,
    waits_per_trial: Cell<u32>,
    waits_until_trial: Cell<u32>,
    cpus: Cell<u32>,
}

/// One of those who look.
struct Looker<'a>(&'a AtomicU32);

impl<'a> Looker<'a> {
    /// `None`: there are `max` already.
    fn join(lookers: &'a AtomicU32, max: u32) -> Option<Self> {
        let looker = Looker(lookers);
        (lookers.fetch_add(1, Ordering::Relaxed) < max).then_some(looker)
    }
}

impl Drop for Looker<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Patience {
    pub const fn new() -> Self {
        Self {
            look_cycles: Cell::new(LOOK_CYCLES_MAX),
            waits: Cell::new(0),
            waits_per_trial: Cell::new(WAITS_PER_TRIAL_MIN),
            waits_until_trial: Cell::new(WAITS_PER_TRIAL_MIN),
            cpus: Cell::new(1),
        }
    }

    /// Looks until `is_over`, or something is pending, for as long as it seems worth while. `lookers` counts those who look.
    pub fn look(
        &self,
        thread: &'static Thread,
        deadline: Deadline,
        lookers: &AtomicU32,
        mut is_over: impl FnMut() -> bool,
    ) {
        if is_away(thread) {
            away::look(thread, deadline, is_over);
            return;
        }
        let look_cycles = self.begin();
        if self.cpus.get() <= 1 {
            if away::try_to_go(thread, deadline) {
                away::look(thread, deadline, is_over);
                return;
            }
            return self.let_others_run(thread, look_cycles, is_over);
        }
        if away::has_crowd(thread) && away::try_to_go(thread, deadline) {
            away::look(thread, deadline, is_over);
            return;
        }
        let mut looker = None;
        let begin = cycles();
        let mut next_read = CYCLES_PER_READ;
        loop {
            core::hint::spin_loop();
            let elapsed = cycles().wrapping_sub(begin);
            if elapsed < next_read {
                continue;
            }
            if is_over() {
                away::note_short_wait(thread);
                return self.succeed(elapsed);
            }
            if elapsed > look_cycles {
                return self.fail();
            }
            if thread.has_pending() {
                return;
            }
            if elapsed > LOOK_CYCLES_FREE && looker.is_none() {
                looker = Looker::join(lookers, self.cpus.get() - 1);
                if looker.is_none() {
                    return;
                }
            }
            next_read = elapsed + CYCLES_PER_READ;
        }
    }

    /// The same on a single CPU, where nobody can answer while this thread runs. One that has learnt that others take the CPU for
    /// long sleeps at once: Linux lets who has slept run again sooner than who has given way.
    fn let_others_run(&self, thread: &Thread, look_cycles: u64, mut is_over: impl FnMut() -> bool) {
        let begin = cycles();
        let yields = if look_cycles < LOOK_CYCLES_USUAL {
            0
        } else {
            YIELDS_MAX
        };
        for _ in 0..yields {
            pegasus_host::process::yield_now();
            if is_over() {
                away::note_short_wait(thread);
                return self.succeed(cycles().wrapping_sub(begin));
            }
            if thread.has_pending() {
                return;
            }
        }
        self.fail();
    }

    /// How long to look this time.
    fn begin(&self) -> u64 {
        let waits = self.waits.get();
        self.waits.set(waits.wrapping_add(1));
        if waits.is_multiple_of(WAITS_PER_LOOK_AT_CPUS) {
            self.cpus.set(pegasus_host::schedule::usable_cpus());
        }
        match self.waits_until_trial.get() {
            0 => {
                let more = (2 * self.waits_per_trial.get()).min(WAITS_PER_TRIAL_MAX);
                self.waits_until_trial
                    .set(self.waits_per_trial.replace(more));
                LOOK_CYCLES_MAX
            }
            left => {
                self.waits_until_trial.set(left - 1);
                self.look_cycles.get()
            }
        }
    }

    /// The answer has come after so long.
    fn succeed(&self, cycles: u64) {
        if cycles >= LOOK_CYCLES_MAX {
            // Somebody else had the CPU in between.
            return self.fail();
        }
        let enough = (4 * cycles).clamp(LOOK_CYCLES_USUAL, LOOK_CYCLES_MAX);
        self.look_cycles.set(enough);
        self.waits_per_trial.set(WAITS_PER_TRIAL_MIN);
    }

    /// Nobody has answered while the thread looked.
    fn fail(&self) {
        let less = (self.look_cycles.get() / 2).max(LOOK_CYCLES_MIN);
        self.look_cycles.set(less);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        LOOK_CYCLES_MAX, LOOK_CYCLES_MIN, LOOK_CYCLES_USUAL, Looker, Patience, WAITS_PER_TRIAL_MIN,
    };
    use core::sync::atomic::AtomicU32;

    /// A patience that does not ask Linux for its CPUs.
    fn patience() -> Patience {
        let patience = Patience::new();
        patience.waits.set(1);
        patience
    }

    #[test]
    fn looks_in_vain_make_impatient_and_an_answer_patient_again() {
        let patience = patience();
        (0..20).for_each(|_| patience.fail());
        assert_eq!(patience.look_cycles.get(), LOOK_CYCLES_MIN);
        patience.succeed(LOOK_CYCLES_MAX);
        assert_eq!(patience.look_cycles.get(), LOOK_CYCLES_MIN);
        patience.succeed(1);
        assert_eq!(patience.look_cycles.get(), LOOK_CYCLES_USUAL);
        patience.succeed(LOOK_CYCLES_USUAL);
        assert_eq!(patience.look_cycles.get(), 4 * LOOK_CYCLES_USUAL);
        patience.succeed(LOOK_CYCLES_MAX - 1);
        assert_eq!(patience.look_cycles.get(), LOOK_CYCLES_MAX);
    }

    #[test]
    fn trials_become_rare_until_one_succeeds() {
        let patience = patience();
        (0..20).for_each(|_| patience.fail());
        let waits_until_trial = || (0..).find(|_| patience.begin() == LOOK_CYCLES_MAX);
        let first = Some(WAITS_PER_TRIAL_MIN);
        assert_eq!(waits_until_trial(), first);
        assert_eq!(waits_until_trial(), first);
        assert_eq!(waits_until_trial(), first.map(|waits| 2 * waits));
        patience.succeed(1);
        waits_until_trial();
        assert_eq!(waits_until_trial(), first);
    }

    #[test]
    fn only_so_many_look() {
        let lookers = AtomicU32::new(0);
        let one = Looker::join(&lookers, 1);
        assert!(one.is_some() && Looker::join(&lookers, 1).is_none());
        drop(one);
        assert!(Looker::join(&lookers, 1).is_some());
    }
}
