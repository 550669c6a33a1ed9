//! Workers: tasks of a shared instance that run threads of its containers in turns.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use pegasus_sync::Inbox;

/// Workers there can be: one for each of the first so many CPUs.
pub const WORKERS_MAX: usize = 256;
/// Threads that can wait to be taken over by a worker.
pub const INBOX_LEN: usize = 32;

#[repr(C)]
pub struct ScheduleRecord {
    /// Non-zero: there is a monitor, which makes workers when they are wanted.
    pub has_monitor: AtomicU32,
    /// Futex of the monitor: incremented when a worker is wanted, or is to look at the thread that it runs.
    pub doorbell: AtomicU32,
    /// Non-zero: the CPU has protection keys, whose rights belong to each thread.
    pub has_pkru: AtomicU32,
    pub _pad0: AtomicU32,
    pub _pad: [AtomicU64; 6],
    /// By CPU.
    pub workers: [WorkerRecord; WORKERS_MAX],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum WorkerState {
    /// There is none, and nobody has asked for one.
    Absent = 0,
    /// The monitor is asked to make one.
    Wanted = 1,
    /// It cannot be made.
    Impossible = 2,
    Ready = 3,
}

#[repr(C, align(64))]
pub struct WorkerRecord {
    /// See [`WorkerState`].
    pub state: AtomicU32,
    /// In the instance's pid namespace.
    pub tid: AtomicI32,
    /// Non-zero: the monitor is asked to interrupt it.
    pub attention: AtomicU32,
    /// Non-zero: whoever reclaims memory waits for it. No thread has the whole of its turn then.
    pub hurry: AtomicU32,
    /// The thread that has last waited on this CPU, and when.
    pub mark: AtomicU64,
    /// How many threads it runs.
    pub load: AtomicU32,
    /// Non-zero while its task lives: Linux clears it, however that ends.
    pub alive: AtomicU32,
    /// Incremented each time that all threads here have had a turn.
    pub rounds: AtomicU64,
    /// Addresses of threads of the vkernel that wait to be taken over.
    pub inbox: Inbox<INBOX_LEN>,
}

impl WorkerRecord {
    /// Whether there is a worker that runs threads, and that has not been killed.
    pub fn is_at_work(&self) -> bool {
        self.state.load(Ordering::Acquire) == WorkerState::Ready as u32
            && self.alive.load(Ordering::Acquire) != 0
    }
}
