//! Processes by descriptor (pidfd_open(2)).

use super::process::adopt_descriptors;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// A descriptor that stays with this very process and becomes readable when it has ended.
pub fn open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two integers.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let number = RawFd::try_from(Errno::result(number)?).map_err(|_| Errno::EBADF)?;
    adopt_descriptors(vec![number]).pop().ok_or(Errno::EBADF)
}

/// Whose descriptor it is; `None` once the process has ended and its parent knows.
pub fn pid_of(process: BorrowedFd<'_>) -> Option<Pid> {
    let path = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let info = std::fs::read_to_string(path).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    let pid = line.trim().parse().ok().filter(|pid| *pid > 0)?;
    Some(Pid::from_raw(pid))
}

/// Sends any signal, real-time ones included.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: takes integers; without a siginfo the kernel fills one in as kill(2) does.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(sent).map(drop)
}

/// Takes the status of a child that has ended, as `wait4(2)` writes it; `None` while it runs.
pub fn reap(child: Pid) -> Result<Option<i32>, Errno> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer.
    let reaped = unsafe { libc::waitpid(child.as_raw(), &raw mut status, libc::WNOHANG) };
    match Errno::result(reaped)? {
        0 => Ok(None),
        _ => Ok(Some(status)),
    }
}

/// Waits until it has ended, at most so long. Tells whether it has.
pub fn wait_for_end(process: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout) == Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn this_process_can_be_asked_after() {
        let own = open(Pid::this()).unwrap();
        assert_eq!(send_signal(own.as_fd(), 0), Ok(()));
        assert_eq!(pid_of(own.as_fd()), Some(Pid::this()));
        assert_eq!(send_signal(own.as_fd(), 65), Err(Errno::EINVAL));
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "reaping it is what is tested")]
    fn statuses_are_taken_once() {
        let child = std::process::Command::new("false").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let status = loop {
            if let Some(status) = reap(pid).unwrap() {
                break status;
            }
            std::thread::yield_now();
        };
        assert_eq!(status, 1 << 8);
        assert_eq!(reap(pid), Err(Errno::ECHILD));
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert_eq!(open(Pid::from_raw(i32::MAX)).unwrap_err(), Errno::ESRCH);
    }
}
