//! A container's process: its record, memory map, signal actions and threads.
#![allow(unsafe_code)]

use crate::heap::Arena;
use crate::mm::Space;
use crate::rewrite::Rewriter;
use crate::task::Thread;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use pegasus_abi::prctl::{PrctlMmMap as ProgramMap, Rlimit};
use pegasus_abi::signal::{SIGNALS_MAX, SigAction};
use pegasus_abi::{Errno, Result};
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::layout::{HEAP_BASE, PROCESSES_MAX};
use pegasus_contract::record::{HeapHeader, ProcessRecord, ProcessState};
use pegasus_sync::Lock;

/// The records at the start of the heap.
pub fn header() -> &'static HeapHeader {
    // SAFETY: the heap is mapped before the image is entered and stays so; all fields are atomics.
    unsafe { &*(HEAP_BASE as *const HeapHeader) }
}

/// What kind of instance this is.
pub fn instance_kind() -> InstanceKind {
    if header().kind.load(Ordering::Relaxed) == InstanceKind::Shared as u32 {
        InstanceKind::Shared
    } else {
        InstanceKind::Own
    }
}

pub struct ProcessArgs {
    pub arena: &'static Arena,
    pub record: u32,
    pub container: u32,
    pub space: &'static Space,
    pub rewriter: &'static Rewriter,
    pub actions: [SigAction; SIGNALS_MAX as usize],
    pub is_container_init: bool,
    pub address_limit: Rlimit,
}

/// Lives in its arena; never freed on its own.
pub struct Process {
    pub arena: &'static Arena,
    record_index: u32,
    pub container: u32,
    /// The first process of its container: pid 1 unless the container shares a pid namespace.
    pub is_container_init: bool,
    /// Mappings; a `vfork` child has its parent's.
    pub space: &'static Space,
    /// Rewritten sites; goes with `space`.
    pub rewriter: &'static Rewriter,
    /// What each signal does, index signal - 1. Held across the host's rt_sigaction(2), so that both agree.
    pub actions: Lock<[SigAction; SIGNALS_MAX as usize]>,
    /// All threads ever created here; those that are gone are used again.
    pub threads: Lock<Vec<&'static Thread>>,
    /// Futex: incremented when a thread leaves.
    pub departures: AtomicU32,
    /// The thread that replaces the program, while it waits for the others to leave.
    pub exec_owner: AtomicU32,
    /// What the leader is to load on behalf of another thread; see `exec::replace`.
    pub exec_request: Lock<Option<Box<crate::exec::Request>>>,
    pid: Cell<i32>,
    /// RLIMIT_AS as the container has it. Linux's own would count the vkernel's heap.
    pub address_limit: Lock<Rlimit>,
    /// Where the program's strings and tables lie, for `/proc`.
    pub program: Cell<ProgramMap>,
}

// SAFETY: `pid` and `program` are written before any second thread exists; the rest is locks and atomics.
unsafe impl Sync for Process {}

impl Process {
    /// Makes the process object in its arena.
    pub fn create(args: ProcessArgs) -> &'static Process {
        let process = Process {
            arena: args.arena,
            record_index: args.record,
            container: args.container,
            is_container_init: args.is_container_init,
            space: args.space,
            rewriter: args.rewriter,
            actions: Lock::new(args.actions),
            threads: Lock::new(Vec::new()),
            departures: AtomicU32::new(0),
            exec_owner: AtomicU32::new(0),
            exec_request: Lock::new(None),
            address_limit: Lock::new(args.address_limit),
            pid: Cell::new(0),
            program: Cell::new(ProgramMap::default()),
        };
        args.arena.place(process)
    }

    pub fn current() -> &'static Process {
        Thread::current().process()
    }

    pub fn record_index(&self) -> u32 {
        self.record_index
    }

    pub fn record(&self) -> &'static ProcessRecord {
        &header().processes[self.record_index as usize]
    }

    pub fn pid(&self) -> i32 {
        self.pid.get()
    }

    /// Called by the first thread of the process itself, once.
    pub fn set_pid(&self, pid: i32) {
        self.pid.set(pid);
        self.record().pid.store(pid, Ordering::Relaxed);
    }

    pub fn is_resident(&self) -> bool {
        self.record().state.load(Ordering::Relaxed) == ProcessState::Resident as u32
    }

    /// Whether what the kernel keeps per address space belongs to other containers as well.
    pub fn has_neighbours(&self) -> bool {
        self.is_resident() && instance_kind() == InstanceKind::Shared
    }

    /// Gives the memory of the object back.
    pub fn release_memory(&'static self) {
        let place = (&raw const *self).cast_mut();
        // SAFETY: made by `create`, and the caller is the only one left who knows it.
        unsafe {
            place.drop_in_place();
            crate::heap::release(place.cast(), core::alloc::Layout::new::<Process>());
        }
    }

    /// Whether all other threads have left.
    pub fn is_last_thread(&self, thread: &Thread) -> bool {
        let threads = self.threads.lock();
        !threads
            .iter()
            .any(|other| !core::ptr::eq(*other, thread) && other.alive.load(Ordering::Acquire) != 0)
    }

    /// Whether no other thread can be executing this process's code: it has never had a second one, and
    /// does not borrow its memory.
    pub fn is_single_threaded(&self) -> bool {
        let is_borrower = self.threads.lock().is_empty();
        !is_borrower && self.record().threads.load(Ordering::Relaxed) == 1
    }

    /// A child runs its parent's program.
    pub fn set_exe_from(&self, parent: &Process) {
        for (to, from) in self.record().exe.iter().zip(&parent.record().exe) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.program.set(parent.program.get());
    }

    /// Stores the program's path where host tools read it.
    pub fn set_exe(&self, path: &[u8]) {
        store_text(&self.record().exe, path);
    }

    /// Stores why the process leaves the vkernel.
    pub fn set_native_reason(&self, reason: &str) {
        store_text(&self.record().native_reason, reason.as_bytes());
    }
}

/// Stores text in a record, cut to fit and NUL-padded.
pub fn store_text(words: &[AtomicU64], text: &[u8]) {
    let room = words.len() * 8 - 1;
    let mut chunks = text[..text.len().min(room)].chunks(8);
    for word in words {
        let mut value = [0; 8];
        let chunk = chunks.next().unwrap_or(&[]);
        value[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
}

/// Claims a free process record; EAGAIN when there is none (clone(2): "too many processes").
pub fn claim_record(container: u32) -> Result<u32> {
    reclaim_dead_records(container);
    for (index, record) in header().processes.iter().enumerate() {
        let claimed = record.state.compare_exchange(
            ProcessState::Free as u32,
            ProcessState::Claimed as u32,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if claimed.is_ok() {
            reset_record(record, container);
            return Ok(index as u32);
        }
    }
    Err(Errno::EAGAIN)
}

/// Gives a record, and with it the arena, back.
pub fn free_record(index: u32) {
    header().processes[index as usize]
        .state
        .store(ProcessState::Free as u32, Ordering::Release);
}

fn reset_record(record: &ProcessRecord, container: u32) {
    record.container.store(container, Ordering::Relaxed);
    record.pid.store(0, Ordering::Relaxed);
    record.threads.store(0, Ordering::Relaxed);
    record.slot.store(u32::MAX, Ordering::Relaxed);
    record.sites_rewritten.store(0, Ordering::Relaxed);
    record.sites_refused.store(0, Ordering::Relaxed);
    for shard in &record.counters {
        for counter in [
            &shard.rewritten,
            &shard.trapped,
            &shard.served,
            &shard.signals,
            &shard.traced,
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

/// Frees a few records of this container whose process has gone: killed processes cannot do it
/// themselves, so each claim looks at the next few.
fn reclaim_dead_records(container: u32) {
    const LOOKS: usize = 4;
    let records = &header().processes;
    let start = header()
        .sweep_cursor
        .fetch_add(LOOKS as u32, Ordering::Relaxed) as usize;
    for step in 0..LOOKS {
        let record = &records[(start + step) % PROCESSES_MAX];
        let state = record.state.load(Ordering::Acquire);
        let pid = record.pid.load(Ordering::Relaxed);
        let settled =
            state == ProcessState::Satellite as u32 || state == ProcessState::Native as u32;
        let ours = settled && pid > 0 && record.container.load(Ordering::Relaxed) == container;
        if ours && pegasus_host::signal::kill(pid, 0) == Err(Errno::ESRCH) {
            let _ = record.state.compare_exchange(
                state,
                ProcessState::Free as u32,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
    }
}
