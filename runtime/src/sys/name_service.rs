//! Keeps the C library from loading name-service modules.

use nix::errno::Errno;
use std::ffi::{c_char, c_int};

unsafe extern "C" {
    /// glibc's own way to override `/etc/nsswitch.conf` (declared in `nss.h`).
    fn __nss_configure_lookup(database: *const c_char, service: *const c_char) -> c_int;
}

/// From now on users and groups are looked up in `/etc/passwd` and `/etc/group` only. The container
/// library looks up `HOME` inside the container, where `nsswitch.conf` could name a module of the
/// container's, which the C library would load with the runtime's privileges.
pub fn use_files_only() -> Result<(), Errno> {
    for database in [c"passwd", c"group", c"initgroups", c"shadow"] {
        // SAFETY: both are NUL-terminated literals; no other thread runs yet.
        let status = unsafe { __nss_configure_lookup(database.as_ptr(), c"files".as_ptr()) };
        Errno::result(status)?;
    }
    Ok(())
}
