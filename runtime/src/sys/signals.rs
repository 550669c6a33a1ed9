//! Signal dispositions.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, Signal};

/// Gives `signal` its default action.
pub fn restore_default(signal: Signal) -> Result<(), Errno> {
    // SAFETY: SIG_DFL runs no code of this program.
    unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }.map(drop)
}
