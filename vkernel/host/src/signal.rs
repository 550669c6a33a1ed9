//! Signals of the calling task, as Linux has them.

use crate::raw::{call2, call3, call4};
use pegasus_abi::errno::Result;
use pegasus_abi::nr;
use pegasus_abi::signal::{SIG_SETMASK, SigAction, SigInfo, SigSet, StackT};

const SIGSET_LEN: usize = size_of::<SigSet>();

/// Sets the mask and gives the old one.
pub fn set_mask(mask: SigSet) -> SigSet {
    let mut old: SigSet = 0;
    // SAFETY: both sets are live for the call. It cannot fail with these arguments.
    let _ = unsafe {
        call4(
            nr::RT_SIGPROCMASK,
            SIG_SETMASK,
            &raw const mask as usize,
            &raw mut old as usize,
            SIGSET_LEN,
        )
    };
    old
}

/// The signals pending for the calling task or its process.
pub fn pending() -> SigSet {
    let mut set: SigSet = 0;
    // SAFETY: `set` is live for the call.
    let _ = unsafe { call2(nr::RT_SIGPENDING, &raw mut set as usize, SIGSET_LEN) };
    set
}

/// rt_sigaction(2).
///
/// # Safety
/// A handler in `new` must be code that may run at any point of any thread of the process.
pub unsafe fn action(signal: u32, new: Option<&SigAction>, old: Option<&mut SigAction>) -> Result {
    let new = new.map_or(0, |action| &raw const *action as usize);
    let old = old.map_or(0, |action| &raw mut *action as usize);
    // SAFETY: both structures are live for the call; the rest is the caller's promise.
    unsafe { call4(nr::RT_SIGACTION, signal as usize, new, old, SIGSET_LEN) }
}

/// sigaltstack(2).
///
/// # Safety
/// The stack must stay mapped and unused by anything else while it is registered.
pub unsafe fn alternate_stack(stack: &StackT) -> Result {
    // SAFETY: `stack` is live for the call; the rest is the caller's promise.
    unsafe { call2(nr::SIGALTSTACK, &raw const *stack as usize, 0) }
}

/// tgkill(2).
pub fn send_to_thread(process: i32, thread: i32, signal: u32) -> Result {
    // SAFETY: touches no memory.
    unsafe {
        call3(
            nr::TGKILL,
            process as usize,
            thread as usize,
            signal as usize,
        )
    }
}

/// rt_tgsigqueueinfo(2).
pub fn queue_to_thread(process: i32, thread: i32, info: &SigInfo) -> Result {
    // SAFETY: the kernel only reads `info`.
    unsafe {
        call4(
            nr::RT_TGSIGQUEUEINFO,
            process as usize,
            thread as usize,
            info.signo as usize,
            &raw const *info as usize,
        )
    }
}

/// Waits until a signal of `set`, which must be blocked, is pending, and takes it.
pub fn wait_for_any(set: SigSet) -> SigInfo {
    let mut info = SigInfo::ZERO;
    // SAFETY: both are live for the call.
    while unsafe {
        call4(
            nr::RT_SIGTIMEDWAIT,
            &raw const set as usize,
            &raw mut info as usize,
            0,
            SIGSET_LEN,
        )
    }
    .is_err()
    {}
    info
}

/// kill(2).
pub fn kill(process: i32, signal: u32) -> Result {
    // SAFETY: touches no memory.
    unsafe { call2(nr::KILL, process as usize, signal as usize) }
}
