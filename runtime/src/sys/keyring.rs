//! Session keyrings (`keyctl(2)`).

use nix::errno::Errno;
use std::ffi::CString;

/// Gives this process, and so the container it is about to create, a session keyring of its own, so
/// that the container cannot reach the keys of whoever started it.
pub fn join_session_keyring(name: &str) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the call reads one NUL-terminated string, which outlives it.
    let serial =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    Errno::result(serial).map(drop)
}
