//! A container's process: its record, memory map, signal actions and threads.
#![allow(unsafe_code)]

use crate::futex;
use crate::heap::Arena;
use crate::mm::Space;
use crate::rewrite::Rewriter;
use crate::schedule::cpu_time::WorkerTime;
use crate::task::Thread;
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use pegasus_abi::Errno;
use pegasus_abi::prctl::{PrctlMmMap as ProgramMap, Rlimit};
use pegasus_abi::signal::{SIGNALS_MAX, SigAction};
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::layout::HEAP_BASE;
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
    pub record: &'static ProcessRecord,
    /// The record's index, or [`record::PRIVATE`](crate::task::record::PRIVATE).
    pub record_index: u32,
    /// The pid namespace of its parent.
    pub namespace: u32,
    pub container: u32,
    pub space: &'static Space,
    pub rewriter: &'static Rewriter,
    pub futexes: &'static futex::Table,
    pub actions: [SigAction; SIGNALS_MAX as usize],
    pub is_container_init: bool,
    pub address_limit: Rlimit,
}

/// Lives in its arena; never freed on its own.
pub struct Process {
    pub arena: &'static Arena,
    record: &'static ProcessRecord,
    record_index: u32,
    /// See [`ProcessRecord::namespace`]: the one that the process itself is in.
    namespace: Cell<u32>,
    pub container: u32,
    /// The first process of its container: pid 1 unless the container shares a pid namespace.
    pub is_container_init: bool,
    /// Mappings; a `vfork` child has its parent's.
    pub space: &'static Space,
    /// Rewritten sites; goes with `space`.
    pub rewriter: &'static Rewriter,
    /// Who waits for words in the memory; goes with `space`.
    pub futexes: &'static futex::Table,
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
    /// PR_GET_DUMPABLE as the program sees it in a shared instance, where Linux keeps it for all.
    pub dumpable: AtomicU32,
    /// Where the program's strings and tables lie, for `/proc`.
    pub program: Cell<ProgramMap>,
    /// The program has installed a seccomp filter: it may kill whoever makes a call that the program itself does not.
    has_filter: AtomicBool,
    /// Its sockets are Linux's alone: see `socket::returning`.
    keeps_kernel_sockets: AtomicBool,
    /// No worker runs its threads: see `schedule`.
    stays_home: AtomicBool,
    /// CPU time that its threads have used on workers.
    pub worker_time: WorkerTime,
    /// Timers of timer_create(2), which do not outlive the program.
    pub timers: Lock<BTreeSet<i32>>,
    /// Held while a child is made in private memory.
    pub private_forks: Lock<()>,
    /// Children that live in this process's memory for good: CLONE_VM without CLONE_VFORK.
    pub borrowers: Lock<Vec<Borrower>>,
}

/// A child that borrows its parent's memory.
pub struct Borrower {
    pub pid: i32,
    pub process: &'static Process,
    pub thread: &'static Thread,
}

// SAFETY: `pid`, `namespace` and `program` are written before any second thread exists; the rest is locks and atomics.
unsafe impl Sync for Process {}

impl Process {
    /// Makes the process object in its arena.
    pub fn create(args: ProcessArgs) -> &'static Process {
        let process = Process {
            arena: args.arena,
            record: args.record,
            record_index: args.record_index,
            namespace: Cell::new(args.namespace),
            container: args.container,
            is_container_init: args.is_container_init,
            space: args.space,
            rewriter: args.rewriter,
            futexes: args.futexes,
            actions: Lock::new(args.actions),
            threads: Lock::new(Vec::new()),
            departures: AtomicU32::new(0),
            exec_owner: AtomicU32::new(0),
            exec_request: Lock::new(None),
            address_limit: Lock::new(args.address_limit),
            pid: Cell::new(0),
            dumpable: AtomicU32::new(1),
            program: Cell::new(ProgramMap::default()),
            has_filter: AtomicBool::new(false),
            keeps_kernel_sockets: AtomicBool::new(false),
            stays_home: AtomicBool::new(false),
            worker_time: WorkerTime::new(),
            timers: Lock::new(BTreeSet::new()),
            private_forks: Lock::new(()),
            borrowers: Lock::new(Vec::new()),
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
        self.record
    }

    pub fn pid(&self) -> i32 {
        self.pid.get()
    }

    /// Called by the first thread of a container's first process, once.
    pub fn set_pid(&self, pid: i32) {
        self.pid.set(pid);
        self.record().pid.store(pid, Ordering::Relaxed);
    }

    /// Called by the first thread of a child process, once: learns its own pid. A child whose parent is out of sight has a
    /// pid namespace of its own, by CLONE_NEWPID, unshare(2) or setns(2); its record has the number that the parent sees.
    pub fn settle_pid(&self) {
        let pid = pegasus_host::process::pid();
        self.pid.set(pid);
        if pegasus_host::process::parent_pid() != 0 {
            self.record().pid.store(pid, Ordering::Relaxed);
            return;
        }
        self.namespace.set(crate::task::record::new_namespace());
        if pid == 1 {
            self.record()
                .inner_namespace
                .store(self.namespace.get(), Ordering::Relaxed);
        }
    }

    pub fn namespace(&self) -> u32 {
        self.namespace.get()
    }

    /// Lives in another process's memory.
    pub fn is_borrower(&self) -> bool {
        self.record().lender.load(Ordering::Relaxed) != 0
    }

    pub fn has_filter(&self) -> bool {
        self.has_filter.load(Ordering::Relaxed)
    }

    /// The program has installed a seccomp filter: from now on the vkernel makes as few calls of its own as it can.
    pub fn note_filter(&self) {
        self.has_filter.store(true, Ordering::Relaxed);
        // A child that borrows the rewriter has no word in how its owner's sites and futexes are treated.
        if !self.is_borrower() {
            self.rewriter.freeze();
            self.futexes.retire();
        }
    }

    /// How many calls Linux has had of the process's threads.
    pub fn calls_of_linux(&self) -> u64 {
        let counters = &self.record().counters;
        counters.iter().fold(0, |sum, shard| {
            let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let all = value(&shard.rewritten).wrapping_add(value(&shard.trapped));
            let natives = all.wrapping_sub(value(&shard.served));
            sum.wrapping_add(natives)
                .wrapping_add(value(&shard.forwarded))
        })
    }

    pub fn stays_home(&self) -> bool {
        self.stays_home.load(Ordering::Relaxed)
    }

    pub fn stay_home(&self) {
        self.stays_home.store(true, Ordering::Relaxed);
    }

    pub fn keeps_kernel_sockets(&self) -> bool {
        self.keeps_kernel_sockets.load(Ordering::Relaxed)
    }

    pub fn keep_kernel_sockets(&self) {
        self.keeps_kernel_sockets.store(true, Ordering::Relaxed);
    }

    /// Nobody but the caller uses its descriptors: there has never been a second thread.
    pub fn has_had_one_thread(&self) -> bool {
        self.record().threads.load(Ordering::Relaxed) == 1
    }

    /// The record whose arena this process lives in: its own, or its lender's. `None` for one in private memory.
    pub fn arena_record(&self) -> Option<u32> {
        match self.record().lender.load(Ordering::Relaxed) {
            0 => Some(self.record_index),
            lender => Some(lender - 1),
        }
        .filter(|&index| index != crate::task::record::PRIVATE)
    }

    /// The record of the process in whose memory this one lives.
    fn lender_record(&self) -> &ProcessRecord {
        match self.record().lender.load(Ordering::Relaxed) {
            0 => self.record(),
            lender => {
                let record = header().processes.get(lender as usize - 1);
                record.unwrap_or(self.record())
            }
        }
    }

    /// Which slot of an address space with neighbours the process lives in. A child made by fork(2) has none of their memory.
    pub fn slot(&self) -> Option<usize> {
        let slot = self.lender_record().slot.load(Ordering::Relaxed);
        (slot != u32::MAX).then_some(slot as usize)
    }

    /// Whether memory at low addresses is, or would be, its own and not a neighbour's.
    pub fn has_low_window(&self) -> bool {
        let owner = header().low_window_owner.load(Ordering::Relaxed);
        self.slot().is_none() || self.arena_record().is_some_and(|index| index + 1 == owner)
    }

    /// Counts a child that lives in this process's arena, or one that has left it.
    pub fn count_lent(&self, change: i32) {
        if let Some(index) = self.arena_record() {
            let lent = &header().processes[index as usize].lent;
            lent.fetch_add(change as u32, Ordering::Relaxed);
        }
    }

    /// What a child inherits beyond its arguments.
    pub fn inherit_from(&self, parent: &Process) {
        self.has_filter
            .store(parent.has_filter(), Ordering::Relaxed);
        self.keeps_kernel_sockets
            .store(parent.keeps_kernel_sockets(), Ordering::Relaxed);
        if parent.has_filter() && !self.is_borrower() {
            self.futexes.retire();
        }
    }

    /// Deletes the program's timers.
    pub fn delete_timers(&self) {
        for timer in core::mem::take(&mut *self.timers.lock()) {
            pegasus_host::process::delete_timer(timer);
        }
    }

    /// Gives back the memory of borrowers that are gone. Tells whether any are left.
    pub fn has_borrowers(&self) -> bool {
        let mut borrowers = self.borrowers.lock();
        borrowers.retain(|borrower| {
            let lives = pegasus_host::signal::kill(borrower.pid, 0) != Err(Errno::ESRCH);
            if !lives {
                self.futexes.forget(borrower.process);
                borrower.thread.release_memory();
                borrower.process.release_memory();
                self.count_lent(-1);
            }
            lives
        });
        !borrowers.is_empty()
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
            if self.record_index == crate::task::record::PRIVATE {
                let record = (&raw const *self.record).cast_mut();
                crate::heap::release(record.cast(), core::alloc::Layout::new::<ProcessRecord>());
            }
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
        !self.is_borrower()
            && self.record().threads.load(Ordering::Relaxed) == 1
            && self.borrowers.lock().is_empty()
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
