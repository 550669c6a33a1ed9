//! A thread's way to a worker and back.
#![allow(unsafe_code)]

use crate::boot::home::announce_death_by_signal;
use crate::deadline::Deadline;
use crate::limits::FPSTATE_LEN_MAX;
use crate::schedule::cpu_time::Turns;
use crate::schedule::crowd::{self, Crowd};
use crate::schedule::worker::Worker;
use crate::signal::{ALL_BUT_KEPT, deliver, doorbell, receive};
use crate::syscall::table;
use crate::task::{Thread, header, instance_kind};
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicU32, Ordering};
use pegasus_abi::signal::{SIGKILL, SIGTRAP, SigFrame, SigInfo, UContext};
use pegasus_arch::area::{cycles, pending};
use pegasus_arch::gate;
use pegasus_arch::switch::{self, extended};
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::layout::{VKERNEL_BASE, VKERNEL_END};
use pegasus_contract::schedule::{WORKERS_MAX, WorkerRecord, WorkerState};
use pegasus_host::futex;

/// A thread that is away comes home so often at least, in cycles of the time-stamp counter: 5 to 20 ms.
pub const LEASE_CYCLES: u64 = 20_000_000;
/// The longest that a thread waits on a worker while others there have something to do: about a millisecond.
const WAIT_CYCLES_MAX: u64 = 2_000_000;
/// A wait that ends sooner than this is spent at home, whose timers are exact: a worker may be busy for as long.
const DEADLINE_NS_MIN: u64 = 10_000_000;
/// Rounds of a worker without anything to do after which its threads go to sleep …
const IDLE_ROUNDS_MAX: u32 = 2;
/// … and for how long there must have been nothing if another CPU may yet bring it: as long as threads look at home.
const IDLE_CYCLES_MAX: u64 = 100_000;
/// How long a home task sleeps before it asks whether its worker is still there.
const LOOK_FOR_WORKER_NS: u64 = 1_000_000_000;
/// A thread goes away after so many short waits at home …
const EAGERNESS_AWAY: u32 = 4;
const EAGERNESS_MAX: u32 = 64;
/// … and a trip home makes up for so many.
const EAGERNESS_PER_TRIP: u32 = 2;

/// Values of [`Away::place`].
const HOME: u32 = 0;
const AWAY: u32 = 1;
/// At home, to go on with the registers of a signal frame.
const HOME_BY_FRAME: u32 = 2;

/// What a thread has left its worker for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To let others run.
    Turn,
    Home,
    HomeByFrame,
}

/// What a thread needs to be away.
#[repr(C, align(64))]
pub struct Away {
    /// The FPU state of `frame`.
    fpstate: UnsafeCell<[u8; FPSTATE_LEN_MAX]>,
    /// The registers with which the thread was interrupted in container code on a worker.
    frame: UnsafeCell<SigFrame>,
    extended: extended::State,
    /// The rights by protection keys, if there are any.
    pkru: Cell<u32>,
    /// What goes with `frame`: the FS base, and what is to be delivered there.
    fs_base: Cell<usize>,
    trap: Cell<Option<SigInfo>>,
    /// Where its registers are while it does not run.
    context: Cell<usize>,
    /// Futex of the home task.
    place: AtomicU32,
    wish: Cell<Wish>,
    /// How much going away seems worth.
    eagerness: Cell<u32>,
    /// When the home task was last found fit to be represented by a worker, and by which.
    fit_since: Cell<u64>,
    cpu: Cell<usize>,
    /// What it has used of workers' CPUs.
    pub turns: Turns,
    /// The CPUs that the home task may use, if it is fit; as of `fit_since`.
    cpus: Cell<[u64; 4]>,
    crowd: Crowd,
}

impl Away {
    /// Sets everything but what is written before it is read.
    ///
    /// # Safety
    /// `place` must be the thread's own memory, used by nobody.
    pub unsafe fn write_at(place: *mut Away) {
        // SAFETY: the caller's promise.
        unsafe {
            extended::State::write_at(&raw mut (*place).extended);
            (&raw mut (*place).pkru).write(Cell::new(0));
            (&raw mut (*place).fs_base).write(Cell::new(0));
            (&raw mut (*place).trap).write(Cell::new(None));
            (&raw mut (*place).context).write(Cell::new(0));
            (&raw mut (*place).place).write(AtomicU32::new(HOME));
            (&raw mut (*place).wish).write(Cell::new(Wish::Turn));
            (&raw mut (*place).eagerness).write(Cell::new(0));
            (&raw mut (*place).fit_since).write(Cell::new(0));
            (&raw mut (*place).cpu).write(Cell::new(usize::MAX));
            (&raw mut (*place).turns).write(Turns::new());
            (&raw mut (*place).cpus).write(Cell::new([0; 4]));
            (&raw mut (*place).crowd).write(Crowd::new());
        }
    }

    pub fn context(&self) -> usize {
        self.context.get()
    }

    pub fn take_wish(&self) -> Wish {
        self.wish.replace(Wish::Turn)
    }

    fn change_eagerness(&self, change: impl FnOnce(u32) -> u32) {
        self.eagerness
            .set(change(self.eagerness.get()).min(EAGERNESS_MAX));
    }

    /// The home task goes on with the thread. Called on the worker, which has left the thread's stack.
    pub fn send_home(&self, wish: Wish) {
        let place = if wish == Wish::HomeByFrame {
            HOME_BY_FRAME
        } else {
            HOME
        };
        self.place.store(place, Ordering::Release);
        futex::wake(&self.place, 1);
    }

    /// Takes the registers and the FPU state out of a frame of the worker's.
    pub fn keep_frame(&self, uc: &UContext) {
        let len = receive::fpstate_len(uc.mcontext.fpstate);
        // SAFETY: the thread runs nowhere: its worker is in a signal handler, and its home task does not look at the frame
        // before it is sent home. The kernel wrote `len` bytes at `fpstate`.
        unsafe {
            let to = self.fpstate.get().cast::<u8>();
            core::ptr::copy_nonoverlapping(uc.mcontext.fpstate as *const u8, to, len);
            let frame = &mut *self.frame.get();
            frame.uc = *uc;
            if len > 0 {
                frame.uc.mcontext.fpstate = to as usize;
            }
        }
        self.fs_base.set(switch::fs_base());
        self.wish.set(Wish::HomeByFrame);
    }

    /// Keeps a trap that goes with the frame.
    pub fn keep_trap(&self, info: &SigInfo) {
        self.trap.set(Some(*info));
    }

    /// Keeps what a context does not, before the task is left.
    fn save(&self) {
        extended::save(&self.extended);
        if has_pkru() {
            self.pkru.set(switch::pkru());
        }
    }

    /// Gives it back.
    fn restore(&self) {
        extended::restore(&self.extended);
        if has_pkru() && switch::pkru() != self.pkru.get() {
            switch::set_pkru(self.pkru.get());
        }
    }
}

fn has_pkru() -> bool {
    header().schedule.has_pkru.load(Ordering::Relaxed) != 0
}

/// Whether a worker runs the calling thread.
pub fn is_away(thread: &Thread) -> bool {
    thread.area.worker.get() != 0
}

fn count(thread: &Thread, is_trip: bool) {
    // SAFETY: set at creation to a shard of the process's record, which outlives the thread.
    let shard = unsafe { &*thread.area.shard.get() };
    let counter = if is_trip {
        &shard.trips_home
    } else {
        &shard.switches
    };
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// The thread has waited at home, and not for long.
pub fn note_short_wait(thread: &Thread) {
    thread.away.change_eagerness(|eagerness| eagerness + 1);
}

/// The thread waits at home, and has several CPUs. Tells whether others want them too.
pub fn has_crowd(thread: &Thread) -> bool {
    note_company(thread);
    thread.away.crowd.is_enough()
}

/// Leaves a mark for others, and looks for theirs.
pub fn note_company(thread: &Thread) {
    let has_company = crowd::meet(&raw const *thread as usize, || {
        inspect_home(thread);
        thread.away.cpus.get()
    });
    thread.away.crowd.note(has_company);
}

/// Goes to a worker if that seems worth while. Tells whether the thread is there.
pub fn try_to_go(thread: &'static Thread, deadline: Deadline) -> bool {
    thread.away.eagerness.get() >= EAGERNESS_AWAY
        && instance_kind() == InstanceKind::Shared
        && deadline.is_after(DEADLINE_NS_MIN)
        && find_worker(thread).is_some_and(|record| go(thread, record))
}

/// Learns which CPUs the home task may use, if it is fit to be represented; then chooses one of them.
fn inspect_home(thread: &Thread) {
    let away = &thread.away;
    let now = cycles();
    if now.wrapping_sub(away.fit_since.get()) <= LEASE_CYCLES {
        return;
    }
    away.cpus.set(if is_fit(thread) {
        pegasus_host::schedule::first_cpus()
    } else {
        [0; 4]
    });
    away.cpu.set(choose_cpu(away).unwrap_or(usize::MAX));
    away.fit_since.set(now);
}

/// The worker that may represent the thread's home task.
fn find_worker(thread: &Thread) -> Option<&'static WorkerRecord> {
    let away = &thread.away;
    inspect_home(thread);
    let record = header().schedule.workers.get(away.cpu.get())?;
    match record.state.load(Ordering::Acquire) {
        _ if record.is_at_work() => Some(record),
        state => {
            if state == WorkerState::Absent as u32 {
                ask_for(record);
            }
            // Not again with each wait.
            away.eagerness.set(0);
            None
        }
    }
}

/// Whether the thread's home task may use more than one CPU.
fn has_several_cpus(away: &Away) -> bool {
    away.cpus
        .get()
        .iter()
        .map(|word| word.count_ones())
        .sum::<u32>()
        > 1
}

/// Of the CPUs that the home task may use, the one whose worker has least to do; rather than another as good, the last one, or at
/// first the present one: many may choose at the same time.
fn choose_cpu(away: &Away) -> Option<usize> {
    let cpus = away.cpus.get();
    let last = match away.cpu.get() {
        usize::MAX => switch::current_cpu(),
        last => last,
    };
    let workers = &header().schedule.workers;
    crowd::each_of(cpus).min_by_key(|&cpu| (workers[cpu].load.load(Ordering::Relaxed), cpu != last))
}

fn ask_for(record: &WorkerRecord) {
    let (absent, wanted) = (WorkerState::Absent as u32, WorkerState::Wanted as u32);
    let done = record
        .state
        .compare_exchange(absent, wanted, Ordering::AcqRel, Ordering::Relaxed);
    if done.is_ok() {
        ring_monitor();
    }
}

fn ring_monitor() {
    let doorbell = &header().schedule.doorbell;
    doorbell.fetch_add(1, Ordering::Release);
    futex::wake(doorbell, 1);
}

/// Whether a worker can do for the thread what its home task does: no more is known to it of CPU time, priorities and filters than
/// that they are as usual.
fn is_fit(thread: &Thread) -> bool {
    let process = thread.process();
    let schedule = &header().schedule;
    schedule.has_monitor.load(Ordering::Acquire) != 0
        && header().containers[process.container as usize]
            .stays_home
            .load(Ordering::Relaxed)
            == 0
        && process.is_resident()
        && !process.is_borrower()
        && !process.has_filter()
        && !process.stays_home()
        && pegasus_host::schedule::is_ordinary()
}

/// Leaves the thread to a worker, and this task asleep. Tells whether a worker has taken it.
fn go(thread: &'static Thread, record: &'static WorkerRecord) -> bool {
    if extended::is_immovable() {
        return false;
    }
    let away = &thread.away;
    away.place.store(AWAY, Ordering::Relaxed);
    away.cpu.set(index_of(record));
    // Until the worker puts its own address there.
    thread.area.worker.set(1);
    thread.area.served.set(table::SERVED_AWAY.as_ptr());
    away.save();
    away.turns.leave_home(&thread.process().worker_time);
    // SAFETY: the stack is the thread's own and unused while it is at home.
    unsafe {
        let top = thread.park_stack_top();
        switch::switch_to_stack(&away.context, top, park, &raw const *thread as usize);
    }
    arrive(thread);
    is_away(thread)
}

fn index_of(record: &WorkerRecord) -> usize {
    let first = header().schedule.workers.as_ptr() as usize;
    ((&raw const *record as usize).wrapping_sub(first) / size_of::<WorkerRecord>())
        .min(WORKERS_MAX - 1)
}

/// What the home task does while its thread is away.
extern "C" fn park(thread: usize) -> ! {
    // SAFETY: `go` passes its own thread.
    let thread = unsafe { &*(thread as *const Thread) };
    let away = &thread.away;
    let record = &header().schedule.workers[away.cpu.get()];
    if !Worker::offer(record, thread) {
        away.place.store(HOME, Ordering::Relaxed);
    }
    loop {
        match away.place.load(Ordering::Acquire) {
            AWAY => {
                futex::wait_for(&away.place, AWAY, LOOK_FOR_WORKER_NS);
                if away.place.load(Ordering::Acquire) == AWAY && !record.is_at_work() {
                    die_with_worker(thread);
                }
            }
            HOME_BY_FRAME => finish_by_frame(thread),
            // SAFETY: the worker has left the thread's context complete and goes on there no more.
            _ => unsafe { switch::go_on(&thread.area, away.context.get()) },
        }
    }
}

/// The worker has been killed, by an administrator or for want of memory. What it was doing for its threads nobody can finish: their
/// processes end as if they had been killed themselves. Called on the home task's stack for parking.
fn die_with_worker(thread: &Thread) -> ! {
    thread.area.worker.set(0);
    announce_death_by_signal(thread.process(), SIGKILL);
    let (process, task) = (pegasus_host::process::pid(), pegasus_host::process::tid());
    let _ = pegasus_host::signal::send_to_thread(process, task, SIGKILL);
    // The first process of a namespace cannot kill itself.
    pegasus_host::process::exit_group(128 + SIGKILL as i32)
}

/// First thing after a switch: on the worker, or at home again.
fn arrive(thread: &Thread) {
    thread.away.restore();
    if thread.away.place.load(Ordering::Relaxed) == HOME {
        settle_at_home(thread);
    } else {
        thread.away.turns.begin(&thread.process().worker_time);
    }
}

fn settle_at_home(thread: &Thread) {
    thread.area.worker.set(0);
    thread.area.served.set(table::SERVED.as_ptr());
    thread.area.clear_pending(pending::GO_HOME);
}

/// The worker of a thread that is away.
fn worker_of(thread: &Thread) -> &'static Worker {
    // SAFETY: set by the worker when it took the thread over; workers live as long as the instance.
    unsafe { &*(thread.area.worker.get() as *const Worker) }
}

/// Leaves the worker's task; returns when it is this thread's turn again, or at home.
fn leave(thread: &'static Thread, wish: Wish) {
    let worker = worker_of(thread);
    let away = &thread.away;
    away.wish.set(wish);
    away.turns.end(&thread.process().worker_time);
    away.save();
    let next = if wish == Wish::Turn {
        worker.pass_on()
    } else {
        None
    };
    let (area, context) = match next {
        Some(next) => (&next.area, next.away.context()),
        None => (worker.area(), worker.context()),
    };
    // SAFETY: the worker, or another of its threads, waits there for its turn.
    unsafe { switch::switch(&away.context, area, context) };
    arrive(thread);
}

/// Goes on on the home task, from wherever the thread is.
pub fn go_home(thread: &'static Thread) {
    if !is_away(thread) {
        return;
    }
    count(thread, true);
    // A worker that has taken the thread back without need sends it home when asked again.
    while is_away(thread) {
        leave(thread, Wish::Home);
    }
}

/// [`go_home`] for a call that only the home task can make.
pub fn go_home_for_call(thread: &'static Thread) {
    if !is_away(thread) {
        return;
    }
    thread
        .away
        .change_eagerness(|eagerness| eagerness.saturating_sub(EAGERNESS_PER_TRIP));
    go_home(thread);
}

/// [`go_home_for_call`] for the calling thread, if it is one of the vkernel's and away.
pub fn go_home_if_away() {
    // SAFETY: registered only where there is FSGSBASE; every other GS base than 0 is an area's.
    let area = unsafe { pegasus_arch::area::current_if_any() };
    if area.is_some_and(|area| area.worker.get() != 0) {
        go_home_for_call(Thread::current());
    }
}

#[unsafe(no_mangle)]
extern "C" fn pegasus_go_home() {
    go_home_for_call(Thread::current());
}

/// Looks until `is_ready`, letting others on the worker run meanwhile. Tells whether to try again rather than to sleep; the thread may be
/// at home then.
pub fn look(
    thread: &'static Thread,
    deadline: Deadline,
    mut is_ready: impl FnMut() -> bool,
) -> bool {
    let worker = worker_of(thread);
    let begin = worker.now();
    if begin.wrapping_sub(thread.away.fit_since.get()) > LEASE_CYCLES {
        if crowd::is_another_free(thread.away.cpus.get(), thread.away.cpu.get()) {
            thread.away.crowd.forget();
        }
        go_home(thread);
        return true;
    }
    let mut has_looked = false;
    loop {
        let is_ready = is_ready();
        if !is_away(thread) {
            // Looking took a call of Linux's.
            return true;
        }
        if is_ready {
            worker.note_progress();
            if has_looked {
                thread.away.change_eagerness(|eagerness| eagerness + 1);
                let is_crowd_gone = thread.away.crowd.note_on_worker(worker.is_alone());
                if is_crowd_gone && has_several_cpus(&thread.away) {
                    go_home(thread);
                }
            }
            return true;
        }
        match thread.area.pending.load(Ordering::Relaxed) {
            0 => {}
            pending::GO_HOME => {
                go_home(thread);
                return true;
            }
            _ => return true,
        }
        if !deadline.is_after(DEADLINE_NS_MIN) {
            go_home(thread);
            return !has_looked;
        }
        let is_idle = has_looked && is_idle(thread, worker);
        if is_idle {
            thread.away.crowd.halve();
        }
        if is_idle || worker.now().wrapping_sub(begin) > WAIT_CYCLES_MAX {
            go_home(thread);
            return false;
        }
        has_looked = true;
        count(thread, false);
        leave(thread, Wish::Turn);
        if !is_away(thread) {
            return true;
        }
    }
}

/// Whether there has been nothing to do on the worker for long enough to sleep.
fn is_idle(thread: &Thread, worker: &Worker) -> bool {
    worker.idle_rounds() > IDLE_ROUNDS_MAX
        && (!has_several_cpus(&thread.away) || worker.idle_cycles() > IDLE_CYCLES_MAX)
}

/// Something has become pending for a thread, which its home task has noticed in a signal handler.
pub fn note_pending(thread: &Thread) {
    if !is_away(thread) {
        return;
    }
    if let Some(record) = header().schedule.workers.get(thread.away.cpu.get()) {
        record.attention.store(1, Ordering::Release);
        ring_monitor();
    }
}

/// Goes on, on the home task, where the thread was interrupted on the worker.
fn finish_by_frame(thread: &'static Thread) -> ! {
    settle_at_home(thread);
    count(thread, true);
    let away = &thread.away;
    away.place.store(HOME, Ordering::Relaxed);
    // Who computes for long is better off here.
    away.eagerness.set(0);
    switch::set_fs_base(away.fs_base.get());
    // SAFETY: the worker has filled it in and uses it no more.
    let frame = unsafe { &mut *away.frame.get() };
    frame.uc.stack = *thread.signal_stack();
    let is_in_vkernel = (VKERNEL_BASE..VKERNEL_END).contains(&frame.uc.mcontext.rip);
    if is_in_vkernel {
        // A fault of the vkernel's own, which happens again now.
        pegasus_host::signal::set_mask(!0);
        frame.uc.sigmask = ALL_BUT_KEPT;
    } else {
        deliver_all(thread, &mut frame.uc);
    }
    // SAFETY: all signals are blocked until the frame is in force; it resumes what the worker interrupted.
    unsafe { gate::sigreturn_now(frame) }
}

/// Delivers what has come for a thread that was interrupted in container code on a worker. All signals are blocked afterwards.
fn deliver_all(thread: &'static Thread, uc: &mut UContext) {
    let rewriter = thread.process().rewriter;
    let mut trap = thread.away.trap.take();
    if trap.is_some()
        && let Some(resume) = rewriter.resume_at_patched(uc.mcontext.rip, SIGTRAP)
    {
        uc.mcontext.rip = resume;
        trap = None;
    }
    uc.mcontext.rip = rewriter.original_address(uc.mcontext.rip);
    // The mask that the container has, once it is known.
    let mut mask = None;
    loop {
        let present = pegasus_host::signal::set_mask(!0);
        let bits = thread.area.pending.load(Ordering::Relaxed);
        let stash = thread.stash();
        let is_stashed = bits & pending::SIGNAL != 0;
        let before = if is_stashed {
            stash.uc.sigmask
        } else {
            present
        };
        uc.sigmask = *mask.get_or_insert(before);
        let due = trap.take().or_else(|| {
            is_stashed.then(|| {
                stash.valid = false;
                thread.area.clear_pending(pending::SIGNAL);
                stash.info
            })
        });
        if let Some(info) = due {
            pegasus_host::signal::set_mask(ALL_BUT_KEPT);
            deliver::from_kernel_frame(thread, &info, uc);
            mask = Some(uc.sigmask);
        } else if bits & pending::DOORBELL != 0 {
            thread.area.clear_pending(pending::DOORBELL);
            pegasus_host::signal::set_mask(uc.sigmask);
            doorbell::answer(thread);
        } else {
            return;
        }
    }
}
