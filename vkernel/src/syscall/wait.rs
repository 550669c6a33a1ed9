//! Calls that wait with another signal mask than the thread's, or for a signal: sigsuspend(2), ppoll(2), pselect(2),
//! epoll_pwait(2), sigtimedwait(2).
//!
//! Linux does the waiting. The vkernel takes the signals that it must always get out of the masks, and remembers the
//! mask: a handler that ends the wait starts with that one, and not with the thread's.

use crate::entry::Call;
use crate::signal::{KEPT, UNBLOCKABLE, doorbell};
use crate::syscall::table::{forward, forward_as};
use crate::usermem::UserPtr;
use pegasus_abi::signal::{SigInfo, SigSet, bit};
use pegasus_abi::{Errno, Result};
use pegasus_arch::area::pending;

const SIGSET_LEN: usize = size_of::<SigSet>();

pub fn rt_sigsuspend(call: &Call) -> Result {
    with_mask(call, 0, call.args[0], call.args[1])
}

pub fn ppoll(call: &Call) -> Result {
    with_mask(call, 3, call.args[3], call.args[4])
}

pub fn epoll_pwait(call: &Call) -> Result {
    with_mask(call, 4, call.args[4], call.args[5])
}

/// The mask's address and length lie in memory, one call argument being short.
pub fn pselect6(call: &Call) -> Result {
    let Ok([mask_at, len]) = UserPtr(call.args[5]).read::<[u64; 2]>() else {
        return forward(call);
    };
    let Some(mask) = read_mask(mask_at as usize, len as usize) else {
        return forward(call);
    };
    let kernel_mask = mask & !KEPT;
    let pair = [&raw const kernel_mask as usize, SIGSET_LEN];
    let mut args = call.args;
    args[5] = pair.as_ptr() as usize;
    finish(call, mask, forward_as(call.nr, &args))
}

/// Forwards a call whose argument number `at` is the address of a mask.
fn with_mask(call: &Call, at: usize, mask_at: usize, len: usize) -> Result {
    // None, or one that Linux refuses.
    let Some(mask) = read_mask(mask_at, len) else {
        return forward(call);
    };
    let kernel_mask = mask & !KEPT;
    let mut args = call.args;
    args[at] = &raw const kernel_mask as usize;
    finish(call, mask, forward_as(call.nr, &args))
}

fn read_mask(address: usize, len: usize) -> Option<SigSet> {
    if address == 0 || len != SIGSET_LEN {
        return None;
    }
    UserPtr(address).read().ok()
}

fn finish(call: &Call, mask: SigSet, result: Result) -> Result {
    let thread = call.thread;
    if result == Err(Errno::EINTR) && thread.stash().valid {
        thread.waiting_mask.set(Some(mask & !UNBLOCKABLE));
    }
    result
}

/// sigtimedwait(2): what the vkernel holds back may be waited for, and a doorbell is not the program's to take.
pub fn rt_sigtimedwait(call: &Call) -> Result {
    let [set_at, info_at, timeout, len, ..] = call.args;
    let mut taken = SigInfo::ZERO;
    let wanted = read_mask(set_at, len).unwrap_or(0);
    let held = call.thread.held.get();
    let signal = match held.filter(|held| wanted & bit(held.signo as u32) != 0) {
        Some(held) => {
            call.thread.held.set(None);
            taken = held;
            held.signo as usize
        }
        None => {
            let args = [set_at, &raw mut taken as usize, timeout, len, 0, 0];
            forward_as(call.nr, &args)?
        }
    };
    if doorbell::is_doorbell(&taken) {
        call.thread.area.set_pending(pending::DOORBELL);
        return Err(Errno::ERESTARTSYS);
    }
    if info_at != 0 {
        UserPtr(info_at).write(&taken)?;
    }
    Ok(signal)
}
