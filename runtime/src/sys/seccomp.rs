//! Loading a seccomp filter into this process.

use nix::errno::Errno;

const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;

/// `seccomp(2)`. Each instruction is one `struct sock_filter`. Cannot be undone.
pub fn load_filter(flags: u32, instructions: &[u64]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog {
        len,
        filter: instructions.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the kernel copies `len` instructions of 8 bytes each, which outlive the call.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    Errno::result(loaded).map(drop)
}
