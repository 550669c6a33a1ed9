//! Tasks, credentials and limits of the calling task.

use crate::raw::{call, call_here, call1, call2, call3, call4, call5};
use pegasus_abi::errno::Result;
use pegasus_abi::prctl::{
    CapData, CapHeader, LINUX_CAPABILITY_VERSION_3, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET,
    PR_CAPBSET_READ, PR_SET_MM, PR_SET_MM_MAP, PrctlMmMap, Rlimit,
};
use pegasus_abi::{Errno, nr};

pub fn pid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { call1(nr::GETPID, 0) }.unwrap_or(0) as i32
}

/// 0 when the parent is in another pid namespace.
pub fn parent_pid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { call1(nr::GETPPID, 0) }.unwrap_or(0) as i32
}

pub fn tid() -> i32 {
    // SAFETY: touches no memory.
    unsafe { call1(nr::GETTID, 0) }.unwrap_or(0) as i32
}

/// Ends the calling thread only.
pub fn exit_thread(status: i32) -> ! {
    loop {
        // SAFETY: does not return.
        let _ = unsafe { call1(nr::EXIT, status as usize) };
    }
}

/// Ends the process.
pub fn exit_group(status: i32) -> ! {
    loop {
        // SAFETY: does not return.
        let _ = unsafe { call1(nr::EXIT_GROUP, status as usize) };
    }
}

/// prctl(2) whose arguments are plain values.
///
/// # Safety
/// The option must not make the kernel write through an argument or change how system calls of the
/// vkernel itself are treated.
pub unsafe fn prctl(option: usize, a: usize, b: usize, c: usize, d: usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call5(nr::PRCTL, option, a, b, c, d) }
}

/// `PR_SET_MM_MAP` without an exe descriptor: what `/proc/pid/cmdline`, `environ`, `auxv` and `stat` show.
pub fn set_mm_map(map: &PrctlMmMap) -> Result {
    // SAFETY: the kernel reads `map` and records addresses that it only uses to answer /proc reads and brk.
    unsafe {
        call5(
            nr::PRCTL,
            PR_SET_MM,
            PR_SET_MM_MAP,
            &raw const *map as usize,
            size_of::<PrctlMmMap>(),
            0,
        )
    }
}

/// getresuid(2) as (real, effective, saved).
pub fn user_ids() -> (u32, u32, u32) {
    triple(nr::GETRESUID)
}

/// getresgid(2) as (real, effective, saved).
pub fn group_ids() -> (u32, u32, u32) {
    triple(nr::GETRESGID)
}

fn triple(number: usize) -> (u32, u32, u32) {
    let mut ids = [0u32; 3];
    let base = ids.as_mut_ptr() as usize;
    // SAFETY: three live words.
    let _ = unsafe { call3(number, base, base + 4, base + 8) };
    (ids[0], ids[1], ids[2])
}

/// setresuid(2) with the three ids equal.
pub fn set_user_id(id: u32) -> Result {
    // SAFETY: touches no memory.
    unsafe { call3(nr::SETRESUID, id as usize, id as usize, id as usize) }
}

/// setresgid(2) with the three ids equal.
pub fn set_group_id(id: u32) -> Result {
    // SAFETY: touches no memory.
    unsafe { call3(nr::SETRESGID, id as usize, id as usize, id as usize) }
}

/// setgroups(2).
pub fn set_groups(groups: &[u32]) -> Result {
    // SAFETY: the kernel only reads `groups`.
    unsafe { call2(nr::SETGROUPS, groups.len(), groups.as_ptr() as usize) }
}

/// Capability sets of the calling task as bit masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

/// capget(2).
pub fn capabilities() -> Result<Capabilities> {
    let header = CapHeader {
        version: LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: header and two data blocks are live, as version 3 requires.
    unsafe {
        call2(
            nr::CAPGET,
            &raw const header as usize,
            data.as_mut_ptr() as usize,
        )?
    };
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(Capabilities {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// capset(2).
pub fn set_capabilities(sets: &Capabilities) -> Result {
    let header = CapHeader {
        version: LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: the kernel only reads header and data.
    unsafe {
        call2(
            nr::CAPSET,
            &raw const header as usize,
            data.as_ptr() as usize,
        )
    }
}

/// Whether the bounding set holds `capability`; `EINVAL` past the kernel's last one.
pub fn bounding_has(capability: u32) -> Result<bool> {
    // SAFETY: plain values.
    Ok(unsafe { prctl(PR_CAPBSET_READ, capability as usize, 0, 0, 0)? } == 1)
}

/// Whether the ambient set holds `capability`.
pub fn ambient_has(capability: u32) -> Result<bool> {
    // SAFETY: plain values.
    Ok(unsafe {
        prctl(
            PR_CAP_AMBIENT,
            PR_CAP_AMBIENT_IS_SET,
            capability as usize,
            0,
            0,
        )?
    } == 1)
}

/// The `resource` limit of process `pid` (0: the caller).
pub fn limit(pid: i32, resource: usize) -> Result<Rlimit> {
    let mut old = Rlimit::default();
    // SAFETY: `old` is live.
    unsafe {
        call4(
            nr::PRLIMIT64,
            pid as usize,
            resource,
            0,
            &raw mut old as usize,
        )?
    };
    Ok(old)
}

/// Sets the `resource` limit of the caller.
pub fn set_limit(resource: usize, new: &Rlimit) -> Result {
    // SAFETY: the kernel only reads `new`.
    unsafe { call4(nr::PRLIMIT64, 0, resource, &raw const *new as usize, 0) }
}

/// setns(2).
pub fn set_namespace(fd: i32, kinds: u32) -> Result {
    // SAFETY: touches no memory.
    unsafe { call2(nr::SETNS, fd as usize, kinds as usize) }
}

/// unshare(2).
pub fn unshare(flags: u64) -> Result {
    // SAFETY: touches no memory.
    unsafe { call1(nr::UNSHARE, flags as usize) }
}

/// personality(2), unchanged.
pub fn personality() -> usize {
    const QUERY: usize = 0xffff_ffff;
    // SAFETY: touches no memory.
    unsafe { call1(nr::PERSONALITY, QUERY) }.unwrap_or(0)
}

/// Takes back what the program has told the kernel about memory that goes: set_robust_list(2), set_tid_address(2).
pub fn forget_thread_memory() {
    const LIST_HEAD_LEN: usize = 24;
    // SAFETY: clears two registrations; the kernel has nothing to write to any more.
    unsafe {
        let _ = call2(nr::SET_ROBUST_LIST, 0, LIST_HEAD_LEN);
        let _ = call1(nr::SET_TID_ADDRESS, 0);
    }
}

/// timer_delete(2).
pub fn delete_timer(timer: i32) {
    // SAFETY: touches no memory.
    let _ = unsafe { call1(nr::TIMER_DELETE, timer as usize) };
}

/// setsid(2).
pub fn new_session() -> Result {
    // SAFETY: touches no memory.
    unsafe { call1(nr::SETSID, 0) }
}

/// umask(2).
pub fn set_umask(mask: u32) -> Result {
    // SAFETY: touches no memory.
    unsafe { call1(nr::UMASK, mask as usize) }
}

/// Whether child `pid` has ended; it stays to be waited for. waitid(2) with WNOHANG and WNOWAIT.
pub fn has_exited(pid: i32) -> bool {
    const P_PID: usize = 1;
    const WNOHANG_WEXITED_WNOWAIT: usize = 1 | 4 | 0x0100_0000;
    let mut info = pegasus_abi::signal::SigInfo::ZERO;
    // SAFETY: the kernel fills `info`.
    let found = unsafe {
        call5(
            nr::WAITID,
            P_PID,
            pid as usize,
            &raw mut info as usize,
            WNOHANG_WEXITED_WNOWAIT,
            0,
        )
    };
    found.is_err() || info.signo != 0
}

/// Whether process `pid` has ended, with all its threads, though nobody may have waited for it. False if that cannot be
/// found out.
pub fn has_ended(pid: i32) -> bool {
    const POLLIN: u32 = 1;
    // SAFETY: touches no memory.
    let Ok(fd) = (unsafe { call2(nr::PIDFD_OPEN, pid as usize, 0) }) else {
        return false;
    };
    let ended = crate::socket::poll_now(fd, POLLIN) & POLLIN != 0;
    crate::file::close(fd);
    ended
}

/// Waits for a child to end; gives its status as wait4(2) does.
pub fn wait_for(pid: i32) -> Result<i32> {
    wait4(pid, 0).map(|(_, status)| status)
}

/// Takes the status of a child that has ended, if there is one: its pid and the status.
pub fn take_any_child() -> Option<(i32, i32)> {
    const WNOHANG: usize = 1;
    wait4(-1, WNOHANG).ok().filter(|(pid, _)| *pid > 0)
}

fn wait4(pid: i32, options: usize) -> Result<(i32, i32)> {
    /// Children of whatever exit signal.
    const WALL: usize = 0x4000_0000;
    let mut status = 0i32;
    // SAFETY: the kernel writes `status`.
    let found = unsafe {
        call4(
            nr::WAIT4,
            pid as usize,
            &raw mut status as usize,
            options | WALL,
            0,
        )
    }?;
    Ok((found as i32, status))
}

/// seccomp(2) with a classic BPF program.
pub fn install_seccomp_filter(flags: u32, program: &[u64]) -> Result {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let fprog = [u64::from(len), program.as_ptr() as u64];
    // SAFETY: the kernel reads `fprog` (length in its low 16 bits, then the pointer) and the program.
    unsafe { call3(nr::SECCOMP, 1, flags as usize, fprog.as_ptr() as usize) }
}

/// getrandom(2): fills `buffer`, as far as the kernel gives.
pub fn random(buffer: &mut [u8]) {
    // SAFETY: `buffer` is live and exclusive.
    let _ = unsafe { call3(nr::GETRANDOM, buffer.as_mut_ptr() as usize, buffer.len(), 0) };
}

/// execve(2) by descriptor or path.
///
/// # Safety
/// The pointers must be valid strings and vectors, or the container's own (the kernel checks those).
pub unsafe fn execveat(dir: usize, path: usize, argv: usize, envp: usize, flags: usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call(nr::EXECVEAT, [dir, path, argv, envp, flags, 0]) }
}

/// sched_yield(2).
pub fn yield_now() {
    // SAFETY: no memory is touched.
    let _ = unsafe { call_here(nr::SCHED_YIELD, [0; 6]) };
}

/// Sleeps for so long, or until a signal comes.
pub fn pause_ns(ns: u64) {
    let time = [ns / 1_000_000_000, ns % 1_000_000_000];
    // SAFETY: the kernel only reads `time`.
    let _ = unsafe { call2(nr::NANOSLEEP, time.as_ptr() as usize, 0) };
}

/// CLOCK_MONOTONIC.
pub fn monotonic_ns() -> u64 {
    const CLOCK_MONOTONIC: usize = 1;
    clock_ns(CLOCK_MONOTONIC)
}

/// What the calling task has used of CPUs.
pub fn task_cpu_ns() -> u64 {
    const CLOCK_THREAD_CPUTIME_ID: usize = 3;
    clock_ns(CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: usize) -> u64 {
    let mut time = [0u64; 2];
    // SAFETY: the kernel writes a timespec to `time`.
    let _ = unsafe {
        call_here(
            nr::CLOCK_GETTIME,
            [clock, time.as_mut_ptr() as usize, 0, 0, 0, 0],
        )
    };
    time[0] * 1_000_000_000 + time[1]
}
