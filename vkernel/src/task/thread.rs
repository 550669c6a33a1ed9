//! A container's thread: its area, its stacks in the vkernel, and its signal state.
#![allow(unsafe_code)]

use crate::futex::{self, Waiter};
use crate::heap::Arena;
use crate::limits::{FPSTATE_LEN_MAX, PARK_STACK_LEN, SIGNAL_STACK_LEN, VKERNEL_STACK_LEN};
use crate::schedule::Away;
use crate::socket::arrivals;
use crate::socket::descriptors::Table;
use crate::socket::wait::{LOOK_CYCLES_MAX, Patience};
use crate::syscall::table;
use crate::task::Process;
use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicU32, Ordering};
use pegasus_abi::signal::{SigFrame, SigInfo, SigSet, StackT, UContext};
use pegasus_abi::{Errno, Result};
use pegasus_arch::area::{self, Area, pending};
use pegasus_arch::regs::Regs;
use pegasus_contract::record::COUNTER_SHARDS;

/// A signal that Linux delivered while its thread was in the vkernel, as Linux's frame had it. At most one:
/// from then until it is passed on, the thread has all others blocked.
#[repr(C, align(64))]
pub struct Stash {
    /// The container's FPU state at that moment, `fp_len` bytes of it.
    pub fpstate: [u8; FPSTATE_LEN_MAX],
    pub fp_len: usize,
    pub uc: UContext,
    pub info: SigInfo,
    pub valid: bool,
    /// A worker ran the thread then: the FPU state is not the container's.
    pub is_foreign: bool,
}

/// Lives in its process's arena, with its stacks behind it.
#[repr(C)]
pub struct Thread {
    pub area: Area,
    process: &'static Process,
    other_arena: Cell<Option<&'static Arena>>,
    /// 1 while the thread, or its stacks, are in use.
    pub alive: AtomicU32,
    pub tid: AtomicU32,
    /// The container's sigaltstack(2). Linux has the vkernel's instead.
    pub altstack: Cell<StackT>,
    /// Which of the signals that the vkernel never lets Linux block the container has blocked.
    pub hidden_mask: Cell<SigSet>,
    /// Such a signal, sent by a program while blocked.
    pub held: Cell<Option<SigInfo>>,
    /// Mask that the thread starts with.
    pub start_mask: Cell<SigSet>,
    /// For the first thread of a process made with CLONE_CLEAR_SIGHAND.
    pub clears_handlers: Cell<bool>,
    /// Address of what a child is to do; see `boot::supervise`.
    pub errand: Cell<usize>,
    /// The mask of a call that has waited with another one than the thread's, when a signal has ended it.
    pub waiting_mask: Cell<Option<SigSet>>,
    /// The epoll set whose Linux's side the thread has last looked at, and how many calls of Linux the process had made then.
    pub last_look: Cell<(usize, u64)>,
    /// What the thread has learnt about waiting.
    pub patience: Patience,
    /// The same about waits for connections, which take longer than those for bytes.
    pub accept_patience: Patience,
    /// The same for futexes.
    pub futex_patience: futex::Patience,
    /// Where the thread stands in the queue of a futex.
    pub waiter: Waiter,
    /// For a thread that shall load a program: the frame it leaves the vkernel with.
    pub frame: UnsafeCell<SigFrame>,
    pub stash: UnsafeCell<Stash>,
    /// For when a worker runs the thread.
    pub away: Away,
    signal_stack: StackT,
}

// SAFETY: other threads touch only `alive`, `tid` and `area.pending`, which are atomics, and `waiter`, which is `Sync`; everything else is used
// by the thread itself, by its creator before it runs, or by whoever runs it: its home task or a worker, which hand it to each
// other by atomics (see `schedule`).
unsafe impl Sync for Thread {}

const HEAD_LEN: usize = size_of::<Thread>().next_multiple_of(64);

fn layout() -> Layout {
    let len = HEAD_LEN + SIGNAL_STACK_LEN + VKERNEL_STACK_LEN + PARK_STACK_LEN;
    Layout::from_size_align(len, 64).unwrap_or_else(|_| unreachable!("constant and valid"))
}

impl Thread {
    /// The calling thread.
    pub fn current() -> &'static Thread {
        // SAFETY: vkernel code runs on attached threads only; an area's task is its thread.
        unsafe { &*area::current::<'static>().task.get().cast::<Thread>() }
    }

    /// A thread of `process` with stacks of its own, used again if another one has left. ENOMEM when the
    /// arena is full. The process's arena is used whoever calls.
    pub fn create(process: &'static Process) -> Result<&'static Thread> {
        let mut threads = process.threads.lock();
        let reuse = threads.iter().copied().find(|thread| {
            thread
                .alive
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        });
        if let Some(thread) = reuse {
            // SAFETY: its former owner has left its stacks; nobody else can have claimed it.
            unsafe { Self::write_at((&raw const *thread).cast_mut(), process) };
            return Ok(thread);
        }
        let thread = Self::create_first(process)?;
        threads.push(thread);
        Ok(thread)
    }

    /// The first thread of a process that does not run yet: it is not in the process's list until it calls
    /// [`Thread::enlist`] itself, so that the list lies in its own arena.
    pub fn create_first(process: &'static Process) -> Result<&'static Thread> {
        let place = process.arena.allocate(layout()).cast::<Thread>();
        if place.is_null() {
            return Err(Errno::ENOMEM);
        }
        // SAFETY: freshly allocated with room for the thread and its stacks.
        unsafe {
            Self::write_at(place, process);
            Ok(&*place)
        }
    }

    /// # Safety
    /// `place` must have the room of [`layout`] and be used by nobody.
    unsafe fn write_at(place: *mut Thread, process: &'static Process) {
        let base = place as usize;
        let signal_base = base + HEAD_LEN;
        let stack_top = signal_base + SIGNAL_STACK_LEN + VKERNEL_STACK_LEN;
        let index = process.record().threads.fetch_add(1, Ordering::Relaxed) as usize;
        let shard = &raw const process.record().counters[index % COUNTER_SHARDS];
        // SAFETY: the caller's promise; the stash is left as it is but for its flag, which avoids touching
        // its pages.
        unsafe {
            let descriptors = Table::of(process).address();
            let area = Area::new(stack_top, shard, place.cast(), descriptors, &table::SERVED);
            (&raw mut (*place).area).write(area);
            (*place).area.settle();
            (&raw mut (*place).process).write(process);
            (&raw mut (*place).other_arena).write(Cell::new(None));
            (*place).alive.store(1, Ordering::Relaxed);
            (*place).tid.store(0, Ordering::Relaxed);
            (&raw mut (*place).altstack).write(Cell::new(StackT::DISABLED));
            (&raw mut (*place).hidden_mask).write(Cell::new(0));
            (&raw mut (*place).held).write(Cell::new(None));
            (&raw mut (*place).start_mask).write(Cell::new(0));
            (&raw mut (*place).errand).write(Cell::new(0));
            (&raw mut (*place).clears_handlers).write(Cell::new(false));
            (&raw mut (*place).waiting_mask).write(Cell::new(None));
            (&raw mut (*place).last_look).write(Cell::new((0, 0)));
            (&raw mut (*place).patience).write(Patience::new(LOOK_CYCLES_MAX));
            (&raw mut (*place).accept_patience).write(Patience::new(arrivals::LOOK_CYCLES_MAX));
            (&raw mut (*place).futex_patience).write(futex::Patience::new());
            (&raw mut (*place).waiter).write(Waiter::new());
            (*(*place).stash.get()).valid = false;
            Away::write_at(&raw mut (*place).away);
            (&raw mut (*place).signal_stack).write(StackT {
                sp: signal_base,
                flags: 0,
                _pad: 0,
                size: SIGNAL_STACK_LEN,
            });
        }
    }

    /// See [`Thread::create_first`].
    pub fn enlist(&'static self) {
        self.process.threads.lock().push(self);
    }

    /// Gives the memory of a thread that is in no list back.
    pub fn release_memory(&'static self) {
        let place = (&raw const *self).cast_mut();
        // SAFETY: made by `create_first`; its task is gone, and the caller is the only one left who knows it.
        unsafe { crate::heap::release(place.cast(), layout()) };
    }

    /// By which name the thread takes claims: its process's, whose end frees them.
    pub fn claimant(&self) -> u32 {
        self.process.record_index() + 1
    }

    /// Something must be done before container code goes on: a wait is given up for it.
    pub fn has_pending(&self) -> bool {
        self.area.pending.load(Ordering::Relaxed) & !pending::GO_HOME != 0
    }

    /// End of the stack that the home task sleeps on while a worker runs the thread.
    pub fn park_stack_top(&self) -> usize {
        self.area.stack_top.get() + PARK_STACK_LEN
    }

    /// A signal has ended a call that waited with this mask.
    pub fn note_waiting_mask(&self, mask: SigSet) {
        self.waiting_mask
            .set(Some(mask & !crate::signal::UNBLOCKABLE));
    }

    pub fn process(&self) -> &'static Process {
        self.process
    }

    /// Where this thread's allocations go.
    pub fn arena(&self) -> &'static Arena {
        self.other_arena.get().unwrap_or(self.process.arena)
    }

    /// Runs `make` with its allocations going to `arena`: for what a child process is to own.
    pub fn with_arena<T>(&self, arena: &'static Arena, make: impl FnOnce() -> T) -> T {
        let before = self.other_arena.replace(Some(arena));
        let made = make();
        self.other_arena.set(before);
        made
    }

    /// The registers of the call in progress.
    #[allow(
        clippy::mut_from_ref,
        reason = "one thread, one call; see the SAFETY note"
    )]
    pub fn regs(&self) -> &'static mut Regs {
        // SAFETY: they lie at the top of this thread's vkernel stack, and are used by this thread alone; callers
        // do not keep two of these.
        unsafe { &mut *self.area.regs() }
    }

    /// The stash.
    #[allow(clippy::mut_from_ref, reason = "used by this thread alone")]
    pub fn stash(&self) -> &'static mut Stash {
        // SAFETY: used by this thread alone: filled by its signal handler only while not `valid`,
        // read on the way out only while `valid`.
        unsafe { &mut *self.stash.get() }
    }

    /// Room for the frame with which the thread leaves.
    #[allow(clippy::mut_from_ref, reason = "used by this thread alone")]
    pub fn frame(&self) -> &'static mut SigFrame {
        // SAFETY: used by this thread alone.
        unsafe { &mut *self.frame.get() }
    }

    /// The stack that Linux puts signal frames of this thread on.
    pub fn signal_stack(&self) -> &StackT {
        &self.signal_stack
    }

    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed) as i32
    }
}
