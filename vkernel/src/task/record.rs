//! Process records: claiming them, and finding those whose process has gone.
//!
//! A record stands for an arena, and for the sockets and sets in its descriptor table. Most processes give theirs back
//! themselves (`syscall::task::exit_group`). Those of a killed one are given back by whoever learns of it: its parent when it waits
//! for it, the peer that closes a connection whose other end was killed, the instance when the container ends; and of some
//! the kernel is asked at each claim. When all are taken, a process can do without: see [`private_record`].

use crate::heap::Arena;
use crate::socket::descriptors::{Others, Table};
use crate::task::{Process, Thread, header};
use core::sync::atomic::Ordering;
use pegasus_abi::Errno;
use pegasus_contract::layout::PROCESSES_MAX;
use pegasus_contract::record::{ProcessRecord, ProcessState};

/// The index of all records that are not in the header.
pub const PRIVATE: u32 = PROCESSES_MAX as u32;

/// By which name the instance itself takes claims, when a container has ended.
pub const INSTANCE: u32 = PRIVATE + 2;

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
    // A process that ended with threads in calls has left what those used.
    abandon_as(index as u32, index as u32 + 1);
    reset(&records[index], container);
    let high = &header().processes_high;
    high.fetch_max(index as u32 + 1, Ordering::AcqRel);
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

/// Whether the instance has seen the end of the container that record `index` is of.
pub fn is_evicted(index: u32) -> bool {
    let record = header().processes.get(index as usize);
    record.is_some_and(|record| {
        record.state.load(Ordering::Acquire) == ProcessState::Free as u32
            || record.is_gone.load(Ordering::Acquire) != 0
    })
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
    let process = Process::current();
    let pid = record.pid.load(Ordering::Relaxed);
    pid > 0
        && record.container.load(Ordering::Relaxed) == process.container
        && record.namespace.load(Ordering::Relaxed) == process.namespace()
        && (pegasus_host::signal::kill(pid, 0) == Err(Errno::ESRCH)
            || !process.has_filter() && pegasus_host::process::has_ended(pid))
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
    record.undertaker.give_back();
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
    if namespace == NO_NAMESPACE {
        return;
    }
    let len = (header().processes_high.load(Ordering::Acquire) as usize).min(PROCESSES_MAX);
    let looks = looks.min(len);
    let start = header()
        .sweep_cursor
        .fetch_add(looks as u32, Ordering::Relaxed) as usize;
    let asker = Asker {
        container,
        namespace,
        holder: Thread::current().claimant(),
        takes_descriptors: Process::current().has_had_one_thread(),
    };
    for step in 0..looks {
        asker.reclaim(((start + step) % len) as u32);
    }
}

/// A descriptor that the caller has closed was connected with a process of its container that must have been killed: gives
/// back what the dead ones had.
pub fn look_for_dead() {
    /// A dying process closes its sockets some time before it can be seen to be gone.
    const LOOKS: u32 = 16;
    if !reclaim_all_dead() {
        header().looks_for_dead.store(LOOKS, Ordering::Relaxed);
    }
}

/// [`look_for_dead`] once more, if that is wanted.
pub fn look_for_dead_again() {
    let left = &header().looks_for_dead;
    let now = left.load(Ordering::Relaxed);
    if now != 0 {
        let after = if reclaim_all_dead() { 0 } else { now - 1 };
        left.store(after, Ordering::Relaxed);
    }
}

/// Whether there were any.
fn reclaim_all_dead() -> bool {
    let Some(asker) = Asker::current() else {
        return false;
    };
    let asker = Asker {
        takes_descriptors: true,
        ..asker
    };
    let len = header().processes_high.load(Ordering::Acquire);
    let all = 0..len.min(PROCESSES_MAX as u32);
    all.filter(|&index| asker.reclaim(index)).count() > 0
}

/// The calling process has waited for its child `pid`, which is no more.
pub fn bury_child(pid: i32) {
    let Some(asker) = Asker::current() else {
        return;
    };
    let len = header().processes_high.load(Ordering::Acquire) as usize;
    let records = header().processes.iter().take(len);
    let found = records
        .enumerate()
        .filter(|(_, record)| record.pid.load(Ordering::Relaxed) == pid);
    for (index, _) in found {
        asker.reclaim(index as u32);
    }
}

/// Who may free which records.
struct Asker {
    container: u32,
    namespace: u32,
    /// By which name it takes claims.
    holder: u32,
    /// To find out whether a process has ended that others have to wait for. Other threads could see the descriptor.
    takes_descriptors: bool,
}

impl Asker {
    /// `None` for a process that may not make calls as it likes.
    fn current() -> Option<Asker> {
        let process = Process::current();
        let asker = Asker {
            container: process.container,
            namespace: process.namespace(),
            holder: Thread::current().claimant(),
            takes_descriptors: process.has_had_one_thread(),
        };
        (!process.has_filter() && !process.is_borrower()).then_some(asker)
    }

    /// The pid and state of a record that is this one's to free, once its process has gone.
    fn look(&self, record: &ProcessRecord) -> Option<(i32, ProcessState)> {
        let state = settled(record)?;
        let pid = record.pid.load(Ordering::Relaxed);
        let is_ours = pid > 0
            && record.container.load(Ordering::Relaxed) == self.container
            && record.namespace.load(Ordering::Relaxed) == self.namespace;
        is_ours.then_some((pid, state))
    }

    /// Frees record `index` if its process has gone, and what was its.
    ///
    /// Several may come here for the same one. From its process's end on, only the holder of `undertaker` takes the record out
    /// of its state; and no new process has the same pid so soon. So what has been seen to be gone is gone still when
    /// the same is seen with the claim. Whoever is killed on the way leaves a claim that the next one takes over, and a
    /// table that is emptied to the end then; at worst one entry, which it had just taken out, is lost.
    fn reclaim(&self, index: u32) -> bool {
        let record = &header().processes[index as usize];
        let Some(seen) = self.look(record) else {
            return false;
        };
        if index + 1 == self.holder || !self.has_ended(seen.0) || lends_memory(index) {
            return false;
        }
        // Not waited for: whoever is at it does it as well, and a holder whose record another process has got since would never
        // be seen to be gone.
        let is_mine = record
            .undertaker
            .try_take_over(self.holder, crate::socket::lifecycle::claimant_is_gone);
        if !is_mine {
            return false;
        }
        let is_still = self.look(record) == Some(seen);
        if is_still {
            let inner = record.inner_namespace.load(Ordering::Relaxed);
            abandon_as(index, self.holder);
            if change(record, seen.1, ProcessState::Free) && inner != 0 {
                free_namespace(inner, self.holder);
            }
        }
        record.undertaker.give_back();
        is_still
    }

    fn has_ended(&self, pid: i32) -> bool {
        pegasus_host::signal::kill(pid, 0) == Err(Errno::ESRCH)
            || self.takes_descriptors && pegasus_host::process::has_ended(pid)
    }
}

/// Empties the descriptor table of record `index`, whose process is gone or has never been.
pub fn abandon(index: u32) {
    abandon_as(index, Thread::current().claimant());
}

fn abandon_as(index: u32, holder: u32) {
    let Some(record) = header().processes.get(index as usize) else {
        return;
    };
    let container = record.container.load(Ordering::Relaxed);
    let others = if has_calls_beside(index, container) {
        Others::Some
    } else {
        Others::None
    };
    Table::of_record(index).abandon(holder, others);
}

/// Whether a process of this container other than that of record `index` may be counted as in a call: one with a
/// single thread is not counted, since nobody can close what its call uses.
fn has_calls_beside(index: u32, container: u32) -> bool {
    let len = header().processes_high.load(Ordering::Acquire) as usize;
    let records = header().processes.iter().take(len).enumerate();
    records
        .filter(|(at, _)| *at != index as usize)
        .any(|(_, record)| {
            record.state.load(Ordering::Acquire) != ProcessState::Free as u32
                && record.container.load(Ordering::Relaxed) == container
                && record.threads.load(Ordering::Relaxed) > 1
        })
}

/// See [`pegasus_contract::boot::Operation::Bury`]. The caller is no thread of a container; it has marked the records.
pub fn bury_container(container: u32) {
    let len = header().processes_high.load(Ordering::Acquire) as usize;
    for (index, record) in header().processes.iter().take(len).enumerate() {
        if record.state.load(Ordering::Acquire) != ProcessState::Free as u32
            && record.container.load(Ordering::Relaxed) == container
        {
            Table::of_record(index as u32).abandon(INSTANCE, Others::None);
            record.undertaker.give_back();
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
fn free_namespace(namespace: u32, holder: u32) {
    let len = header().processes_high.load(Ordering::Acquire) as usize;
    for (index, record) in header().processes.iter().take(len).enumerate() {
        if record.namespace.load(Ordering::Relaxed) == namespace
            && let Some(state) = settled(record)
        {
            let inner = record.inner_namespace.load(Ordering::Relaxed);
            abandon_as(index as u32, holder);
            if change(record, state, ProcessState::Free) && inner != 0 {
                free_namespace(inner, holder);
            }
        }
    }
}
