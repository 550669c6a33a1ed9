//! The trace ring of a process: the last calls, for `pegasus trace`.
//!
//! A host tool sets `traced` in the counter shards; while it is set, the gate sends every call of their threads
//! the slow way. Entries are sealed last, so a reader sees which are torn.
#![allow(unsafe_code)]

use crate::entry::Call;
use core::sync::atomic::Ordering;
use pegasus_contract::record::TRACE_LEN;

fn cycles() -> u64 {
    // SAFETY: RDTSC reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// When the call began, if calls are being traced.
pub fn begin(call: &Call) -> Option<u64> {
    // SAFETY: set at creation to a shard of the process's record, which outlives the thread.
    let shard = unsafe { &*call.thread.area.shard.get() };
    (shard.traced.load(Ordering::Relaxed) != 0).then(cycles)
}

/// Records the call.
pub fn end(call: &Call, started: Option<u64>, result: usize) {
    let Some(started) = started else { return };
    let record = call.thread.process().record();
    let number = record.trace_head.fetch_add(1, Ordering::Relaxed);
    let entry = &record.trace[number as usize % TRACE_LEN];
    entry.seal.store(0, Ordering::Release);
    entry.nr.store(call.nr as u64, Ordering::Relaxed);
    for (slot, arg) in entry.args.iter().zip(call.args) {
        slot.store(arg as u64, Ordering::Relaxed);
    }
    entry.result.store(result as u64, Ordering::Relaxed);
    entry
        .cycles
        .store(cycles().wrapping_sub(started), Ordering::Relaxed);
    entry.tid.store(call.thread.tid() as u32, Ordering::Relaxed);
    entry
        .path
        .store(call.thread.area.path.get(), Ordering::Relaxed);
    entry.seal.store(number + 1, Ordering::Release);
}
