//! What a process does that stays while another one runs in its stead.

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Gives up the controlling terminal, if `terminal` is it.
pub fn give_up_terminal(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // The members of the old session are sent this signal.
    // SAFETY: SIG_IGN runs no code of this program.
    unsafe { nix::sys::signal::signal(Signal::SIGHUP, SigHandler::SigIgn) }?;
    // SAFETY: TIOCNOTTY takes no argument.
    match Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) }) {
        Ok(_) | Err(Errno::ENOTTY) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Blocks every signal that can be blocked, real-time ones included.
pub fn block_signals() -> Result<(), Errno> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
}

/// Ends this process by `signal`, or, if it survives that, with the status that a shell would show.
pub fn die_of(signal: i32) -> ! {
    // SAFETY: SIG_DFL runs no code of this program; the mask is a valid one.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
    std::process::exit(128 + signal);
}

/// Shows `name`, cut to 15 bytes, where processes are listed.
pub fn name_process(name: &str) {
    if let Ok(name) = CString::new(name) {
        // Only for people to read.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Descriptors by number, as a program inherits them. Numbers that are not open may be among them:
/// sending one fails.
pub fn inherited(numbers: &[RawFd]) -> Vec<BorrowedFd<'static>> {
    numbers
        .iter()
        // SAFETY: the process keeps those that it inherits for a program until that has them.
        .map(|number| unsafe { BorrowedFd::borrow_raw(*number) })
        .collect()
}

/// Closes every descriptor that is not listed.
pub fn close_all_but(kept: &[RawFd]) {
    const NUMBER_MAX: RawFd = 1 << 16;
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut first = 0;
    for number in kept.into_iter().chain([RawFd::MAX]) {
        if first < number {
            close_range(first, number - 1, NUMBER_MAX);
        }
        first = number.saturating_add(1);
    }
}

fn close_range(first: RawFd, last: RawFd, number_max: RawFd) {
    // SAFETY: whoever owns these descriptors does not use them any more.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed != 0 {
        for number in first..=last.min(number_max) {
            // SAFETY: as above.
            unsafe { libc::close(number) };
        }
    }
}

/// Gives free memory of the C library's heap back to the kernel.
pub fn trim_memory() {
    // SAFETY: changes no memory that is in use.
    unsafe { libc::malloc_trim(0) };
}
