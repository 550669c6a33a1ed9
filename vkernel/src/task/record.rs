//! Process records: claiming them, and finding those whose process has gone.
//!
//! A record stands for an arena. Most processes give theirs back themselves (`syscall::task::exit_group`), or their
//! parent does; of those that are killed the kernel is asked, a few at each claim. When all are taken, a process can do
//! without: see [`private_record`].

use crate::heap::Arena;
use crate::socket::descriptors::Table;
use crate::task::header;
use core::sync::atomic::Ordering;
use pegasus_abi::Errno;
use pegasus_contract::layout::PROCESSES_MAX;
use pegasus_contract::record::{ProcessRecord, ProcessState};

/// The index of all records that are not in the header.
pub const PRIVATE: u32 = PROCESSES_MAX as u32;

/// No process's.
pub const NO_NAMESPACE: u32 = 0;

/// A record in `arena`, for a process that found none in the header: no host tool sees it. `None` if the arena is full.
pub fn private_record(arena: &'static Arena, container: u32) -> Option<&'static ProcessRecord> {
    let record = arena.place_record()?;
    reset(record, container);
    Some(record)
}

/// A number for a pid namespace that has just been entered.
pub fn new_namespace() -> u32 {
    header().namespaces.fetch_add(1, Ordering::Relaxed) + 1
}

/// Claims a free record, for a process in `namespace`. `None`: all are taken.
pub fn claim_record(container: u32, namespace: u32) -> Option<u32> {
    const LOOKS: usize = 4;
    reclaim_dead(container, namespace, LOOKS);
    claim_free(container).or_else(|| {
        reclaim_dead(container, namespace, PROCESSES_MAX);
        claim_free(container)
    })
}

fn claim_free(container: u32) -> Option<u32> {
    let records = &header().processes;
    let index = records
        .iter()
        .position(|record| change(record, ProcessState::Free, ProcessState::Claimed))?;
    reset(&records[index], container);
    // What a process held that was killed.
    Table::of_record(index as u32).abandon();
    Some(index as u32)
}

/// Changes the state of a record, if it is still `from`.
pub fn change(record: &ProcessRecord, from: ProcessState, to: ProcessState) -> bool {
    record
        .state
        .compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// Gives a record, and with it the arena, back.
pub fn free_record(index: u32) {
    if let Some(record) = header().processes.get(index as usize) {
        record
            .state
            .store(ProcessState::Free as u32, Ordering::Release);
    }
}

/// Whether the process of record `index` has gone, as far as the caller can see.
pub fn is_gone(index: u32) -> bool {
    let Some(record) = header().processes.get(index as usize) else {
        return false;
    };
    let state = record.state.load(Ordering::Acquire);
    if state == ProcessState::Free as u32 || state == ProcessState::Native as u32 {
        return true;
    }
    let process = crate::task::Process::current();
    let pid = record.pid.load(Ordering::Relaxed);
    pid > 0
        && record.container.load(Ordering::Relaxed) == process.container
        && record.namespace.load(Ordering::Relaxed) == process.namespace()
        && (pegasus_host::signal::kill(pid, 0) == Err(Errno::ESRCH)
            || pegasus_host::process::is_dead_child(pid))
}

fn reset(record: &ProcessRecord, container: u32) {
    record.container.store(container, Ordering::Relaxed);
    record.pid.store(0, Ordering::Relaxed);
    record.threads.store(0, Ordering::Relaxed);
    record.slot.store(u32::MAX, Ordering::Relaxed);
    record.namespace.store(0, Ordering::Relaxed);
    record.inner_namespace.store(0, Ordering::Relaxed);
    record.lender.store(0, Ordering::Relaxed);
    record.lent.store(0, Ordering::Relaxed);
    record.is_gone.store(0, Ordering::Relaxed);
    record.sites_rewritten.store(0, Ordering::Relaxed);
    record.sites_refused.store(0, Ordering::Relaxed);
    for shard in &record.counters {
        for counter in [
            &shard.rewritten,
            &shard.trapped,
            &shard.served,
            &shard.signals,
            &shard.traced,
            &shard.switches,
            &shard.trips_home,
            &shard.forwarded,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        // Only shards that were used hold anything; reading untouched pages would allocate them.
        if shard
            .calls
            .iter()
            .step_by(64)
            .any(|count| count.load(Ordering::Relaxed) != 0)
        {
            shard
                .calls
                .iter()
                .for_each(|count| count.store(0, Ordering::Relaxed));
        }
    }
}

/// Frees records of this container whose process has gone, among the next `looks`. Only of the caller's own pid namespace:
/// in another one the same number is another process, or none.
fn reclaim_dead(container: u32, namespace: u32, looks: usize) {
    let records = &header().processes;
    let start = header()
        .sweep_cursor
        .fetch_add(looks as u32, Ordering::Relaxed) as usize;
    for step in 0..looks {
        let index = (start + step) % PROCESSES_MAX;
        let record = &records[index];
        let Some(state) = settled(record) else {
            continue;
        };
        let pid = record.pid.load(Ordering::Relaxed);
        let ours = pid > 0
            && record.container.load(Ordering::Relaxed) == container
            && record.namespace.load(Ordering::Relaxed) == namespace;
        if ours
            && pegasus_host::signal::kill(pid, 0) == Err(Errno::ESRCH)
            && !lends_memory(index as u32)
        {
            let inner = record.inner_namespace.load(Ordering::Relaxed);
            if change(record, state, ProcessState::Free) && inner != 0 {
                free_namespace(inner);
            }
        }
    }
}

/// The state of a record whose process the kernel may be asked about: a `Claimed` one is still its creator's.
fn settled(record: &ProcessRecord) -> Option<ProcessState> {
    let state = record.state.load(Ordering::Acquire);
    [ProcessState::Satellite, ProcessState::Native]
        .into_iter()
        .find(|settled| *settled as u32 == state)
}

/// Whether a child that outlives the process of record `index` still lives in its arena.
fn lends_memory(index: u32) -> bool {
    let has_lent = header().processes[index as usize]
        .lent
        .load(Ordering::Relaxed)
        != 0;
    has_lent
        && header().processes.iter().any(|record| {
            record.lender.load(Ordering::Relaxed) == index + 1
                && record.state.load(Ordering::Acquire) != ProcessState::Free as u32
        })
}

/// Frees all records of a pid namespace whose first process has gone: the kernel has killed whatever was in it.
fn free_namespace(namespace: u32) {
    for record in &header().processes {
        if record.namespace.load(Ordering::Relaxed) == namespace
            && let Some(state) = settled(record)
        {
            let inner = record.inner_namespace.load(Ordering::Relaxed);
            if change(record, state, ProcessState::Free) && inner != 0 {
                free_namespace(inner);
            }
        }
    }
}
