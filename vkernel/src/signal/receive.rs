//! The vkernel's kernel-level signal handler.
//!
//! Runs on the thread's signal stack, on top of whatever was interrupted, with everything blocked but
//! [`KEPT`](super::KEPT). If that was vkernel code, locks may be held: then it only puts the signal aside.
#![allow(unsafe_code)]

use crate::schedule::{self, away::is_away};
use crate::signal::{ALL_BUT_KEPT, deliver, doorbell};
use crate::task::{Stash, Thread};
use pegasus_abi::Errno;
use pegasus_abi::signal::{
    FP_XSTATE_MAGIC1, FPSTATE_SW_OFFSET, FPSTATE_XFEATURES_OFFSET, FXSAVE_LEN, FXSAVE_XMM_OFFSET,
    SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SIGBUS, SIGILL, SIGSEGV, SIGSYS, SIGTRAP,
    SYS_USER_DISPATCH, SigAction, SigInfo, UContext, XSTATE_BV_OFFSET,
};
use pegasus_arch::area::pending;
use pegasus_arch::gate::{self, Position};
use pegasus_arch::switch::extended;
use pegasus_arch::usercopy;
use pegasus_contract::layout::{VKERNEL_BASE, VKERNEL_END};

/// `AUDIT_ARCH_X86_64`, as `si_arch` has it.
const ARCH_X86_64: u32 = 0xc000_003e;

/// The kernel-level action for a signal whose container-level action has these flags.
pub fn kernel_action(flags: u64) -> SigAction {
    SigAction {
        handler: on_signal as *const () as usize,
        flags: flags | SA_SIGINFO | SA_ONSTACK | SA_RESTORER,
        restorer: pegasus_arch::task::restorer(),
        mask: ALL_BUT_KEPT,
    }
}

/// # Safety contract with the kernel
/// Linux calls this with its own frame's parts; the GS base is the thread's area, because signals are blocked until
/// a thread has one.
extern "C" fn on_signal(signal: u32, info: *mut SigInfo, uc: *mut UContext) {
    // SAFETY: both lie in the frame that Linux has just written on this thread's signal stack.
    let (info, uc) = unsafe { (&*info, &mut *uc) };
    let thread = Thread::current();
    let rip = uc.mcontext.rip;
    let in_vkernel = (VKERNEL_BASE..VKERNEL_END).contains(&rip);
    if signal == SIGSYS && info.code == SYS_USER_DISPATCH {
        return on_dispatch(info, uc);
    }
    if signal == SIGSYS && doorbell::is_doorbell(info) {
        return on_doorbell(thread, uc, in_vkernel);
    }
    if (signal == SIGSEGV || signal == SIGBUS)
        && !info.is_from_user()
        && let Some(resume) = usercopy::resume_after_fault(rip)
    {
        uc.mcontext.rip = resume;
        return;
    }
    if in_vkernel {
        if is_fault(signal) && !info.is_from_user() && !deliver::is_forced(info) {
            crate::fault::die_of_own_fault(signal, rip, info.address());
        }
        return set_aside(thread, info, uc);
    }
    if (signal == SIGILL || signal == SIGTRAP)
        && !info.is_from_user()
        && let Some(resume) = thread.process().rewriter.resume_at_patched(rip, signal)
    {
        uc.mcontext.rip = resume;
        return;
    }
    uc.mcontext.rip = thread.process().rewriter.original_address(rip);
    deliver::from_kernel_frame(thread, info, uc);
}

fn is_fault(signal: u32) -> bool {
    matches!(
        signal,
        SIGILL | SIGTRAP | SIGBUS | SIGSEGV | pegasus_abi::signal::SIGFPE
    )
}

/// A `syscall` outside the vkernel: goes on at the gate, as a rewritten site would.
pub fn on_dispatch(info: &SigInfo, uc: &mut UContext) {
    let (_, arch) = info.syscall_and_arch();
    let regs = &mut uc.mcontext;
    if arch != ARCH_X86_64 {
        // `int $0x80`: answered as by a kernel without 32-bit emulation for this number.
        regs.rax = Errno::ENOSYS.to_return();
        return;
    }
    regs.rcx = regs.rip;
    regs.r11 = regs.rip;
    regs.rip = gate::entry_trapped();
}

fn on_doorbell(thread: &'static Thread, uc: &mut UContext, in_vkernel: bool) {
    if !in_vkernel {
        doorbell::answer(thread);
        return;
    }
    thread.area.set_pending(pending::DOORBELL);
    let _ = step_back(thread, uc);
    schedule::note_pending(thread);
}

/// Makes sure that `pending` is looked at again. Tells whether XMM0–15 hold the container's values.
pub fn step_back(thread: &Thread, uc: &mut UContext) -> bool {
    let (position, live) = gate::position(uc.mcontext.rip);
    match position {
        Position::BeforeForwarded { restart } => uc.mcontext.rip = restart,
        Position::WayOut { again } => {
            uc.mcontext.rip = again;
            uc.mcontext.rsp = thread.area.regs() as usize;
        }
        Position::Inside => {}
    }
    live
}

/// Puts a signal that came in the vkernel into the stash, to be passed on on the way out.
fn set_aside(thread: &'static Thread, info: &SigInfo, uc: &mut UContext) {
    let stash = thread.stash();
    if stash.valid {
        // Only kept signals come through now; one that a program sent is held like a blocked one.
        thread.held.set(Some(*info));
        return;
    }
    let live = step_back(thread, uc);
    stash.info = *info;
    stash.uc = *uc;
    copy_fpstate(stash, uc.mcontext.fpstate);
    if !live {
        overlay_xmm(thread, stash);
    }
    stash.valid = true;
    uc.sigmask = ALL_BUT_KEPT;
    stash.is_foreign = is_away(thread);
    thread.area.set_pending(pending::SIGNAL);
    schedule::note_pending(thread);
}

/// Replaces the FPU state of a signal that the home task took while a worker ran the thread: it is the home task's.
///
/// # Safety
/// XMM0–15 of the container must be in the area, and the rest of its FPU state in the registers.
pub unsafe fn recapture(thread: &Thread) {
    let stash = thread.stash();
    if !stash.valid || !stash.is_foreign {
        return;
    }
    let area = stash.fpstate.as_mut_ptr();
    if stash.fp_len > XSTATE_BV_OFFSET {
        // SAFETY: Linux wrote which components the frame has; the stash has room for them, and is aligned.
        unsafe {
            let mask = *area.add(FPSTATE_XFEATURES_OFFSET).cast::<u64>();
            extended::capture(area, mask);
        }
    }
    overlay_xmm(thread, stash);
    stash.is_foreign = false;
}

/// Length of the FPU state at `fpstate`, which the kernel wrote.
pub fn fpstate_len(fpstate: usize) -> usize {
    if fpstate == 0 {
        return 0;
    }
    // SAFETY: the kernel writes at least a whole FXSAVE image, of which this is a part.
    let [magic, extended_len] = unsafe { *((fpstate + FPSTATE_SW_OFFSET) as *const [u32; 2]) };
    let len = if magic == FP_XSTATE_MAGIC1 {
        extended_len as usize
    } else {
        FXSAVE_LEN
    };
    len.min(crate::limits::FPSTATE_LEN_MAX)
}

fn copy_fpstate(stash: &mut Stash, fpstate: usize) {
    stash.fp_len = fpstate_len(fpstate);
    // SAFETY: the kernel wrote that many bytes there, on the signal stack; the stash has room.
    unsafe {
        core::ptr::copy_nonoverlapping(
            fpstate as *const u8,
            stash.fpstate.as_mut_ptr(),
            stash.fp_len,
        );
    }
}

/// Replaces the vkernel's XMM0–15 by the container's, which the area keeps.
fn overlay_xmm(thread: &Thread, stash: &mut Stash) {
    // SAFETY: saved by the gate on this thread; not written while Rust code of the vkernel runs.
    let xmm = unsafe { *thread.area.xmm.get() };
    for (index, value) in xmm.iter().enumerate() {
        let at = FXSAVE_XMM_OFFSET + 16 * index;
        stash.fpstate[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }
    if stash.fp_len > XSTATE_BV_OFFSET + 8 {
        // XSTATE_BV bit 1: the SSE part is not in its initial state.
        stash.fpstate[XSTATE_BV_OFFSET] |= 2;
    }
}
