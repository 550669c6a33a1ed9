//! kcmp(2): whether two processes share a kernel object.
#![allow(unsafe_code, reason = "no safe wrapper of kcmp(2) exists")]

use std::io;

/// `KCMP_VM` of `linux/kcmp.h`: the address space.
const KCMP_VM: libc::c_long = 1;

/// Whether two processes, named by host pid, have one address space.
pub fn share_address_space(one: i32, other: i32) -> io::Result<bool> {
    // SAFETY: kcmp(2) takes numbers only and writes nothing to this process's memory.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            libc::c_long::from(one),
            libc::c_long::from(other),
            KCMP_VM,
            0,
            0,
        )
    };
    match order {
        0 => Ok(true),
        1..=3 => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_shares_with_itself_and_not_with_a_child() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let other = i32::try_from(child.id()).unwrap();
        assert!(share_address_space(own, own).unwrap());
        assert!(!share_address_space(own, other).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(share_address_space(own, i32::MAX).is_err());
    }
}
