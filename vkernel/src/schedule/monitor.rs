//! The monitor: a process of the instance that makes workers when they are wanted, and interrupts those that run a thread that is wanted
//! at home. It is asleep but for that.
#![allow(unsafe_code)]

use crate::schedule::away;
use crate::schedule::worker::{self, Worker};
use crate::signal::KEPT;
use crate::task::header;
use core::sync::atomic::Ordering;
use pegasus_abi::Result;
use pegasus_abi::clone::{
    CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_SYSVSEM, CLONE_THREAD,
    CLONE_VM,
};
use pegasus_abi::prctl::PR_SET_NAME;
use pegasus_abi::signal::{
    SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SIG_DFL, SIGKILL, SIGNALS_MAX, SIGSTOP, SigAction, bit,
};
use pegasus_arch::area::Area;
use pegasus_arch::switch::{self, extended};
use pegasus_contract::schedule::WorkerState;
use pegasus_host::{futex, process};

/// Index in [`Worker::create`] for the monitor's own stack; it becomes no worker.
const ANY_CPU: usize = 0;

/// Makes the monitor, unless there is one or the machine cannot have workers. The caller's death ends it.
pub fn begin() {
    let schedule = &header().schedule;
    if schedule.has_monitor.load(Ordering::Relaxed) != 0
        || !extended::is_supported()
        || !has_fsgsbase()
        || start().is_err()
    {
        return;
    }
    schedule
        .has_pkru
        .store(u32::from(switch::has_pkru()), Ordering::Relaxed);
    pegasus_host::raw::set_go_home(away::go_home_if_away);
    schedule.has_monitor.store(1, Ordering::Release);
}

/// Whether Linux lets programs set their FS and GS bases.
fn has_fsgsbase() -> bool {
    const AT_HWCAP2: u64 = 26;
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    header().auxv.iter().any(|pair| {
        pair[0].load(Ordering::Relaxed) == AT_HWCAP2
            && pair[1].load(Ordering::Relaxed) & HWCAP2_FSGSBASE != 0
    })
}

fn start() -> Result {
    let stack_owner = Worker::create(ANY_CPU)?;
    let mask = pegasus_host::signal::set_mask(!0);
    // SAFETY: the stack is unused; signals are blocked. The child shares memory only: descriptors it closes, handlers it sets.
    let cloned = unsafe {
        let stack = pegasus_arch::task::prepare_child(stack_owner.area(), run);
        pegasus_arch::task::clone(CLONE_VM, stack, 0, 0, 0)
    };
    pegasus_host::signal::set_mask(mask);
    cloned
}

/// First code of the monitor. All signals are blocked, and stay so.
extern "C" fn run(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    crate::boot::home::die_with_parent();
    // SAFETY: the name is NUL-terminated.
    let _ = unsafe { process::prctl(PR_SET_NAME, c"pegasus-workers".as_ptr() as usize, 0, 0, 0) };
    let _ = pegasus_host::file::close_range(0, u32::MAX as usize, 0);
    if install_handlers().is_err() {
        process::exit_group(1);
    }
    let doorbell = &header().schedule.doorbell;
    loop {
        let rung = doorbell.load(Ordering::Acquire);
        answer();
        futex::wait(doorbell, rung);
    }
}

fn install_handlers() -> Result<()> {
    let taken = SigAction {
        handler: worker::on_signal as *const () as usize,
        flags: SA_SIGINFO | SA_ONSTACK | SA_RESTORER,
        restorer: pegasus_arch::task::restorer(),
        mask: !KEPT,
    };
    let default = SigAction {
        handler: SIG_DFL,
        ..SigAction::default()
    };
    for signal in (1..=SIGNALS_MAX).filter(|&signal| signal != SIGKILL && signal != SIGSTOP) {
        let is_taken = worker::TAKEN & bit(signal) != 0;
        let action = if is_taken { &taken } else { &default };
        // SAFETY: the handler may run anywhere on a worker; the monitor blocks all.
        unsafe { pegasus_host::signal::action(signal, Some(action), None)? };
    }
    Ok(())
}

fn answer() {
    for (cpu, record) in header().schedule.workers.iter().enumerate() {
        let state = record.state.load(Ordering::Acquire);
        if state == WorkerState::Wanted as u32 && make(cpu).is_err() {
            record
                .state
                .store(WorkerState::Impossible as u32, Ordering::Release);
        }
        if record.attention.swap(0, Ordering::AcqRel) != 0 {
            let tid = record.tid.load(Ordering::Relaxed);
            // If it is asleep, it has nobody to interrupt.
            let _ = pegasus_host::signal::send_to_thread(process::pid(), tid, worker::INTERRUPTION);
        }
    }
}

fn make(cpu: usize) -> Result {
    let worker = Worker::create(cpu)?;
    let flags = CLONE_VM
        | CLONE_FS
        | CLONE_FILES
        | CLONE_SIGHAND
        | CLONE_THREAD
        | CLONE_SYSVSEM
        | CLONE_CHILD_CLEARTID;
    let alive = &header().schedule.workers[cpu].alive;
    alive.store(1, Ordering::Relaxed);
    // SAFETY: the stack is unused, and signals are blocked; Linux clears the word when the worker ends.
    unsafe {
        let stack = pegasus_arch::task::prepare_child(worker.area(), worker::begin);
        pegasus_arch::task::clone(flags, stack, 0, alive.as_ptr() as usize, 0)
    }
}
