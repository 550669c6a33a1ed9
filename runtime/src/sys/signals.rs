//! Signal dispositions.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, Signal};

/// Gives `signal` its default action.
pub fn restore_default(signal: Signal) -> Result<(), Errno> {
    // SAFETY: SIG_DFL runs no code of this program.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.map(drop)
}

/// What `execve(2)` would do, and more: default actions everywhere, nothing blocked, no alternate
/// stack. The Rust runtime has installed handlers on a stack of its own for stack overflows.
pub fn restore_all_defaults() -> Result<(), Errno> {
    for signal in Signal::iterator() {
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            restore_default(signal)?;
        }
    }
    SigSet::empty().thread_set_mask()?;
    let disabled = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: this thread does not run on its alternate stack, and no handler uses it any more.
    Errno::result(unsafe { libc::sigaltstack(&raw const disabled, std::ptr::null_mut()) }).map(drop)
}
