//! execve(2), prctl(2), arch_prctl(2).
#![allow(unsafe_code)]

use crate::boot::supervise;
use crate::entry::Call;
use crate::exec::{self, Strings, Unprepared};
use crate::signal::{KEPT, is_kept};
use crate::socket::returning;
use crate::syscall::filter;
use crate::syscall::path::exe_of;
use crate::syscall::table::{forward, forward_as};
use crate::task::record::change;
use crate::task::{Process, instance_kind};
use crate::usermem::UserPtr;
use alloc::ffi::CString;
use core::sync::atomic::Ordering;
use pegasus_abi::fcntl::{
    AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, PATH_MAX, X_OK,
};
use pegasus_abi::prctl::{
    ARCH_GET_GS, ARCH_SET_GS, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_SET_MDWE, PR_SET_MM,
    PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_SYSCALL_USER_DISPATCH, PR_SET_THP_DISABLE,
    RLIM_INFINITY, RLIMIT_AS, Rlimit,
};
use pegasus_abi::signal::{SIG_IGN, SIGNALS_MAX, SigAction};
use pegasus_abi::{Errno, Result, nr};
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::record::ProcessState;
use pegasus_host::process as host;

pub fn execve(call: &Call) -> Result {
    let [path, argv, envp, ..] = call.args;
    run(call, AT_FDCWD, path, argv, envp, 0)
}

pub fn execveat(call: &Call) -> Result {
    let [dir, path, argv, envp, flags, _] = call.args;
    run(call, dir as i32 as usize, path, argv, envp, flags)
}

/// The container's first process gets its new program in place; any other one is handed to Linux.
fn run(call: &Call, dir: usize, path: usize, argv: usize, envp: usize, flags: usize) -> Result {
    if let Some(reason) = reason_for_native(call.thread.process(), flags) {
        return run_native(call, reason);
    }
    if flags & !AT_SYMLINK_NOFOLLOW != 0 {
        return Err(Errno::EINVAL);
    }
    let mut name = match exe_of(path) {
        Some(exe) => exe,
        None => {
            let mut name = UserPtr(path).read_c_string(PATH_MAX, Errno::ENAMETOOLONG)?;
            name.pop();
            name
        }
    };
    let strings = Strings::read(UserPtr(argv), UserPtr(envp))?;
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    name.shrink_to_fit();
    let no_follow = flags & AT_SYMLINK_NOFOLLOW != 0;
    let prepared = exec::prepare(dir, &name, no_follow, strings).and_then(|program| {
        exec::check_args(&program)?;
        if !exec::fits(call.thread.process(), &program.main) {
            return Err(Unprepared::NeedsNative("its fixed addresses are taken"));
        }
        exec::replace(call, program)
    });
    match prepared {
        Ok(()) => Ok(0),
        Err(Unprepared::Errno(errno)) => Err(errno),
        Err(Unprepared::NeedsNative(reason)) => run_native(call, reason),
    }
}

/// Why a process cannot have its program replaced in place, whichever the program.
fn reason_for_native(process: &Process, flags: usize) -> Option<&'static str> {
    if !process.is_container_init {
        Some("a child's new program")
    } else if flags & AT_EMPTY_PATH != 0 {
        Some("a program given by its descriptor")
    } else if process.has_filter() {
        // Loading makes calls that the program has perhaps forbidden itself.
        Some("it has installed a seccomp filter")
    } else if process.has_borrowers() {
        Some("a child shares its memory")
    } else {
        None
    }
}

/// Lets Linux replace the program, for `reason`: the process leaves the vkernel. It is the call that the program has made,
/// so that a seccomp filter that allows one of the two sees that one.
fn run_native(call: &Call, reason: &str) -> Result {
    let process = call.thread.process();
    let mut args = call.args;
    let path_at = if call.nr == nr::EXECVEAT { 1 } else { 0 };
    let exe = exe_of(args[path_at]).and_then(|exe| CString::new(exe).ok());
    if let Some(exe) = &exe {
        args[path_at] = exe.as_ptr() as usize;
    }
    if supervise::is_needed(call.thread) {
        let mask = pegasus_host::signal::set_mask(!0);
        pegasus_host::signal::set_mask(mask);
        let execution = supervise::Execution {
            nr: call.nr,
            args,
            mask: mask | call.thread.hidden_mask.get(),
            reason,
        };
        return Err(supervise::run(call.thread, &execution, || ()));
    }
    returning::before_native_program(call.thread, process);
    let record = process.record();
    process.set_native_reason(reason);
    let state = [ProcessState::Resident, ProcessState::Satellite]
        .into_iter()
        .find(|&state| change(record, state, ProcessState::Native));
    let undo = SignalsForNative::hand_over(call, process);
    let limit = *process.address_limit.lock();
    let is_limited = limit != NO_LIMIT && can_succeed(call, &args);
    if is_limited {
        let _ = pegasus_host::process::set_limit(RLIMIT_AS, &limit);
    }
    let failed = forward_as(call.nr, &args);
    if is_limited {
        let _ = pegasus_host::process::set_limit(RLIMIT_AS, &NO_LIMIT);
    }
    undo.take_back(call, process);
    if let Some(state) = state {
        change(record, ProcessState::Native, state);
    }
    failed
}

const NO_LIMIT: Rlimit = Rlimit {
    soft: RLIM_INFINITY,
    hard: RLIM_INFINITY,
};

/// Whether the program is there to be executed. Linux's RLIMIT_AS, once lowered, may not be raised again if it is not: with
/// the vkernel's heap below that limit, nothing could be mapped any more.
fn can_succeed(call: &Call, args: &[usize; 6]) -> bool {
    let (dir, path, flags) = if call.nr == nr::EXECVEAT {
        (args[0], args[1], args[4])
    } else {
        (AT_FDCWD, args[0], 0)
    };
    let flags = flags & (AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) | AT_EACCESS;
    forward_as(nr::FACCESSAT2, &[dir, path, X_OK, flags, 0, 0]).is_ok()
}

/// The signal state that a program run by Linux inherits: masks and ignored signals as the container has them.
struct SignalsForNative {
    mask_before: u64,
}

impl SignalsForNative {
    fn hand_over(call: &Call, process: &Process) -> Self {
        for_ignored_kept(
            process,
            &SigAction {
                handler: SIG_IGN,
                ..SigAction::default()
            },
        );
        let hidden = call.thread.hidden_mask.get();
        let mask_before = if hidden == 0 {
            0
        } else {
            let mask = pegasus_host::signal::set_mask(!0);
            pegasus_host::signal::set_mask(mask | hidden);
            mask
        };
        SignalsForNative { mask_before }
    }

    fn take_back(self, call: &Call, process: &Process) {
        if call.thread.hidden_mask.get() & KEPT != 0 {
            pegasus_host::signal::set_mask(self.mask_before);
        }
        for_ignored_kept(process, &crate::signal::receive::kernel_action(0));
    }
}

/// Sets the kernel-level action of each kept signal that the container ignores.
fn for_ignored_kept(process: &Process, action: &SigAction) {
    let actions = process.actions.lock();
    for signal in (1..=SIGNALS_MAX).filter(|&signal| is_kept(signal)) {
        if actions[signal as usize - 1].handler == SIG_IGN {
            // SAFETY: ignoring runs no code, and the vkernel's handler may run anywhere.
            let _ = unsafe { pegasus_host::signal::action(signal, Some(action), None) };
        }
    }
}

/// setuid(2) and its kin.
pub fn set_identity(call: &Call) -> Result {
    let identity = || (host::user_ids(), host::group_ids());
    if instance_kind() == InstanceKind::Own {
        return forward(call);
    }
    let before = identity();
    let done = forward(call);
    if identity() != before {
        let process = call.thread.process();
        process.dumpable.store(0, Ordering::Relaxed);
        if process.is_container_init {
            crate::boot::home::die_with_parent();
        }
    }
    done
}

pub fn prctl(call: &Call) -> Result {
    let shared = instance_kind() == InstanceKind::Shared;
    let has_neighbours = call.thread.process().has_neighbours();
    match call.args[0] {
        // As a kernel without it.
        PR_SET_SYSCALL_USER_DISPATCH => Err(Errno::EINVAL),
        // The kernel keeps one of each for all who share the address space.
        PR_SET_MM if shared => Err(Errno::EPERM),
        PR_SET_DUMPABLE if has_neighbours => match call.args[1] {
            value @ (0 | 1) => {
                let dumpable = &call.thread.process().dumpable;
                dumpable.store(value as u32, Ordering::Relaxed);
                Ok(0)
            }
            _ => Err(Errno::EINVAL),
        },
        PR_GET_DUMPABLE if has_neighbours => {
            Ok(call.thread.process().dumpable.load(Ordering::Relaxed) as usize)
        }
        PR_SET_THP_DISABLE if has_neighbours => Ok(0),
        PR_SET_MDWE if has_neighbours => Err(Errno::EINVAL),
        // The home task's parent is the instance, whose end it must share.
        PR_SET_PDEATHSIG if shared && call.thread.process().is_container_init => Ok(0),
        PR_SET_SECCOMP => filter::set_seccomp(call),
        _ => forward(call),
    }
}

/// ptrace(2): from PTRACE_TRACEME on, every signal stops the task until its tracer goes on, and a dispatch trap is one. The
/// parent of a vfork(2) child sleeps until that has run a program: so that child's calls go to Linux without traps.
pub fn ptrace(call: &Call) -> Result {
    const PTRACE_TRACEME: usize = 0;
    if call.args[0] == PTRACE_TRACEME && call.thread.process().is_borrower() {
        crate::boot::disarm();
    }
    forward(call)
}

pub fn arch_prctl(call: &Call) -> Result {
    /// Shadow stacks (CET) and whatever comes after: `ARCH_SHSTK_ENABLE` …
    const SHADOW_STACK: core::ops::RangeInclusive<usize> = 0x5001..=0x5005;
    match call.args[0] {
        ARCH_SET_GS => Err(Errno::EPERM),
        ARCH_GET_GS => {
            UserPtr(call.args[1]).write(&0usize)?;
            Ok(0)
        }
        code if SHADOW_STACK.contains(&code) => Err(Errno::EOPNOTSUPP),
        _ => forward(call),
    }
}

pub fn getrlimit(call: &Call) -> Result {
    limit(call, 0, call.args[0], 0, call.args[1])
}

pub fn setrlimit(call: &Call) -> Result {
    limit(call, 0, call.args[0], call.args[1], 0)
}

pub fn prlimit64(call: &Call) -> Result {
    let [pid, resource, new, old, ..] = call.args;
    limit(call, pid as i32, resource, new, old)
}

/// RLIMIT_AS of the caller is the vkernel's; everything else Linux's.
fn limit(call: &Call, pid: i32, resource: usize, new: usize, old: usize) -> Result {
    let process = call.thread.process();
    if resource != RLIMIT_AS || (pid != 0 && pid != process.pid()) {
        return forward(call);
    }
    let wanted: Option<Rlimit> = if new == 0 {
        None
    } else {
        Some(UserPtr(new).read()?)
    };
    let mut limit = process.address_limit.lock();
    let before = *limit;
    if let Some(wanted) = wanted {
        if wanted.soft > wanted.hard {
            return Err(Errno::EINVAL);
        }
        if wanted.hard > before.hard && !has_resource_capability() {
            return Err(Errno::EPERM);
        }
        *limit = wanted;
    }
    drop(limit);
    if old != 0 {
        UserPtr(old).write(&before)?;
    }
    Ok(0)
}

fn has_resource_capability() -> bool {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    pegasus_host::process::capabilities().is_ok_and(|sets| sets.effective & CAP_SYS_RESOURCE != 0)
}

/// userfaultfd(2). Who resolves the page faults of a thread must not depend on the task that the fault has stopped: from now on all
/// threads stay on their home tasks.
pub fn userfaultfd(call: &Call) -> Result {
    call.thread.process().stay_home();
    forward(call)
}

/// io_uring_setup(2): its rings can only be mapped where Linux chooses, which in a shared instance may be between neighbours.
pub fn io_uring_setup(call: &Call) -> Result {
    match instance_kind() {
        InstanceKind::Own => {
            returning::keep_all(call.thread);
            forward(call)
        }
        InstanceKind::Shared => Err(Errno::ENOSYS),
    }
}
