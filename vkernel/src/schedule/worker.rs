//! A worker: a task of the instance, confined to one CPU, that runs threads of containers in turns.
//!
//! It keeps nothing that anybody else writes, but for its record: threads that come and calls for its attention.
#![allow(unsafe_code)]

use crate::schedule::away::Wish;
use crate::schedule::crowd;
use crate::signal::receive;
use crate::syscall::table;
use crate::task::{Thread, header};
use core::cell::Cell;
use core::sync::atomic::Ordering;
use pegasus_abi::Result;
use pegasus_abi::mman::{MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE};
use pegasus_abi::prctl::{PR_SET_NAME, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON};
use pegasus_abi::signal::{
    SIGSYS, SIGTRAP, SIGUSR1, SYS_USER_DISPATCH, SigInfo, StackT, UContext, bit,
};
use pegasus_arch::area::{self, Area, pending};
use pegasus_arch::switch::{self, extended};
use pegasus_arch::usercopy;
use pegasus_contract::layout::{IMAGE_BASE, IMAGE_LEN_MAX, VKERNEL_BASE, VKERNEL_END};
use pegasus_contract::record::CounterShard;
use pegasus_contract::schedule::{WorkerRecord, WorkerState};
use pegasus_host::{futex, memory, schedule};

/// What the timer and the monitor interrupt a worker with.
pub const INTERRUPTION: u32 = SIGUSR1;
/// All that a worker does not block.
pub const TAKEN: u64 = crate::signal::KEPT | bit(INTERRUPTION);
/// CPU time after which a thread that has not waited is sent home; Linux counts it in ticks of its own, of up to 10 ms.
const TURN_NS: u64 = 4_000_000;
/// Most threads that a worker runs; others stay at home.
const HOSTED_MAX: usize = 64;
const STACK_LEN: usize = 32 << 10;
const SIGNAL_STACK_LEN: usize = 32 << 10;

/// Used by its own task alone, but for `offer`.
pub struct Worker {
    area: Area,
    record: &'static WorkerRecord,
    cpu: usize,
    /// Where the loop goes on when a thread leaves.
    context: Cell<usize>,
    hosted: [Cell<Option<&'static Thread>>; HOSTED_MAX],
    hosted_len: Cell<usize>,
    /// Which of them has its turn.
    cursor: Cell<usize>,
    /// Counts turns; what it was at the last tick of the timer.
    turns: Cell<u64>,
    turns_at_tick: Cell<u64>,
    /// See [`Worker::now`].
    now: Cell<u64>,
    has_progressed: Cell<bool>,
    idle_rounds: Cell<u32>,
    /// When there was last something to do.
    busy_at: Cell<u64>,
    signal_stack: StackT,
    shard: CounterShard,
}

impl Worker {
    /// The worker for `cpu`, in memory of its own that is never given back. The caller starts it.
    pub fn create(cpu: usize) -> Result<&'static Worker> {
        let head_len = size_of::<Worker>().next_multiple_of(64);
        let len = head_len + STACK_LEN + SIGNAL_STACK_LEN;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        // SAFETY: Linux finds a place where nothing is mapped.
        let base = unsafe { memory::mmap(0, len, PROT_READ | PROT_WRITE, flags, usize::MAX, 0)? };
        let place = base as *mut Worker;
        let signal_base = base + head_len;
        // SAFETY: freshly mapped, zeroed memory with room for it; zero is a valid counter shard.
        unsafe {
            let shard = &raw const (*place).shard;
            let stack_top = (signal_base + SIGNAL_STACK_LEN + STACK_LEN) & !63;
            place.write(Worker {
                area: Area::new(stack_top, shard, core::ptr::null(), 0, &table::SERVED),
                record: &header().schedule.workers[cpu],
                cpu,
                context: Cell::new(0),
                hosted: [const { Cell::new(None) }; HOSTED_MAX],
                hosted_len: Cell::new(0),
                cursor: Cell::new(0),
                turns: Cell::new(0),
                turns_at_tick: Cell::new(0),
                now: Cell::new(0),
                has_progressed: Cell::new(false),
                idle_rounds: Cell::new(0),
                busy_at: Cell::new(0),
                signal_stack: StackT {
                    sp: signal_base,
                    flags: 0,
                    _pad: 0,
                    size: SIGNAL_STACK_LEN,
                },
                shard: core::mem::zeroed(),
            });
            let worker = &*place;
            worker.area.task.set(place.cast());
            worker.area.settle();
            Ok(worker)
        }
    }

    pub fn area(&self) -> &Area {
        &self.area
    }

    /// Puts a thread that is ready to go on into a worker's inbox. Tells whether there was room.
    pub fn offer(record: &WorkerRecord, thread: &'static Thread) -> bool {
        let address = &raw const *thread as u64;
        record.inbox.offer(address, |word| futex::wake(word, 1))
    }

    pub fn context(&self) -> usize {
        self.context.get()
    }

    /// A thread here has found something to do.
    pub fn note_progress(&self) {
        self.has_progressed.set(true);
    }

    /// The time-stamp counter when the present round began.
    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// How many rounds have passed without anybody finding something to do.
    pub fn idle_rounds(&self) -> u32 {
        self.idle_rounds.get()
    }

    /// For how long nobody has found anything to do.
    pub fn idle_cycles(&self) -> u64 {
        self.now.get().wrapping_sub(self.busy_at.get())
    }

    /// Whether there is but one thread here.
    pub fn is_alone(&self) -> bool {
        self.hosted_len.get() <= 1
    }

    fn set_hosted_len(&self, len: usize) {
        self.hosted_len.set(len);
        self.record.load.store(len as u32, Ordering::Relaxed);
    }

    /// For ever.
    fn run(&self) -> ! {
        loop {
            self.take_inbox();
            if self.hosted_len.get() == 0 {
                self.record.inbox.wait(|word| futex::wait(word, 1));
                continue;
            }
            self.run_all();
            self.end_round();
            if self.idle_rounds.get() > 0 {
                // What they all wait for can only come from somebody else, who needs this CPU.
                pegasus_host::process::yield_now();
            }
        }
    }

    fn take_inbox(&self) {
        self.record.inbox.take(|address| {
            // SAFETY: put there by `offer`; the memory of a thread stays until this worker has had a round.
            self.host(unsafe { &*(address as *const Thread) });
        });
    }

    fn host(&self, thread: &'static Thread) {
        let len = self.hosted_len.get();
        if len == HOSTED_MAX {
            return thread.away.send_home(Wish::Home);
        }
        thread.area.worker.set(&raw const *self as usize);
        self.hosted[len].set(Some(thread));
        self.set_hosted_len(len + 1);
        self.has_progressed.set(true);
    }

    /// Gives each thread a turn.
    fn run_all(&self) {
        self.cursor.set(0);
        self.now.set(area::cycles());
        while let Some(thread) = self.present() {
            let wish = if is_gone(thread) {
                Wish::Home
            } else if is_wanted_home(thread) {
                self.has_progressed.set(true);
                Wish::Home
            } else {
                self.run_one(thread)
            };
            // Not the same one: those that run pass the CPU on among themselves.
            let Some(thread) = self.present() else { break };
            if wish == Wish::Turn {
                self.cursor.set(self.cursor.get() + 1);
                continue;
            }
            self.remove(self.cursor.get());
            if !is_gone(thread) {
                thread.away.send_home(wish);
                self.has_progressed.set(true);
            }
        }
    }

    /// Whose turn it is.
    fn present(&self) -> Option<&'static Thread> {
        let cursor = self.cursor.get();
        (cursor < self.hosted_len.get())
            .then(|| self.hosted[cursor].get())
            .flatten()
    }

    /// Who runs next when the present thread lets others run, if that can be said without the loop.
    pub fn pass_on(&self) -> Option<&'static Thread> {
        let following = self.cursor.get() + 1;
        let is_round_over = following >= self.hosted_len.get();
        let next = if is_round_over { 0 } else { following };
        let thread = self.hosted[next].get()?;
        if next == self.cursor.get() || is_gone(thread) || is_wanted_home(thread) {
            return None;
        }
        if is_round_over {
            let is_for_loop = !self.has_progressed.get() || self.record.inbox.is_filled();
            if is_for_loop {
                return None;
            }
            self.end_round();
            self.now.set(area::cycles());
        }
        self.cursor.set(next);
        self.turns.set(self.turns.get() + 1);
        Some(thread)
    }

    fn end_round(&self) {
        let rounds = &self.record.rounds;
        rounds.store(rounds.load(Ordering::Relaxed) + 1, Ordering::Release);
        if self.has_progressed.replace(false) {
            self.idle_rounds.set(0);
            self.busy_at.set(self.now.get());
            crowd::leave_mark(self.record, &raw const *self as usize, self.now.get());
        } else {
            self.idle_rounds.set(self.idle_rounds.get() + 1);
        }
    }

    /// Runs a thread, and those that it passes the CPU on to; gives what the last of them has left for.
    fn run_one(&self, thread: &'static Thread) -> Wish {
        self.turns.set(self.turns.get() + 1);
        // SAFETY: the thread was put here with its context complete, or has left it so.
        unsafe { switch::switch(&self.context, &thread.area, thread.away.context()) };
        let wish = self
            .present()
            .map_or(Wish::Turn, |thread| thread.away.take_wish());
        if wish == Wish::HomeByFrame {
            // With all its registers still there.
            extended::clear();
        }
        wish
    }

    fn remove(&self, index: usize) {
        let last = self.hosted_len.get() - 1;
        self.hosted[index].set(self.hosted[last].take());
        self.set_hosted_len(last);
    }

    /// Everything that a task needs before it can run threads.
    fn prepare(&self) -> Result<()> {
        schedule::pin_to(self.cpu)?;
        // SAFETY: the stack is this task's own; dispatch changes nothing for the image; the name is NUL-terminated.
        unsafe {
            pegasus_host::signal::alternate_stack(&self.signal_stack)?;
            let name = c"pegasus-worker".as_ptr() as usize;
            pegasus_host::process::prctl(PR_SET_NAME, name, 0, 0, 0)?;
            pegasus_host::process::prctl(
                PR_SET_SYSCALL_USER_DISPATCH,
                PR_SYS_DISPATCH_ON,
                IMAGE_BASE,
                IMAGE_LEN_MAX,
                0,
            )?;
        }
        pegasus_host::signal::set_mask(!TAKEN);
        schedule::tick(INTERRUPTION, TURN_NS)?;
        Ok(())
    }

    /// The thread that runs here has had its turn, or is wanted elsewhere.
    fn interrupt(&self, thread: &'static Thread, info: &SigInfo, uc: &mut UContext) {
        let is_tick = info.code == SI_TIMER;
        if is_tick && self.turns_at_tick.replace(self.turns.get()) != self.turns.get() {
            return;
        }
        let is_in_the_way = is_wanted_home(thread)
            || is_gone(thread)
            || self.record.hurry.load(Ordering::Relaxed) != 0;
        if !is_tick && !is_in_the_way {
            return;
        }
        if is_in_vkernel(uc) {
            thread.area.set_pending(pending::GO_HOME);
            receive::step_back(thread, uc);
        } else {
            self.take_away(thread, uc);
        }
    }

    /// Changes `uc`, with which the handler returns, so that the loop goes on.
    fn take_away(&self, thread: &Thread, uc: &mut UContext) {
        let away = &thread.away;
        away.turns.end(&thread.process().worker_time);
        away.keep_frame(uc);
        uc.mcontext.rip = switch::continuation();
        uc.mcontext.rdi = self.context.get();
        uc.mcontext.rsi = &raw const self.area as usize;
        uc.mcontext.eflags = EFLAGS_PLAIN;
        uc.sigmask = !TAKEN;
    }
}

/// `si_code` of a timer's signal.
const SI_TIMER: i32 = -2;
const EFLAGS_PLAIN: usize = 0x202;

fn is_wanted_home(thread: &Thread) -> bool {
    thread.area.pending.load(Ordering::Relaxed) & !pending::GO_HOME != 0
}

fn is_gone(thread: &Thread) -> bool {
    thread.process().record().is_gone.load(Ordering::Acquire) != 0
}

fn is_in_vkernel(uc: &UContext) -> bool {
    (VKERNEL_BASE..VKERNEL_END).contains(&uc.mcontext.rip)
}

/// First code of a worker. All signals are blocked.
pub extern "C" fn begin(area: &'static Area) {
    // SAFETY: prepared for this task alone; its task is the worker (see `create`).
    let worker = unsafe {
        pegasus_arch::task::attach(area);
        &*area.task.get().cast::<Worker>()
    };
    let record = worker.record;
    if worker.prepare().is_err() {
        record
            .state
            .store(WorkerState::Impossible as u32, Ordering::Release);
        pegasus_host::process::exit_thread(0);
    }
    record
        .tid
        .store(pegasus_host::process::tid(), Ordering::Relaxed);
    record
        .state
        .store(WorkerState::Ready as u32, Ordering::Release);
    worker.run()
}

/// The kernel-level handler of all workers. It runs on the worker's signal stack; the GS base is that of the worker's own area or of
/// the thread that it runs.
pub extern "C" fn on_signal(signal: u32, info: *mut SigInfo, uc: *mut UContext) {
    // SAFETY: both lie in the frame that Linux has just written; a worker always has an area.
    let (info, uc, area) = unsafe { (&*info, &mut *uc, area::current::<'static>()) };
    let rip = uc.mcontext.rip;
    if area.worker.get() == 0 {
        // Between two threads: there is nobody to interrupt.
        if signal != INTERRUPTION {
            crate::fault::die_of_own_fault(signal, rip, info.address());
        }
        return;
    }
    // SAFETY: a worker has set both, for the thread that it runs.
    let (worker, thread) = unsafe {
        (
            &*(area.worker.get() as *const Worker),
            &*area.task.get().cast::<Thread>(),
        )
    };
    if signal == INTERRUPTION {
        return worker.interrupt(thread, info, uc);
    }
    if signal == SIGSYS && info.code == SYS_USER_DISPATCH {
        return receive::on_dispatch(info, uc);
    }
    if !info.is_from_user()
        && let Some(resume) = usercopy::resume_after_fault(rip)
    {
        uc.mcontext.rip = resume;
        return;
    }
    if signal == SIGTRAP {
        // What has raised it is past; all else happens again at home, where it is the program's own fault.
        thread.away.keep_trap(info);
    }
    worker.take_away(thread, uc);
}
