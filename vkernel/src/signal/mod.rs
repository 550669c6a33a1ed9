//! Signals.
//!
//! The kernel keeps masks, queues and timers; the vkernel owns the kernel-level handlers and decides when and how a
//! container's handler runs. Linux puts its frame on a stack of the vkernel's ([`receive`]); the vkernel builds the
//! one that the program sees on the program's own ([`deliver`]).
//!
//! * Taken in container code: the program's handler is entered at once.
//! * Taken in the vkernel: put aside ([`crate::task::Stash`]), with everything else blocked, and passed on
//!   on the way out. A forwarded call that was interrupted has by then returned EINTR, or is restarted, exactly as Linux
//!   decided from the `SA_RESTART` flag that the kernel-level action carries as well.

pub mod deliver;
pub mod doorbell;
pub mod receive;

use crate::task::Thread;
use pegasus_abi::signal::{
    SIGBUS, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGSTOP, SIGSYS, SIGTRAP, SigSet, bit,
};

/// Signals whose kernel-level handler is always the vkernel's and which are never blocked at kernel level: dispatch
/// traps, faults of copies, and faults at rewritten sites must arrive; and the end of a container's first process
/// by a fault must be announced. What the container thinks is
/// blocked of them is in [`crate::task::Thread::hidden_mask`].
pub const KEPT: SigSet =
    bit(SIGILL) | bit(SIGTRAP) | bit(SIGBUS) | bit(SIGFPE) | bit(SIGSEGV) | bit(SIGSYS);

/// What sigprocmask(2) silently leaves out.
pub const UNBLOCKABLE: SigSet = bit(SIGKILL) | bit(SIGSTOP);

/// The most that is ever blocked at kernel level.
pub const ALL_BUT_KEPT: SigSet = !KEPT;

/// Whether the vkernel owns the kernel-level action of `signal` whatever the container has set.
pub const fn is_kept(signal: u32) -> bool {
    KEPT & bit(signal) != 0
}

/// Whether the signal that has come during a wait with `mask` is one that the thread's own mask would have kept out. Linux
/// takes such a one only for a wait that gives nothing else.
pub fn was_let_in(thread: &Thread, mask: Option<&SigSet>) -> bool {
    let stash = thread.stash();
    mask.is_some() && stash.valid && stash.uc.sigmask & bit(stash.info.signo as u32) != 0
}
