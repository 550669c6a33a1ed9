//! When a wait is over.
//!
//! Most waits are short, and asking Linux for the time costs as much as they do. So a deadline remembers the time-stamp counter, and
//! Linux's clock is read when the wait comes to a sleep, or to its end.

use crate::task::header;
use core::sync::atomic::Ordering;
use pegasus_abi::poll::Timespec;
use pegasus_arch::area::cycles;

const NS_PER_SEC: u64 = 1_000_000_000;

/// A point in time, or none.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(When);

#[derive(Debug, Clone, Copy)]
enum When {
    Never,
    /// At so many nanoseconds of CLOCK_MONOTONIC.
    At(u64),
    /// So many nanoseconds after the time-stamp counter was at `since`.
    After {
        since: u64,
        ns: u64,
    },
}

impl Deadline {
    pub const NEVER: Deadline = Deadline(When::Never);

    /// In `ns` nanoseconds.
    pub fn after(ns: u64) -> Deadline {
        Deadline(When::After {
            since: cycles(),
            ns,
        })
    }

    /// At `ns` of CLOCK_MONOTONIC.
    pub const fn at(ns: u64) -> Deadline {
        Deadline(When::At(ns))
    }

    pub fn is_never(self) -> bool {
        matches!(self.0, When::Never)
    }

    /// Nanoseconds that are left.
    fn left_ns(self) -> Option<u64> {
        let at = match self.0 {
            When::Never => return None,
            When::At(at) => at,
            When::After { since, ns } => {
                let now = Now::read();
                let elapsed_ns = now.ns_of(elapsed(since, now.cycles));
                return Some(ns.saturating_sub(elapsed_ns));
            }
        };
        Some(at.saturating_sub(pegasus_host::process::monotonic_ns()))
    }

    /// Whether more than `ns` nanoseconds are left. Errs on the side of fewer: time-stamp counters run at 1 GHz or more.
    pub fn is_after(self, ns: u64) -> bool {
        match self.0 {
            When::Never => true,
            When::At(_) => self.left_ns().is_none_or(|left| left > ns),
            When::After {
                since,
                ns: total_ns,
            } => total_ns.saturating_sub(elapsed(since, cycles())) > ns,
        }
    }

    /// From now on only Linux's clock counts, which alone is right when the machine has been suspended.
    pub fn settle(&mut self) {
        if let (When::After { .. }, Some(left)) = (self.0, self.left_ns()) {
            self.0 = When::At(pegasus_host::process::monotonic_ns().saturating_add(left));
        }
    }

    pub fn is_over(self) -> bool {
        self.left_ns() == Some(0)
    }

    /// What is left, for Linux. `None`: no limit.
    pub fn left(self) -> Option<Timespec> {
        let ns = self.left_ns()?;
        Some(Timespec {
            sec: (ns / NS_PER_SEC) as i64,
            nsec: (ns % NS_PER_SEC) as i64,
        })
    }
}

/// Cycles from `since` to `now`; none if the counter of this CPU is a little behind.
fn elapsed(since: u64, now: u64) -> u64 {
    let cycles = now.wrapping_sub(since);
    if cycles as i64 > 0 { cycles } else { 0 }
}

/// Both clocks at one moment.
struct Now {
    cycles: u64,
    ns: u64,
}

impl Now {
    fn read() -> Now {
        Now {
            cycles: cycles(),
            ns: pegasus_host::process::monotonic_ns(),
        }
    }

    /// How long so many cycles take, by what both clocks have counted since the heap was made; 0 if that is too short to tell.
    fn ns_of(&self, count: u64) -> u64 {
        const NS_MIN: u64 = 100_000;
        let header = header();
        let since_cycles = header.clock_cycles.load(Ordering::Relaxed);
        let since_ns = header.clock_ns.load(Ordering::Relaxed);
        let ns = self.ns.saturating_sub(since_ns);
        let cycles = self.cycles.wrapping_sub(since_cycles);
        if ns < NS_MIN || cycles == 0 {
            return 0;
        }
        (u128::from(count) * u128::from(ns) / u128::from(cycles)) as u64
    }
}

/// How long so many cycles take, without asking Linux; 0 before [`learn_rate`].
pub fn ns_of_cycles(cycles: u64) -> u64 {
    let rate = header().clock_rate.load(Ordering::Relaxed);
    ((u128::from(cycles) * u128::from(rate)) >> 32) as u64
}

/// Learns the rate of the time-stamp counter by all that it has counted so far, once: sums of what it has measured must not shrink.
/// Tells whether it is known.
pub fn learn_rate() -> bool {
    let known = &header().clock_rate;
    if known.load(Ordering::Relaxed) != 0 {
        return true;
    }
    let rate = Now::read().ns_of(1 << 32);
    // Of several, one decides.
    let _ = known.compare_exchange(0, rate, Ordering::Relaxed, Ordering::Relaxed);
    known.load(Ordering::Relaxed) != 0
}

/// Notes where the clocks are. Called once, when the heap is made.
pub fn start_clocks() {
    let now = Now::read();
    header().clock_cycles.store(now.cycles, Ordering::Relaxed);
    header().clock_ns.store(now.ns, Ordering::Relaxed);
}
