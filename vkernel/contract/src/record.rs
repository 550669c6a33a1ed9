//! Records at the start of the shared heap, readable by a host tool.
//!
//! Everything a tool such as `pegasus inspect` reads lies at a fixed offset from
//! [`HEAP_BASE`](crate::layout::HEAP_BASE) and is plain data: a tool copies it out of the instance with
//! `process_vm_readv(2)` and must believe nothing in it, since container code may have written it.

use crate::layout::{CONTAINERS_MAX, PROCESSES_MAX};
use crate::network::NetworkRecord;
use crate::schedule::ScheduleRecord;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};
use pegasus_sync::Claim;

pub const HEAP_MAGIC: u64 = u64::from_le_bytes(*b"PEGASUS1");

/// Per-call counters cover numbers below this; the last row counts all others.
pub const CALLS_COUNTED: usize = 512;
pub const COUNTER_SHARDS: usize = 16;
pub const TRACE_LEN: usize = 256;
pub const ID_LEN: usize = 80;
pub const EXE_LEN: usize = 256;
pub const REASON_LEN: usize = 96;
pub const AUXV_LEN: usize = 32;

/// The first bytes of the heap.
#[repr(C)]
pub struct HeapHeader {
    pub magic: AtomicU64,
    pub version: AtomicU32,
    /// [`InstanceKind`](crate::boot::InstanceKind).
    pub kind: AtomicU32,
    /// Futex: incremented and woken when a container record's `state` changes.
    pub doorbell: AtomicU32,
    /// Where the next search for records of dead processes begins.
    pub sweep_cursor: AtomicU32,
    /// Which slot indices are taken; bit i is slot i.
    pub slots: AtomicU64,
    /// Record index + 1 of the process that owns the low window, or 0.
    pub low_window_owner: AtomicU32,
    /// Number of the last pid namespace seen, see [`ProcessRecord::namespace`].
    pub namespaces: AtomicU32,
    /// Process records from this one on have never been used.
    pub processes_high: AtomicU32,
    /// How many more times somebody who has the occasion looks for killed processes: one was not quite gone at the last look.
    pub looks_for_dead: AtomicU32,
    /// Time-stamp counter and CLOCK_MONOTONIC, in nanoseconds, when the heap was made.
    pub clock_cycles: AtomicU64,
    pub clock_ns: AtomicU64,
    /// Nanoseconds for 2^32 cycles of the time-stamp counter; 0 while unknown.
    pub clock_rate: AtomicU64,
    /// The auxiliary vector of the process that made the heap, (type, value) pairs up to AT_NULL.
    pub auxv: [[AtomicU64; 2]; AUXV_LEN],
    pub containers: [ContainerRecord; CONTAINERS_MAX],
    pub processes: [ProcessRecord; PROCESSES_MAX],
    /// By index of the container's record.
    pub networks: [NetworkRecord; CONTAINERS_MAX],
    pub schedule: ScheduleRecord,
}

/// Life of a [`ContainerRecord`]; only ever moves down this list, then back to `Free`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ContainerState {
    Free = 0,
    /// The home task waits for `ReleaseHome`.
    Waiting = 1,
    /// The home task is joining and loading.
    Starting = 2,
    Running = 3,
    /// Joining or loading failed; `start_error` says why. The home task waits as for `Exiting`.
    Failed = 4,
    /// The first process is about to die with `wait_status`, and waits for `release` to become 1, so
    /// that the anchor can leave with that status first.
    Exiting = 5,
}

#[repr(C)]
pub struct ContainerRecord {
    /// Futex of [`ContainerState`].
    pub state: AtomicU32,
    /// Futex; see [`ContainerState::Exiting`].
    pub release: AtomicU32,
    /// Positive errno.
    pub start_error: AtomicI32,
    /// As from `wait4(2)`.
    pub wait_status: AtomicI32,
    /// Pid of the home task in the instance's pid namespace.
    pub home_pid: AtomicI32,
    /// Index of the first process's record.
    pub process: AtomicU32,
    /// Non-zero: its threads stay on their home tasks, because CPU time is measured out to it.
    pub stays_home: AtomicU32,
    pub _pad: AtomicU32,
    /// Address of the [`ReleaseHomeArgs`](crate::boot::ReleaseHomeArgs) while `Starting`.
    pub start_args: AtomicU64,
    /// Bytes that its ends of connections have put into rings, and taken from them, before they let go. Those of the others
    /// are in their rings.
    pub rings_sent: AtomicU64,
    pub rings_received: AtomicU64,
    /// NUL-padded.
    pub id: [AtomicU64; ID_LEN / 8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ProcessState {
    Free = 0,
    /// Being filled in.
    Claimed = 1,
    Resident = 2,
    Satellite = 3,
    /// Left the vkernel by a native `execve`.
    Native = 4,
}

#[repr(C)]
pub struct ProcessRecord {
    pub state: AtomicU32,
    /// Index into `HeapHeader::containers`.
    pub container: AtomicU32,
    /// As its parent, and thus in most cases the container, sees it.
    pub pid: AtomicI32,
    pub threads: AtomicU32,
    /// Slot index, or `u32::MAX` for a satellite.
    pub slot: AtomicU32,
    /// Which pid namespace `pid` is a number of. Counted by the vkernel, without meaning outside it.
    pub namespace: AtomicU32,
    /// The pid namespace that the process is the first one of, if that is not `namespace`; else 0.
    pub inner_namespace: AtomicU32,
    /// Index + 1 of the record whose arena the process lives in, if that is not its own; else 0.
    pub lender: AtomicU32,
    /// How many processes live in the arena of this one.
    pub lent: AtomicU32,
    /// Entries of the process's descriptor table from this one on have never been used.
    pub descriptors_high: AtomicU32,
    /// Non-zero: the process is gone, and workers drop its threads.
    pub is_gone: AtomicU32,
    /// Who frees the record of a process that has gone, and what was its.
    pub undertaker: Claim,
    /// Number of calls recorded since tracing began; entry `n % TRACE_LEN` is the n-th.
    pub trace_head: AtomicU64,
    /// Sites rewritten so far, and sites found impossible to rewrite.
    pub sites_rewritten: AtomicU64,
    pub sites_refused: AtomicU64,
    /// Why the process left the vkernel, when it is `Native`; NUL-padded.
    pub native_reason: [AtomicU64; REASON_LEN / 8],
    /// Path of the loaded program, NUL-padded.
    pub exe: [AtomicU64; EXE_LEN / 8],
    pub counters: [CounterShard; COUNTER_SHARDS],
    pub trace: [TraceEntry; TRACE_LEN],
}

/// Counters of the threads that map to one shard. Increments are plain, not locked: two threads
/// of one shard may lose a count to each other, never to a neighbour.
#[repr(C, align(64))]
pub struct CounterShard {
    /// Calls that came in through a rewritten site.
    pub rewritten: AtomicU64,
    /// Calls that came in through a dispatch trap.
    pub trapped: AtomicU64,
    /// Calls answered by the vkernel itself (the rest were executed by the home task).
    pub served: AtomicU64,
    /// Signals delivered to a handler.
    pub signals: AtomicU64,
    /// Non-zero: record the calls of this shard's threads into `ProcessRecord::trace`. A host tool sets and clears it,
    /// in every shard.
    pub traced: AtomicU64,
    /// Waits that were spent running another thread on the same worker.
    pub switches: AtomicU64,
    /// Returns from a worker to the home task.
    pub trips_home: AtomicU64,
    /// Served calls that came to a call of Linux's in the end.
    pub forwarded: AtomicU64,
    pub calls: [AtomicU64; CALLS_COUNTED],
}

#[repr(C)]
pub struct TraceEntry {
    /// Sequence number + 1, written last: an entry whose `seal` is not its own number is torn.
    pub seal: AtomicU64,
    pub nr: AtomicU64,
    pub args: [AtomicU64; 6],
    pub result: AtomicU64,
    /// Duration in time-stamp-counter cycles.
    pub cycles: AtomicU64,
    pub tid: AtomicU32,
    /// 0 rewritten, 1 trapped.
    pub path: AtomicU32,
}

const _: () = assert!(size_of::<HeapHeader>() <= crate::layout::HEAP_HEADER_LEN);
