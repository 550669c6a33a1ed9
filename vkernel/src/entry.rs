//! Where calls and signals come in from the gate.
#![allow(unsafe_code)]

use crate::schedule::away::{self, is_away};
use crate::signal::{deliver, doorbell, receive};
use crate::syscall::table;
use crate::task::Thread;
use crate::trace;
use core::sync::atomic::{AtomicU64, Ordering};
use pegasus_abi::errno::to_return;
use pegasus_abi::nr::NR_LEN;
use pegasus_arch::area::pending;
use pegasus_arch::regs::Regs;

/// One system call of a container.
pub struct Call {
    pub thread: &'static Thread,
    pub args: [usize; 6],
    pub nr: usize,
}

/// The slow path of a call: served calls, trapped calls, and all calls while tracing.
#[unsafe(no_mangle)]
extern "C" fn pegasus_syscall(regs: &mut Regs) {
    let thread = Thread::current();
    // Like Linux, only the low half of RAX counts.
    let nr = regs.rax & 0xffff_ffff;
    let trapped = thread.area.path.get() == 1;
    count(thread, nr, trapped);
    // A child that borrows its parent's memory leaves its locks alone: it may be killed without its parent.
    if trapped && !thread.process().is_borrower() {
        thread
            .process()
            .rewriter
            .note_trap(thread.process(), regs.rip - 2, nr);
    }
    if is_away(thread) && !table::runs_away(nr) {
        away::go_home(thread);
    }
    let call = Call {
        thread,
        args: regs.args(),
        nr,
    };
    let started = trace::begin(&call);
    let result = to_return(table::dispatch(&call));
    trace::end(&call, started, result);
    // A call that changed the saved registers (execve) has done so knowingly and set its own RAX.
    regs.rax = result;
    if !thread.has_pending() {
        // Given up for a signal that was not for the container after all.
        deliver::restart_call(regs);
    }
}

fn count(thread: &Thread, nr: usize, trapped: bool) {
    // SAFETY: set at creation to a shard of the process's record, which outlives the thread.
    let shard = unsafe { &*thread.area.shard.get() };
    let path = if trapped {
        &shard.trapped
    } else {
        &shard.rewritten
    };
    let row = &shard.calls[nr.min(NR_LEN - 1)];
    let served = &shard.served;
    bump(path);
    bump(row);
    if table::is_served(nr) {
        bump(served);
    }
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Something is pending on the way out.
#[unsafe(no_mangle)]
extern "C" fn pegasus_exit_hook(regs: &mut Regs) {
    let thread = Thread::current();
    away::go_home(thread);
    // SAFETY: on the way out, the area has the container's XMM registers, and nobody else the rest.
    unsafe { receive::recapture(thread) };
    let bits = thread.area.pending.load(Ordering::Relaxed);
    if bits & pending::DOORBELL != 0 {
        thread.area.clear_pending(pending::DOORBELL);
        doorbell::answer(thread);
    }
    if bits & pending::SIGNAL != 0 {
        deliver::from_stash(thread, regs);
    }
    deliver::restart_call(regs);
}
