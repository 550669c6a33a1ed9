//! One thread of a process asking another to come out of container code, or out of a blocked call.
//!
//! The bell is a SIGSYS, which is never blocked at kernel level, queued with a value that only the vkernel
//! of this process knows. What the rung thread shall do stands in the process, not in the signal.

use crate::exec;
use crate::task::{Process, Thread};
use core::sync::atomic::Ordering;
use pegasus_abi::signal::{SI_QUEUE, SIGSYS, SigInfo};

/// `si_value` of a doorbell: an address that no container can have put there by chance.
fn cookie(process: &Process) -> u64 {
    &raw const *process as u64
}

pub fn is_doorbell(info: &SigInfo) -> bool {
    info.code == SI_QUEUE && info.fields[1] == cookie(Process::current())
}

/// Rings `thread`, of the same process.
pub fn ring(thread: &Thread) {
    let process = thread.process();
    let mut info = SigInfo {
        signo: SIGSYS as i32,
        code: SI_QUEUE,
        ..SigInfo::ZERO
    };
    info.fields[1] = cookie(process);
    let _ = pegasus_host::signal::queue_to_thread(process.pid(), thread.tid(), &info);
}

/// What a rung thread does, in container code or on its way out of the vkernel: while the program is being replaced, it
/// leaves, or, as the leader, takes the load over. Otherwise the bell was stale.
pub fn answer(thread: &'static Thread) {
    let owner = thread.process().exec_owner.load(Ordering::Acquire);
    if owner == thread.tid() as u32 {
        exec::take_over(thread);
    } else if owner != 0 {
        exec::give_way(thread);
    }
}
