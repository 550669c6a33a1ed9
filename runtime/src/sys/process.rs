//! Calls on processes that `nix` does not offer.

use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// `kill(2)` with any signal number, real-time ones included (`nix` knows the named ones only).
pub fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes two integers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Whether two processes share one address space (`kcmp(2)` with `KCMP_VM`).
pub fn share_address_space(one: Pid, other: Pid) -> Result<bool, Errno> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: takes integers; the last two are not used for KCMP_VM.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            one.as_raw(),
            other.as_raw(),
            KCMP_VM,
            0_usize,
            0_usize,
        )
    };
    Errno::result(order).map(|order| order == 0)
}

/// Whether the kernel can hand a program's system calls back to it: switching the feature off, which
/// it is, succeeds where it exists.
pub fn has_syscall_user_dispatch() -> bool {
    const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
    const OFF: libc::c_ulong = 0;
    // SAFETY: takes integers; OFF requires the others to be 0.
    unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, OFF, 0_usize, 0_usize, 0_usize) == 0 }
}

/// Takes ownership of descriptors that `recvmsg(2)` has just installed.
pub fn adopt_descriptors(numbers: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: the kernel opened each of them for this process, and nobody else knows the numbers.
    numbers
        .into_iter()
        .map(|number| unsafe { OwnedFd::from_raw_fd(number) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shares_its_address_space_with_itself_only() {
        let own = Pid::this();
        assert_eq!(share_address_space(own, own), Ok(true));
        assert_ne!(share_address_space(own, Pid::from_raw(1)), Ok(true));
    }

    #[test]
    fn signals_out_of_range_are_refused() {
        assert_eq!(kill(Pid::this(), 65), Err(Errno::EINVAL));
    }
}
