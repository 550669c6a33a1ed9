//! Calls on files that neither `std` nor `nix` offers.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Whether running the file gives capabilities of its own.
pub fn has_capabilities(file: &File) -> bool {
    // SAFETY: with a length of 0 the call writes nothing.
    let len = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            c"security.capability".as_ptr(),
            std::ptr::null_mut(),
            0,
        )
    };
    Errno::result(len).is_ok_and(|len| len > 0)
}

/// Adds seals to a memory file (`F_ADD_SEALS`). Linux says EBUSY while it still has pages of it in hand from being written, which on a
/// machine under load may take a moment.
pub fn seal(file: BorrowedFd<'_>, seals: SealFlag) -> Result<(), Errno> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(10);
    for _ in 1..TRIES {
        match fcntl(file.as_raw_fd(), FcntlArg::F_ADD_SEALS(seals)) {
            Err(Errno::EBUSY) => std::thread::sleep(PAUSE),
            other => return other.map(drop),
        }
    }
    fcntl(file.as_raw_fd(), FcntlArg::F_ADD_SEALS(seals)).map(drop)
}
