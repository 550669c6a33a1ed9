//! A home task becomes a member of its container: namespaces, descriptors, limits, credentials, filter. The order is that of
//! the OCI runtime specification and of runc.
#![allow(unsafe_code)]

use core::ffi::CStr;
use pegasus_abi::clone::CLONE_FILES;
use pegasus_abi::fcntl::O_WRONLY;
use pegasus_abi::prctl::{
    CAP_LAST, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAP_AMBIENT_RAISE, PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, Rlimit,
};
use pegasus_abi::{Errno, Result};
use pegasus_contract::boot::JoinPlan;
use pegasus_host::file;
use pegasus_host::process::{self as host, Capabilities};

/// ioctl(2): make descriptor 0 the controlling terminal.
const TIOCSCTTY: usize = 0x540e;

/// A vector of the plan.
///
/// # Safety
/// `start` must be valid for `len` values for as long as the plan is used, or `len` 0.
unsafe fn slice<'a, T>(start: *const T, len: u32) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start, len as usize) }
}

/// Carries the plan out. A failure leaves a task that can only exit.
pub fn join(plan: &JoinPlan) -> Result<()> {
    host::unshare(CLONE_FILES)?;
    let profile = open_profile(plan)?;
    host::set_namespace(plan.anchor_pidfd, plan.namespaces)?;
    let _ = host::new_session();
    let profile = take_descriptors(plan, profile)?;
    if plan.terminal != 0 {
        file::control(0, TIOCSCTTY, 0)?;
    }
    host::set_umask(plan.umask)?;
    // SAFETY: the runtime keeps the plan's vectors alive.
    for limit in unsafe { slice(plan.rlimits, plan.rlimits_len) } {
        let value = Rlimit {
            soft: limit.soft,
            hard: limit.hard,
        };
        host::set_limit(limit.resource as usize, &value)?;
    }
    // Before the user changes, who may not search every directory; or else after.
    // SAFETY: a NUL-terminated path.
    let directory = unsafe { CStr::from_ptr(plan.cwd.cast()) };
    let changed = file::change_directory(directory);
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, which is about to go.
    if plan.no_new_privileges == 0 {
        install_filter(plan)?;
    }
    change_credentials(plan)?;
    match changed {
        Err(Errno::EACCES | Errno::EPERM) => file::change_directory(directory)?,
        other => other?,
    };
    if let Some(attribute) = profile {
        change_profile(plan, attribute)?;
    }
    if plan.no_new_privileges != 0 {
        // SAFETY: plain values.
        unsafe { host::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)? };
        install_filter(plan)?;
    }
    Ok(())
}

/// The attribute by which this task changes its AppArmor profile, opened while the host's `/proc` is in sight.
fn open_profile(plan: &JoinPlan) -> Result<Option<usize>> {
    const PATHS: [&CStr; 2] = [
        c"/proc/thread-self/attr/apparmor/current",
        c"/proc/thread-self/attr/current",
    ];
    if plan.apparmor_profile.is_null() {
        return Ok(None);
    }
    let mut opened = Err(Errno::ENOENT);
    for path in PATHS {
        opened = opened.or_else(|_| file::open(path, O_WRONLY));
    }
    opened.map(|attribute| Some(attribute.into_number()))
}

/// As aa_change_profile(3): from now on, since this task never executes a program.
fn change_profile(plan: &JoinPlan, attribute: usize) -> Result<()> {
    // SAFETY: NUL-terminated, and the runtime keeps it alive.
    let name = unsafe { CStr::from_ptr(plan.apparmor_profile.cast()) };
    let mut text = alloc::vec::Vec::from(*b"changeprofile ");
    text.extend_from_slice(name.to_bytes());
    let changed = file::write_all(attribute, &text);
    file::close(attribute);
    changed
}

/// Moves the container's descriptors to their numbers and closes all others but `kept`, whose new number it gives.
fn take_descriptors(plan: &JoinPlan, kept: Option<usize>) -> Result<Option<usize>> {
    /// Above any number that is a target below.
    const ASIDE: usize = 4096;
    // SAFETY: the runtime keeps the plan's vectors alive.
    let preserved = unsafe { slice(plan.preserved_fds, plan.preserved_fds_len) };
    let containers = plan.stdio.len() + preserved.len();
    let count = containers + usize::from(kept.is_some());
    if count > ASIDE {
        return Err(Errno::EMFILE);
    }
    let sources = plan.stdio.iter().chain(preserved);
    let sources = sources.map(|&fd| fd as usize).chain(kept);
    let mut aside = alloc::vec::Vec::with_capacity(count);
    for fd in sources {
        aside.push(file::duplicate_above(fd, count)?);
    }
    for (target, &fd) in aside.iter().enumerate() {
        file::duplicate_to(fd, target)?;
    }
    file::close_range(count, u32::MAX as usize, 0)?;
    Ok(kept.map(|_| containers))
}

fn install_filter(plan: &JoinPlan) -> Result<()> {
    if plan.seccomp_filter_len != 0 {
        // SAFETY: the runtime keeps the plan's vectors alive.
        let program = unsafe { slice(plan.seccomp_filter, plan.seccomp_filter_len) };
        host::install_seccomp_filter(plan.seccomp_flags, program)?;
    }
    Ok(())
}

fn change_credentials(plan: &JoinPlan) -> Result<()> {
    for capability in 0..=CAP_LAST {
        if plan.cap_bounding & (1 << capability) == 0 && host::bounding_has(capability) == Ok(true)
        {
            // SAFETY: plain values.
            unsafe { host::prctl(PR_CAPBSET_DROP, capability as usize, 0, 0, 0)? };
        }
    }
    // SAFETY: the runtime keeps the plan's vectors alive.
    let groups = unsafe { slice(plan.groups, plan.groups_len) };
    match host::set_groups(groups) {
        // A user namespace that denies setgroups(2), and no groups asked for.
        Err(Errno::EPERM) if groups.is_empty() => {}
        other => drop(other?),
    }
    // SAFETY: plain values.
    unsafe { host::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)? };
    host::set_group_id(plan.gid)?;
    host::set_user_id(plan.uid)?;
    let held = host::capabilities()?;
    host::set_capabilities(&Capabilities {
        effective: plan.cap_effective & held.permitted,
        permitted: plan.cap_permitted & held.permitted,
        inheritable: plan.cap_inheritable,
    })?;
    // SAFETY: plain values.
    unsafe {
        host::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0)?;
        host::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)?;
        for capability in (0..=CAP_LAST).filter(|cap| plan.cap_ambient & (1 << cap) != 0) {
            // As runc: one that cannot be raised is left out.
            let _ = host::prctl(
                PR_CAP_AMBIENT,
                PR_CAP_AMBIENT_RAISE,
                capability as usize,
                0,
                0,
            );
        }
    }
    Ok(())
}
