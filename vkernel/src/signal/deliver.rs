//! Entering a container's signal handler.
//!
//! The frame that the program sees is the one that Linux would have built: `struct rt_sigframe` below the red zone or
//! on the program's alternate stack, with the FPU state above it (arch/x86/kernel/signal_64.c). What is
//! different is how it gets there.
#![allow(unsafe_code)]

use crate::signal::receive::{fpstate_len, kernel_action};
use crate::signal::{KEPT, is_kept};
use crate::task::{Process, Thread};
use crate::usermem::UserPtr;
use core::sync::atomic::Ordering;
use pegasus_abi::signal::{
    SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SIG_DFL, SIG_IGN, SIGSEGV, SIGSYS, SIGTRAP,
    SS_AUTODISARM, SYS_SECCOMP, SigAction, SigContext, SigFrame, SigInfo, SigSet, StackT, UContext,
    USER_CS, USER_DS, bit,
};
use pegasus_abi::{Errno, Result};
use pegasus_arch::area::pending;
use pegasus_arch::gate;
use pegasus_arch::regs::Regs;

/// Bytes below the stack pointer that belong to the running function (System V ABI).
const RED_ZONE_LEN: usize = 128;
const FLAG_TF: usize = 0x100;
const FLAG_DF: usize = 0x400;
const FLAG_RF: usize = 0x1_0000;

/// What has been decided about a signal.
enum Verdict {
    Ignore,
    Default,
    Handle(SigAction),
}

/// Where the interrupted program stood.
struct Interrupted<'a> {
    regs: SigContext,
    flags: u64,
    /// Kernel-level mask to return to.
    mask: SigSet,
    /// The mask that the program waited with when the signal came, if not that one: see `syscall::wait`.
    waiting_mask: Option<SigSet>,
    fpstate: &'a [u8],
}

/// Delivers a signal that interrupted container code, by changing Linux's frame, with which the caller returns.
pub fn from_kernel_frame(thread: &'static Thread, info: &SigInfo, uc: &mut UContext) {
    let signal = info.signo as u32;
    if hold_if_blocked(thread, info) {
        return;
    }
    match decide(thread.process(), info) {
        Verdict::Ignore => {}
        Verdict::Default => take_default(thread.process(), info),
        Verdict::Handle(action) => {
            let fp_len = fpstate_len(uc.mcontext.fpstate);
            let interrupted = Interrupted {
                regs: uc.mcontext,
                flags: uc.flags,
                mask: uc.sigmask,
                waiting_mask: None,
                // SAFETY: the kernel wrote that many bytes there, in the frame that `uc` is part of.
                fpstate: unsafe {
                    core::slice::from_raw_parts(uc.mcontext.fpstate as *const u8, fp_len)
                },
            };
            match enter(thread, signal, info, &action, &interrupted) {
                Ok((regs, mask)) => {
                    uc.mcontext = regs;
                    uc.sigmask = mask;
                }
                Err(_) => force_segv(thread, signal),
            }
        }
    }
}

/// Delivers the stashed signal on the way out of the vkernel. Does not return if a handler is entered.
pub fn from_stash(thread: &'static Thread, regs: &mut Regs) {
    let stash = thread.stash();
    let waiting_mask = thread.waiting_mask.take();
    let mut info = stash.info;
    let signal = info.signo as u32;
    restart_if_given_up(regs);
    let is_filtered = signal == SIGSYS && info.code == SYS_SECCOMP;
    if is_filtered {
        // The call was the program's, wherever it was made on its behalf.
        info.fields[0] = regs.rip as u64;
    }
    let verdict = if hold_if_blocked(thread, &info) {
        Verdict::Ignore
    } else {
        decide(thread.process(), &info)
    };
    settle_restart(regs, &verdict);
    let Verdict::Handle(action) = verdict else {
        stash.valid = false;
        thread.area.clear_pending(pending::SIGNAL);
        if matches!(verdict, Verdict::Default) {
            take_default(thread.process(), &info);
            if is_filtered {
                // Made again, the call now ends the process.
                regs.rax = Errno::ERESTARTSYS.to_return();
                restart_if_given_up(regs);
            }
        }
        pegasus_host::signal::set_mask(stash.uc.sigmask);
        return;
    };
    let interrupted = Interrupted {
        regs: context_of(regs),
        flags: stash.uc.flags,
        mask: stash.uc.sigmask,
        waiting_mask,
        fpstate: &stash.fpstate[..stash.fp_len],
    };
    let entered = enter(thread, signal, &info, &action, &interrupted);
    let frame = thread.frame();
    frame.uc = UContext {
        flags: stash.uc.flags,
        stack: *thread.signal_stack(),
        ..UContext::ZERO
    };
    stash.valid = false;
    thread.area.clear_pending(pending::SIGNAL);
    match entered {
        Ok((regs, mask)) => {
            frame.uc.mcontext = regs;
            frame.uc.sigmask = mask;
            // SAFETY: the frame enters the container's handler; the saved registers are those of this call.
            unsafe { gate::sigreturn(frame) }
        }
        Err(_) => {
            pegasus_host::signal::set_mask(stash.uc.sigmask);
            force_segv(thread, signal);
        }
    }
}

/// Linux's rule for a call given up for a signal: RIP goes back to the `syscall`, RAX holds its number again.
fn restart_if_given_up(regs: &mut Regs) {
    if regs.rax == Errno::ERESTARTSYS.to_return() {
        regs.rip -= 2;
        regs.resume = regs.rip;
        regs.rax = regs.nr;
    }
}

/// The same for a call that had begun to wait: whether it is started again depends on what becomes of the signal.
fn settle_restart(regs: &mut Regs, verdict: &Verdict) {
    let waits = [Errno::ERESTART_IF_ASKED, Errno::ERESTARTNOHAND];
    let Some(errno) = waits
        .into_iter()
        .find(|errno| regs.rax == errno.to_return())
    else {
        return;
    };
    let is_interrupted = match verdict {
        Verdict::Handle(action) => errno == Errno::ERESTARTNOHAND || action.flags & SA_RESTART == 0,
        Verdict::Ignore | Verdict::Default => false,
    };
    if is_interrupted {
        regs.rax = Errno::EINTR.to_return();
    } else {
        regs.rax = Errno::ERESTARTSYS.to_return();
        restart_if_given_up(regs);
    }
}

/// For a thread that has nothing to deliver after all.
pub fn restart_call(regs: &mut Regs) {
    restart_if_given_up(regs);
    settle_restart(regs, &Verdict::Ignore);
}

fn context_of(regs: &Regs) -> SigContext {
    SigContext {
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.flags,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rdi: regs.rdi,
        rsi: regs.rsi,
        rbp: regs.rbp,
        rbx: regs.rbx,
        rdx: regs.rdx,
        rax: regs.rax,
        rcx: regs.rip,
        rsp: regs.rsp,
        rip: regs.rip,
        eflags: regs.flags,
        ..UContext::ZERO.mcontext
    }
}

/// A kept signal that the container has blocked and a program sent waits; one that the CPU raised
/// kills, as Linux has it for a blocked fault.
fn hold_if_blocked(thread: &Thread, info: &SigInfo) -> bool {
    let signal = info.signo as u32;
    let blocked = thread.hidden_mask.get() & bit(signal) != 0;
    if blocked && info.is_from_user() {
        thread.held.set(Some(*info));
        return true;
    }
    if blocked {
        set_default_action(thread.process(), signal);
    }
    false
}

fn decide(process: &Process, info: &SigInfo) -> Verdict {
    let signal = info.signo as u32;
    let mut actions = process.actions.lock();
    let action = &mut actions[signal as usize - 1];
    match action.handler {
        SIG_IGN if info.is_from_user() => Verdict::Ignore,
        // Linux does not let a fault be ignored.
        SIG_DFL | SIG_IGN => Verdict::Default,
        _ => {
            let taken = *action;
            if taken.flags & SA_RESETHAND != 0 {
                action.handler = SIG_DFL;
                if !is_kept(signal) {
                    // Else one that Linux ignores by default would still interrupt calls.
                    // SAFETY: the default action runs no code.
                    let _ = unsafe {
                        pegasus_host::signal::action(signal, Some(&SigAction::default()), None)
                    };
                }
            }
            Verdict::Handle(taken)
        }
    }
}

/// Lets Linux do what it does for a signal without a handler: the kernel-level action becomes the default one, and
/// the fault happens again (or the signal is sent again), now for the kernel to see.
fn take_default(process: &'static Process, info: &SigInfo) {
    let signal = info.signo as u32;
    let default = SigAction::default();
    // SAFETY: the default action runs no code.
    let _ = unsafe { pegasus_host::signal::action(signal, Some(&default), None) };
    if !info.is_from_user() && is_kept(signal) {
        crate::boot::home::announce_death_by_signal(process, signal);
        if signal == SIGTRAP {
            // The instruction that raised it is past.
            pegasus_arch::task::die_of_fault(true);
        }
        return;
    }
    let thread = Thread::current();
    let _ = pegasus_host::signal::queue_to_thread(process.pid(), thread.tid(), info);
    if is_kept(signal) && info.is_from_user() {
        // Still here or soon gone: pid 1 of a namespace is not killed by what its own container sends.
        // SAFETY: the vkernel's handler may run anywhere.
        let _ = unsafe { pegasus_host::signal::action(signal, Some(&kernel_action(0)), None) };
    }
}

fn set_default_action(process: &Process, signal: u32) {
    process.actions.lock()[signal as usize - 1] = SigAction::default();
}

/// In the padding word of a siginfo: a SIGSEGV that the vkernel sends, so that it is not taken for a fault of
/// its own. Not passed on.
const FORCED: i32 = 0x7065_6761;

pub fn is_forced(info: &SigInfo) -> bool {
    info._pad == FORCED
}

/// Linux's `force_sigsegv`: the frame of `signal` could not be written. If that was a SIGSEGV, the process dies of it;
/// else its handler gets a SIGSEGV.
pub fn force_segv(thread: &'static Thread, signal: u32) {
    let process = thread.process();
    if signal == SIGSEGV {
        set_default_action(process, SIGSEGV);
    }
    let info = SigInfo {
        signo: SIGSEGV as i32,
        code: pegasus_abi::signal::SI_KERNEL,
        _pad: FORCED,
        ..SigInfo::ZERO
    };
    if process.actions.lock()[SIGSEGV as usize - 1].handler == SIG_DFL {
        crate::boot::home::announce_death_by_signal(process, SIGSEGV);
        // SAFETY: the default action runs no code.
        let _ = unsafe { pegasus_host::signal::action(SIGSEGV, Some(&SigAction::default()), None) };
        pegasus_arch::task::die_of_fault(false);
    }
    let _ = pegasus_host::signal::queue_to_thread(process.pid(), thread.tid(), &info);
}

/// Builds the program's frame. Gives the registers and the kernel-level mask with which its handler starts.
fn enter(
    thread: &'static Thread,
    signal: u32,
    info: &SigInfo,
    action: &SigAction,
    interrupted: &Interrupted<'_>,
) -> Result<(SigContext, SigSet)> {
    let altstack = thread.altstack.get();
    let (sp, entering) = stack_for(action, &altstack, interrupted.regs.rsp);
    let fp_at = (sp - interrupted.fpstate.len()) & !63;
    let frame_at = ((fp_at - size_of::<SigFrame>()) & !15) - 8;
    let on_altstack = entering || altstack.contains(interrupted.regs.rsp);
    if on_altstack && altstack.size != 0 && !altstack.contains(frame_at) {
        return Err(Errno::EFAULT);
    }
    let mut mcontext = interrupted.regs;
    mcontext.fpstate = if interrupted.fpstate.is_empty() {
        0
    } else {
        fp_at
    };
    let frame = SigFrame {
        restorer: action.restorer,
        uc: UContext {
            flags: interrupted.flags,
            link: 0,
            stack: altstack_as_seen(&altstack, interrupted.regs.rsp),
            mcontext,
            sigmask: interrupted.mask | thread.hidden_mask.get(),
        },
        info: SigInfo { _pad: 0, ..*info },
    };
    UserPtr(fp_at).write_bytes(interrupted.fpstate)?;
    UserPtr(frame_at).write(&frame)?;
    if altstack.flags & SS_AUTODISARM != 0 {
        thread.altstack.set(StackT::DISABLED);
    }
    let shard = &thread.process().record().counters[0];
    shard
        .signals
        .store(shard.signals.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    Ok((
        handler_regs(action, signal, frame_at, &interrupted.regs),
        handler_mask(thread, signal, action, interrupted),
    ))
}

/// The stack pointer to build below, and whether that enters the alternate stack.
fn stack_for(action: &SigAction, altstack: &StackT, rsp: usize) -> (usize, bool) {
    let usable = altstack.size != 0 && altstack.flags & pegasus_abi::signal::SS_DISABLE == 0;
    let already_there = altstack.flags & SS_AUTODISARM == 0 && altstack.contains(rsp);
    if action.flags & SA_ONSTACK != 0 && usable && !already_there {
        (altstack.sp + altstack.size, true)
    } else {
        (rsp.wrapping_sub(RED_ZONE_LEN), false)
    }
}

/// `uc_stack`: the setting, with SS_ONSTACK if the program runs on it.
pub fn altstack_as_seen(altstack: &StackT, rsp: usize) -> StackT {
    let mut seen = *altstack;
    if seen.size != 0 && altstack.contains(rsp) && altstack.flags & SS_AUTODISARM == 0 {
        seen.flags |= pegasus_abi::signal::SS_ONSTACK;
    }
    seen
}

fn handler_regs(
    action: &SigAction,
    signal: u32,
    frame_at: usize,
    interrupted: &SigContext,
) -> SigContext {
    SigContext {
        rip: action.handler,
        rsp: frame_at,
        rdi: signal as usize,
        rsi: frame_at + core::mem::offset_of!(SigFrame, info),
        rdx: frame_at + core::mem::offset_of!(SigFrame, uc),
        rax: 0,
        eflags: interrupted.eflags & !(FLAG_DF | FLAG_RF | FLAG_TF),
        cs: USER_CS,
        ss: USER_DS,
        // The handler starts with a fresh FPU state, as from Linux.
        fpstate: 0,
        ..*interrupted
    }
}

fn handler_mask(
    thread: &Thread,
    signal: u32,
    action: &SigAction,
    interrupted: &Interrupted<'_>,
) -> SigSet {
    let before = interrupted
        .waiting_mask
        .unwrap_or(interrupted.mask | thread.hidden_mask.get());
    let mut wanted = before | action.mask;
    if action.flags & SA_NODEFER == 0 {
        wanted |= bit(signal);
    }
    thread.hidden_mask.set(wanted & KEPT);
    wanted & !KEPT
}
