//! Calls on files that neither `std` nor `nix` offers.

use nix::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;

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
