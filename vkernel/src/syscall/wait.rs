//! Calls that wait with another signal mask than the thread's, or for a signal: sigsuspend(2), ppoll(2), pselect(2),
//! epoll_pwait(2), sigtimedwait(2); and for a child: wait4(2), waitid(2).
//!
//! Linux does the waiting, unless sockets with rings are among what is waited for. The vkernel takes the signals that it must always get out of the masks, and remembers the
//! mask: a handler that ends the wait starts with that one, and not with the thread's.

use crate::entry::Call;
use crate::epoll::wait;
use crate::signal::{KEPT, UNBLOCKABLE, doorbell};
use crate::socket::descriptors::{Entry, Table};
use crate::syscall::poll;
use crate::syscall::table::{forward, forward_as};
use crate::task::record;
use crate::usermem::UserPtr;
use pegasus_abi::poll::Timespec;
use pegasus_abi::signal::{SigInfo, SigSet, bit};
use pegasus_abi::{Errno, Result, nr};
use pegasus_arch::area::pending;

const SIGSET_LEN: usize = size_of::<SigSet>();

pub fn rt_sigsuspend(call: &Call) -> Result {
    with_mask(call, 0, call.args[0], call.args[1])
}

pub fn ppoll(call: &Call) -> Result {
    let [_, _, _, mask_at, len, _] = call.args;
    let mask = read_mask(mask_at, len);
    // A mask that Linux refuses.
    let is_plain = mask_at != 0 && mask.is_none();
    let done = if is_plain {
        None
    } else {
        poll::ppoll(call, mask.as_ref())
    };
    done.unwrap_or_else(|| with_mask(call, 3, mask_at, len))
}

pub fn epoll_wait(call: &Call) -> Result {
    let Entry::Set(set) = Table::of(call.thread.process()).get(call.args[0]) else {
        return forward(call);
    };
    wait::epoll_wait(call, set, milliseconds(call.args[3]), None)
}

fn milliseconds(timeout: usize) -> Option<Timespec> {
    let timeout = i64::from(timeout as i32);
    (timeout >= 0).then(|| Timespec {
        sec: timeout / 1000,
        nsec: timeout % 1000 * 1_000_000,
    })
}

/// epoll_pwait(2) and epoll_pwait2(2).
pub fn epoll_pwait(call: &Call) -> Result {
    let [set_fd, _, _, timeout, mask_at, len] = call.args;
    let Entry::Set(set) = Table::of(call.thread.process()).get(set_fd) else {
        return with_mask(call, 4, mask_at, len);
    };
    let mask = read_mask(mask_at, len);
    if mask_at != 0 && mask.is_none() {
        return forward(call);
    }
    let timeout = if call.nr == nr::EPOLL_PWAIT {
        milliseconds(timeout)
    } else if timeout == 0 {
        None
    } else {
        let time: Timespec = UserPtr(timeout).read()?;
        if time.sec < 0 || !(0..1_000_000_000).contains(&time.nsec) {
            return Err(Errno::EINVAL);
        }
        Some(time)
    };
    wait::epoll_wait(call, set, timeout, mask.as_ref())
}

/// The mask's address and length lie in memory, one call argument being short.
pub fn pselect6(call: &Call) -> Result {
    let pair = UserPtr(call.args[5]).read::<[u64; 2]>();
    if pair.is_err() && call.args[5] != 0 {
        return forward(call);
    }
    let [mask_at, len] = pair.unwrap_or_default();
    let mask = read_mask(mask_at as usize, len as usize);
    if (mask_at == 0 || mask.is_some())
        && let Some(done) = poll::pselect6(call, mask.as_ref())
    {
        return done;
    }
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

/// wait4(2): Linux's. A child that was killed has left things open that only the vkernel knows of.
pub fn wait4(call: &Call) -> Result {
    let pid = forward(call)?;
    if pid != 0 {
        record::bury_child(pid as i32);
    }
    Ok(pid)
}

/// waitid(2): the same.
pub fn waitid(call: &Call) -> Result {
    const P_PID: usize = 1;
    let [kind, id, info_at, ..] = call.args;
    let done = forward(call)?;
    /// Of `si_pid` in a `siginfo_t`.
    const PID_OFFSET: usize = 16;
    let told = (info_at != 0).then(|| UserPtr(info_at + PID_OFFSET).read::<u32>());
    let pid = match told {
        Some(Ok(pid)) => pid as i32,
        _ if kind & 0xffff_ffff == P_PID => id as i32,
        _ => 0,
    };
    if pid > 0 {
        record::bury_child(pid);
    }
    Ok(done)
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
