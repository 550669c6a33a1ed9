//! CPU time that threads use on workers. Linux charges it to the worker; programs that ask for theirs are to find it all the same.
//!
//! It is measured by the time-stamp counter, from one switch to the next, and only for processes that have asked: reading the counter
//! costs a fifth of a switch. So time that went by on workers before the first question is missing. While somebody else has the
//! worker's CPU, the counter goes on: then this is more than what was used.

use crate::deadline;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use pegasus_arch::area::cycles;

/// A process's.
#[derive(Debug)]
pub struct WorkerTime {
    is_asked_for: AtomicBool,
    /// That of all its threads, those that are gone as well.
    ns: AtomicU64,
}

impl WorkerTime {
    pub const fn new() -> Self {
        Self {
            is_asked_for: AtomicBool::new(false),
            ns: AtomicU64::new(0),
        }
    }

    /// From now on it is measured.
    pub fn ask(&self) {
        if !self.is_asked_for() && deadline::learn_rate() {
            self.is_asked_for.store(true, Ordering::Relaxed);
        }
    }

    pub fn is_asked_for(&self) -> bool {
        self.is_asked_for.load(Ordering::Relaxed)
    }

    pub fn ns(&self) -> u64 {
        self.ns.load(Ordering::Relaxed)
    }
}

/// A thread's.
#[derive(Debug)]
pub struct Turns {
    /// All of its turns that are over.
    ns: Cell<u64>,
    /// Time-stamp counter at the beginning of the present one; 0: there is none, or it is not measured.
    since: Cell<u64>,
    /// What the home task had used when it fell asleep, which it still is: it has used no more since. `None` if nobody had asked.
    home_ns: Cell<Option<u64>>,
}

impl Turns {
    pub const fn new() -> Self {
        Self {
            ns: Cell::new(0),
            since: Cell::new(0),
            home_ns: Cell::new(None),
        }
    }

    /// The home task is about to fall asleep.
    pub fn leave_home(&self, of_process: &WorkerTime) {
        let home_ns = of_process
            .is_asked_for()
            .then(pegasus_host::process::task_cpu_ns);
        self.home_ns.set(home_ns);
    }

    /// A worker runs the thread from here on.
    pub fn begin(&self, of_process: &WorkerTime) {
        if of_process.is_asked_for() {
            self.since.set(cycles());
        }
    }

    /// Up to here.
    pub fn end(&self, of_process: &WorkerTime) {
        let since = self.since.replace(0);
        if since != 0 {
            let ns = elapsed_ns(since);
            self.ns.set(self.ns.get() + ns);
            of_process.ns.fetch_add(ns, Ordering::Relaxed);
        }
    }

    /// Nanoseconds on workers.
    pub fn ns(&self) -> u64 {
        match self.since.get() {
            0 => self.ns.get(),
            since => self.ns.get() + elapsed_ns(since),
        }
    }

    /// All that a thread has used that a worker is running. `None`: only its home task can say.
    pub fn total_ns(&self) -> Option<u64> {
        self.home_ns.get().map(|home_ns| home_ns + self.ns())
    }
}

fn elapsed_ns(since: u64) -> u64 {
    // The counters of two CPUs may differ by a little.
    let elapsed = cycles().wrapping_sub(since) as i64;
    deadline::ns_of_cycles(elapsed.max(0) as u64)
}
