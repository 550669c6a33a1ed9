//! sigaction(2), sigprocmask(2), sigaltstack(2) and sigreturn(2).
#![allow(unsafe_code)]

use crate::entry::Call;
use crate::signal::deliver::{self, altstack_as_seen};
use crate::signal::receive::kernel_action;
use crate::signal::{KEPT, UNBLOCKABLE, is_kept};
use crate::syscall::table::forward_as;
use crate::task::Thread;
use crate::usermem::UserPtr;
use pegasus_abi::signal::{
    MINSIGSTKSZ, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_RESETHAND, SA_RESTART, SIG_BLOCK,
    SIG_DFL, SIG_IGN, SIG_SETMASK, SIG_UNBLOCK, SIGKILL, SIGNALS_MAX, SIGSTOP, SS_AUTODISARM,
    SS_DISABLE, SS_ONSTACK, SigAction, SigFrame, SigSet, StackT, bit,
};
use pegasus_abi::{Errno, Result, nr};
use pegasus_arch::gate;

const SIGSET_LEN: usize = size_of::<SigSet>();

pub fn rt_sigaction(call: &Call) -> Result {
    let [signal, new, old, set_len, ..] = call.args;
    let (new, old) = (UserPtr(new), UserPtr(old));
    if set_len != SIGSET_LEN {
        return Err(Errno::EINVAL);
    }
    let action: Option<SigAction> = if new.is_null() {
        None
    } else {
        Some(new.read()?)
    };
    let signal = u32::try_from(signal)
        .ok()
        .filter(|signal| (1..=SIGNALS_MAX).contains(signal));
    let signal = signal.ok_or(Errno::EINVAL)?;
    if action.is_some() && (signal == SIGKILL || signal == SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let mut actions = call.thread.process().actions.lock();
    let entry = &mut actions[signal as usize - 1];
    let before = *entry;
    if let Some(mut action) = action {
        action.mask &= !UNBLOCKABLE;
        set_kernel_action(signal, &action)?;
        *entry = action;
    }
    drop(actions);
    if !old.is_null() {
        old.write(&before)?;
    }
    Ok(0)
}

/// Makes the kernel-level action fit the container-level one.
fn set_kernel_action(signal: u32, action: &SigAction) -> Result {
    if is_kept(signal) {
        return Ok(0);
    }
    let flags = action.flags & (SA_NOCLDSTOP | SA_NOCLDWAIT);
    let kernel = match action.handler {
        handler @ (SIG_DFL | SIG_IGN) => SigAction {
            handler,
            flags,
            ..SigAction::default()
        },
        // SA_NODEFER and SA_RESETHAND are carried out when the program's handler is entered.
        _ => kernel_action(action.flags & !(SA_NODEFER | SA_RESETHAND) & (flags | SA_RESTART)),
    };
    // SAFETY: the vkernel's handler may run anywhere; the others are no code.
    unsafe { pegasus_host::signal::action(signal, Some(&kernel), None) }
}

/// Splits a mask into what Linux is told and what the vkernel keeps in mind.
fn split(mask: SigSet) -> (SigSet, SigSet) {
    (mask & !KEPT, mask & KEPT)
}

pub fn rt_sigprocmask(call: &Call) -> Result {
    let [how, set, old, set_len, ..] = call.args;
    let (set, old) = (UserPtr(set), UserPtr(old));
    if set_len != SIGSET_LEN {
        return Err(Errno::EINVAL);
    }
    let wanted: Option<SigSet> = if set.is_null() {
        None
    } else {
        Some(set.read()?)
    };
    if wanted.is_some() && !matches!(how, SIG_BLOCK | SIG_UNBLOCK | SIG_SETMASK) {
        return Err(Errno::EINVAL);
    }
    let (kernel_set, hidden_set) = split(wanted.unwrap_or(0));
    let mut kernel_old: SigSet = 0;
    let set_pointer = wanted.map_or(0, |_| &raw const kernel_set as usize);
    let args = [
        how,
        set_pointer,
        &raw mut kernel_old as usize,
        SIGSET_LEN,
        0,
        0,
    ];
    // Forwarded: given up if a signal has come, so that the mask the kernel has is the container's.
    forward_as(nr::RT_SIGPROCMASK, &args)?;
    let hidden = call.thread.hidden_mask.get();
    if wanted.is_some() {
        set_hidden_mask(
            call.thread,
            match how {
                SIG_BLOCK => hidden | hidden_set,
                SIG_UNBLOCK => hidden & !hidden_set,
                _ => hidden_set,
            },
        );
    }
    if !old.is_null() {
        old.write(&(kernel_old | hidden))?;
    }
    Ok(0)
}

/// Changes what is blocked of the kept signals; a held one that is no longer blocked comes again.
fn set_hidden_mask(thread: &Thread, hidden: SigSet) {
    thread.hidden_mask.set(hidden);
    if let Some(info) = thread.held.get()
        && hidden & bit(info.signo as u32) == 0
    {
        thread.held.set(None);
        let _ = pegasus_host::signal::queue_to_thread(thread.process().pid(), thread.tid(), &info);
    }
}

pub fn rt_sigpending(call: &Call) -> Result {
    let [set, set_len, ..] = call.args;
    if set_len > SIGSET_LEN {
        return Err(Errno::EINVAL);
    }
    let held = call
        .thread
        .held
        .get()
        .map_or(0, |info| bit(info.signo as u32));
    let pending = (pegasus_host::signal::pending() | held).to_le_bytes();
    UserPtr(set).write_bytes(&pending[..set_len])?;
    Ok(0)
}

pub fn sigaltstack(call: &Call) -> Result {
    let [new, old, ..] = call.args;
    let (new, old) = (UserPtr(new), UserPtr(old));
    let current = call.thread.altstack.get();
    let rsp = call.thread.regs().rsp;
    let wanted = if new.is_null() {
        None
    } else {
        let mut stack = StackT::DISABLED;
        new.read_into(&mut stack)?;
        Some(stack)
    };
    if let Some(stack) = wanted {
        call.thread
            .altstack
            .set(checked_altstack(&current, stack, rsp)?);
    }
    if !old.is_null() {
        let mut seen = altstack_as_seen(&current, rsp);
        if seen.size == 0 {
            seen.flags = SS_DISABLE | (seen.flags & SS_AUTODISARM);
        }
        old.write(&seen)?;
    }
    Ok(0)
}

/// The rules of `do_sigaltstack`.
fn checked_altstack(current: &StackT, mut stack: StackT, rsp: usize) -> Result<StackT> {
    let in_use = current.flags & SS_AUTODISARM == 0 && current.contains(rsp);
    if in_use {
        return Err(Errno::EPERM);
    }
    let mode = stack.flags & !SS_AUTODISARM;
    if !matches!(mode, 0 | SS_ONSTACK | SS_DISABLE) {
        return Err(Errno::EINVAL);
    }
    if mode == SS_DISABLE {
        return Ok(StackT {
            sp: 0,
            size: 0,
            flags: stack.flags,
            _pad: 0,
        });
    }
    if stack.size < MINSIGSTKSZ {
        return Err(Errno::ENOMEM);
    }
    stack.flags &= SS_AUTODISARM;
    stack._pad = 0;
    Ok(stack)
}

/// Goes back to what a handler interrupted.
pub fn rt_sigreturn(call: &Call) -> Result {
    let thread = call.thread;
    let regs = thread.regs();
    let mut frame = SigFrame {
        restorer: 0,
        uc: pegasus_abi::signal::UContext::ZERO,
        info: pegasus_abi::signal::SigInfo::ZERO,
    };
    // The handler's `ret` has taken the restorer's address off.
    let at = UserPtr(regs.rsp.wrapping_sub(size_of::<usize>()));
    if at.read_into(&mut frame).is_err() {
        deliver::force_segv(thread, 0);
        return Ok(0);
    }
    let (kernel_mask, hidden) = split(frame.uc.sigmask & !UNBLOCKABLE);
    let stack = frame.uc.stack;
    frame.uc.sigmask = kernel_mask;
    frame.uc.stack = *thread.signal_stack();
    frame.uc.mcontext.rip = thread
        .process()
        .rewriter
        .resume_address(frame.uc.mcontext.rip);
    let before = (thread.hidden_mask.get(), thread.altstack.get());
    if thread
        .area
        .pending
        .load(core::sync::atomic::Ordering::Relaxed)
        != 0
    {
        return Err(Errno::ERESTARTSYS);
    }
    if let Ok(stack) = checked_altstack(&before.1, stack, frame.uc.mcontext.rsp) {
        thread.altstack.set(stack);
    }
    set_hidden_mask(thread, hidden);
    *thread.frame() = frame;
    // If something comes in before the kernel has taken the frame, this call begins anew, which repeats
    // what was done above with the same outcome.
    // SAFETY: the frame resumes container code; the saved registers are this call's.
    unsafe { gate::sigreturn(thread.frame()) }
}
