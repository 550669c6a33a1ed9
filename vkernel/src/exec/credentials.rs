//! What execve(2) does to credentials (capabilities(7), "Transformation of capabilities during execve()").

use pegasus_abi::Result;
use pegasus_abi::fcntl::{S_ISGID, S_ISUID, S_IXGRP, ST_NOSUID};
use pegasus_abi::prctl::{CAP_LAST, PR_GET_NO_NEW_PRIVS, PR_GET_SECUREBITS, SECBIT_NOROOT};
use pegasus_host::file;
use pegasus_host::process::{self, Capabilities};

/// Whether running this file changes ids or capabilities in a way that only the kernel can do.
pub fn changes_on_exec(fd: usize) -> Result<bool> {
    let mode = file::stat(fd)?.mode;
    let set_ids = mode & S_ISUID != 0 || (mode & S_ISGID != 0 && mode & S_IXGRP != 0);
    if !set_ids && !file::has_attribute(fd, c"security.capability") {
        return Ok(false);
    }
    let ignored = file::stat_file_system(fd)?.flags & ST_NOSUID != 0 || no_new_privileges();
    Ok(!ignored)
}

fn no_new_privileges() -> bool {
    plain_prctl(PR_GET_NO_NEW_PRIVS) == 1
}

#[allow(unsafe_code)]
fn plain_prctl(option: usize) -> usize {
    // SAFETY: options that only return a value.
    unsafe { process::prctl(option, 0, 0, 0, 0) }.unwrap_or(0)
}

/// The set of all capabilities for which `has` holds.
fn collect(has: impl Fn(u32) -> Result<bool>) -> u64 {
    (0..=CAP_LAST)
        .filter(|&cap| has(cap) == Ok(true))
        .fold(0, |set, cap| set | 1 << cap)
}

/// The capabilities after running a file without any of its own.
pub fn after_exec() -> Result<Capabilities> {
    let now = process::capabilities()?;
    let (real, effective, _) = process::user_ids();
    let no_root = plain_prctl(PR_GET_SECUREBITS) & SECBIT_NOROOT != 0;
    if (real == 0 || effective == 0) && !no_root {
        let full = now.inheritable | collect(process::bounding_has);
        // A task cannot raise its permitted set by itself; Linux would. What it lacks is not regained.
        let permitted = full & now.permitted;
        let effective = if effective == 0 { permitted } else { 0 };
        return Ok(Capabilities {
            permitted,
            effective,
            inheritable: now.inheritable,
        });
    }
    let ambient = collect(process::ambient_has) & now.permitted;
    Ok(Capabilities {
        permitted: ambient,
        effective: ambient,
        inheritable: now.inheritable,
    })
}

/// Whether real, effective and saved ids are not all the same. execve(2) then changes the saved ones, and more than one
/// rule hangs on the difference (AT_SECURE, capabilities): left to Linux.
pub fn differ_from_effective() -> bool {
    let differ = |(real, effective, saved)| real != effective || saved != effective;
    differ(process::user_ids()) || differ(process::group_ids())
}

/// Whether Linux would give more capabilities than [`after_exec`] can.
pub fn regains_on_exec() -> bool {
    let Ok(now) = process::capabilities() else {
        return false;
    };
    let (real, effective, _) = process::user_ids();
    let no_root = plain_prctl(PR_GET_SECUREBITS) & SECBIT_NOROOT != 0;
    let is_root = (real == 0 || effective == 0) && !no_root;
    is_root && (now.inheritable | collect(process::bounding_has)) & !now.permitted != 0
}
