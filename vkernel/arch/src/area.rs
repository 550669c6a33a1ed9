//! The per-thread block behind the GS base.
//!
//! The gate reaches it without any other register, so its head holds what the assembly needs, at
//! offsets asserted below. Everything else a thread has hangs off [`Area::task`].

use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use pegasus_abi::nr::NR_LEN;
use pegasus_contract::record::CounterShard;

/// Bits of [`Area::pending`]: what must be done before container code goes on.
pub mod pending {
    /// A signal taken while in the vkernel waits in the thread's stash.
    pub const SIGNAL: u32 = 1;
    /// Another thread asked this one to leave (see the vkernel's doorbell).
    pub const DOORBELL: u32 = 2;
    /// The worker that runs this thread wants to be rid of it.
    pub const GO_HOME: u32 = 4;
}

#[repr(C, align(64))]
pub struct Area {
    self_ptr: Cell<*const Area>,
    /// Top of the vkernel stack; the gate starts pushing [`crate::regs::Regs`] here.
    pub stack_top: Cell<usize>,
    user_rsp: Cell<usize>,
    resume: Cell<usize>,
    /// See [`pending`]. Written by this thread's signal handler as well, hence atomic.
    pub pending: AtomicU32,
    _pad0: u32,
    /// Where this thread counts; never null while container code runs.
    pub shard: Cell<*const CounterShard>,
    /// How the present call came in: 0 through a rewritten site, 1 by a dispatch trap.
    pub path: Cell<u32>,
    _pad: u32,
    /// The vkernel's own per-thread structure.
    pub task: Cell<*const ()>,
    /// The process's descriptor table: for each number below `DESCRIPTORS_MAX`, 0 if it is Linux's alone.
    pub descriptors: Cell<usize>,
    /// How each call goes, `[u8; NR_LEN]`: see [`crate::gate`].
    pub served: Cell<*const u8>,
    /// The worker that runs the thread, as the vkernel knows it; 0 while the thread runs on its home task.
    pub worker: Cell<usize>,
    _pad1: [usize; 2],
    /// XMM0–15 of the container while Rust code of the vkernel runs. (The vkernel is compiled for
    /// baseline x86-64: legacy SSE leaves the upper halves of YMM and ZMM alone.)
    pub xmm: UnsafeCell<[u128; 16]>,
}

pub(crate) const STACK_TOP: usize = offset_of!(Area, stack_top);
pub(crate) const USER_RSP: usize = offset_of!(Area, user_rsp);
pub(crate) const RESUME: usize = offset_of!(Area, resume);
pub(crate) const PENDING: usize = offset_of!(Area, pending);
pub(crate) const SHARD: usize = offset_of!(Area, shard);
pub(crate) const PATH: usize = offset_of!(Area, path);
pub(crate) const DESCRIPTORS: usize = offset_of!(Area, descriptors);
pub(crate) const SERVED: usize = offset_of!(Area, served);
pub(crate) const XMM: usize = offset_of!(Area, xmm);

const _: () = assert!(XMM.is_multiple_of(16));
const _: () = assert!(offset_of!(CounterShard, rewritten) == 0);
const _: () = assert!(offset_of!(CounterShard, trapped) == 8);

impl Area {
    /// An area for a thread whose vkernel stack ends at `stack_top`. It must be told its address with
    /// [`Area::settle`] before use.
    pub fn new(
        stack_top: usize,
        shard: *const CounterShard,
        task: *const (),
        descriptors: usize,
        served: &'static [u8],
    ) -> Self {
        assert!(served.len() == NR_LEN, "a row for each call");
        assert!(
            stack_top.is_multiple_of(16),
            "vkernel stacks are aligned to 16"
        );
        Self {
            self_ptr: Cell::new(core::ptr::null()),
            stack_top: Cell::new(stack_top),
            user_rsp: Cell::new(0),
            resume: Cell::new(0),
            pending: AtomicU32::new(0),
            _pad0: 0,
            shard: Cell::new(shard),
            path: Cell::new(0),
            _pad: 0,
            task: Cell::new(task),
            descriptors: Cell::new(descriptors),
            served: Cell::new(served.as_ptr()),
            worker: Cell::new(0),
            _pad1: [0; 2],
            xmm: UnsafeCell::new([0; 16]),
        }
    }

    /// Records the address the area lives at from now on.
    pub fn settle(&self) {
        self.self_ptr.set(self);
    }

    pub fn set_pending(&self, bits: u32) {
        self.pending.fetch_or(bits, Ordering::Relaxed);
    }

    pub fn clear_pending(&self, bits: u32) {
        self.pending.fetch_and(!bits, Ordering::Relaxed);
    }

    /// Where the gate keeps the registers of the call in progress.
    pub fn regs(&self) -> *mut crate::regs::Regs {
        (self.stack_top.get() - crate::regs::REGS_LEN) as *mut crate::regs::Regs
    }
}

/// The area of the calling thread.
///
/// # Safety
/// The GS base must point to a settled area that lives as long as the result is used: true on every
/// thread between [`crate::task::attach`] and its exit.
pub unsafe fn current<'a>() -> &'a Area {
    let area: *const Area;
    // SAFETY: the caller vouches for the GS base; offset 0 is `self_ptr`.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) area, options(nostack, readonly, preserves_flags));
        &*area
    }
}

const _: () = assert!(offset_of!(Area, self_ptr) == 0);

/// The area of the calling thread, unless it has none: a thread of the runtime.
///
/// # Safety
/// The CPU and Linux must offer FSGSBASE; a GS base that is not 0 must be as for [`current`].
pub unsafe fn current_if_any<'a>() -> Option<&'a Area> {
    let base: usize;
    // SAFETY: the caller's promise.
    unsafe {
        core::arch::asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags));
        (base as *const Area).as_ref()
    }
}

/// Bytes that go from one CPU to another together.
pub const CACHE_LINE_LEN: usize = 64;

/// The bytes at `address` are going to be read soon. A hint: any address will do.
pub fn prefetch_read(address: usize) {
    // SAFETY: PREFETCHT0 changes nothing, and never faults.
    unsafe {
        core::arch::asm!("prefetcht0 [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
    };
}

/// The bytes at `address` are going to be written soon. A hint: any address will do.
pub fn prefetch_write(address: usize) {
    // SAFETY: PREFETCHW changes nothing, and never faults; CPUs that do not know it do nothing.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
    };
}

/// The time-stamp counter.
pub fn cycles() -> u64 {
    // SAFETY: RDTSC reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}
