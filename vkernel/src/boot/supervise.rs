//! A container of a shared instance whose first program only Linux can run.
//!
//! The home task must not become that program: the end of a pid namespace's first process kills the anchor before
//! anybody could tell it the status. So the home task stays, gives up the memory it had, and becomes what
//! container engines call an init: its child runs the program, it passes signals on, buries orphans, and ends
//! as its child does.
#![allow(unsafe_code)]

use crate::boot::{arm, home};
use crate::signal::is_kept;
use crate::syscall::table::forward_as;
use crate::syscall::task::{borrower, release_borrower};
use crate::task::{Process, Thread, instance_kind};
use crate::usermem::UserPtr;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, Ordering};
use pegasus_abi::clone::{CLONE_VFORK, CLONE_VM};
use pegasus_abi::fcntl::PATH_MAX;
use pegasus_abi::prctl::{PR_SET_NAME, RLIMIT_AS};
use pegasus_abi::signal::{SIG_IGN, SIGCHLD, SIGNALS_MAX, SigAction, SigSet};
use pegasus_abi::{Errno, Result, nr};
use pegasus_arch::area::Area;
use pegasus_contract::boot::InstanceKind;
use pegasus_host::{file, process as host, signal};

/// The call that executes the program.
pub struct Execution<'a> {
    pub nr: usize,
    pub args: [usize; 6],
    /// The kernel-level mask that the program starts with.
    pub mask: SigSet,
    pub reason: &'a str,
}

/// `TASK_COMM_LEN`.
const NAME_LEN: usize = 16;

/// What the child is told. It lives on the stack of the parent, which waits.
struct Errand<'a> {
    execution: &'a Execution<'a>,
    /// Positive errno of the execution.
    failed: AtomicI32,
}

/// Whether a process must not become a program that Linux runs.
pub fn is_needed(thread: &Thread) -> bool {
    let process = thread.process();
    process.is_container_init
        && instance_kind() == InstanceKind::Shared
        && process.is_last_thread(thread)
        && !process.has_borrowers()
}

/// Runs the program in a child, and does not return unless it cannot be executed. `started` is called when it has been.
pub fn run(thread: &'static Thread, execution: &Execution, started: impl FnOnce()) -> Errno {
    let mask = signal::set_mask(!0);
    // An ignored SIGCHLD would have Linux bury the child, and its status.
    let children = set_action(SIGCHLD, &SigAction::default());
    let path = path_of(execution);
    let name = name_of(&path);
    match start_child(thread, execution) {
        Ok(child) => {
            // SAFETY: the kernel reads 16 bytes.
            let _ = unsafe { host::prctl(PR_SET_NAME, name.as_ptr() as usize, 0, 0, 0) };
            thread.process().set_exe(&path);
            started();
            stay(thread, child)
        }
        Err(error) => {
            if let Some(children) = children {
                set_action(SIGCHLD, &children);
            }
            signal::set_mask(mask);
            error
        }
    }
}

/// The path that is executed; empty if there is none.
fn path_of(execution: &Execution) -> Vec<u8> {
    let path_at = if execution.nr == nr::EXECVEAT { 1 } else { 0 };
    let path = UserPtr(execution.args[path_at]).read_c_string(PATH_MAX, Errno::ENAMETOOLONG);
    let mut path = path.unwrap_or_default();
    path.pop();
    path
}

/// The name that the program will have where processes are listed, which it is looked for by.
fn name_of(path: &[u8]) -> [u8; NAME_LEN] {
    let name = path.split(|&byte| byte == b'/').next_back().unwrap_or(b"");
    let mut padded = [0; NAME_LEN];
    let len = name.len().min(NAME_LEN - 1);
    padded[..len].copy_from_slice(&name[..len]);
    padded
}

/// Sets a kernel-level action and gives the old one.
fn set_action(number: u32, action: &SigAction) -> Option<SigAction> {
    let mut old = SigAction::default();
    // SAFETY: the default action and ignoring run no code; any other one was Linux's before.
    unsafe { signal::action(number, Some(action), Some(&mut old)) }
        .ok()
        .map(|_| old)
}

/// Ends with the status of the program.
fn end(process: &Process, status: i32) -> ! {
    const SIGNAL_BITS: i32 = 0x7f;
    match status & SIGNAL_BITS {
        0 => {
            let status = status >> 8 & 0xff;
            home::announce_exit(process, status);
            host::exit_group(status)
        }
        signal => {
            home::announce_death_by_signal(process, signal as u32);
            host::exit_group(128 + signal)
        }
    }
}

/// Clones a child that executes the program in this process's place; gives its pid.
fn start_child(thread: &'static Thread, execution: &Execution) -> Result<i32> {
    let (process, child) = borrower(thread.process())?;
    process.set_native_reason(execution.reason);
    let errand = Errand {
        execution,
        failed: AtomicI32::new(0),
    };
    child.errand.set(&raw const errand as usize);
    let flags = CLONE_VM | CLONE_VFORK | u64::from(SIGCHLD);
    // SAFETY: the child's stack is unused; all signals are blocked; this task waits until the child has left its memory.
    let cloned = unsafe {
        let stack = pegasus_arch::task::prepare_child(&child.area, begin);
        pegasus_arch::task::clone(flags, stack, 0, 0, 0)
    };
    let failed = errand.failed.load(Ordering::Acquire);
    let started = cloned.and_then(|pid| {
        if failed == 0 {
            Ok(pid as i32)
        } else {
            let _ = host::wait_for(pid as i32);
            Err(Errno(failed))
        }
    });
    release_borrower(process, child, started.ok());
    started
}

/// First code of the child. All signals are blocked.
extern "C" fn begin(area: &'static Area) {
    // SAFETY: prepared for this task alone.
    unsafe { pegasus_arch::task::attach(area) };
    let thread = Thread::current();
    let process = thread.process();
    process.settle_pid();
    // SAFETY: set by `start_child`, which waits.
    let errand = unsafe { &*(thread.errand.get() as *const Errand) };
    let _ = arm(thread);
    let errno = execute(process, errand.execution);
    errand.failed.store(errno.0, Ordering::Release);
    host::exit_group(127)
}

/// Executes the program with the limits and the signal state of the container.
fn execute(process: &Process, execution: &Execution) -> Errno {
    let ignore = SigAction {
        handler: SIG_IGN,
        ..SigAction::default()
    };
    let actions = *process.actions.lock();
    for number in (1..=SIGNALS_MAX).filter(|&number| is_kept(number) || number == SIGCHLD) {
        if actions[number as usize - 1].handler == SIG_IGN {
            set_action(number, &ignore);
        }
    }
    let limit = *process.address_limit.lock();
    let _ = host::set_limit(RLIMIT_AS, &limit);
    signal::set_mask(execution.mask);
    let failed = forward_as(execution.nr, &execution.args);
    signal::set_mask(!0);
    failed.err().unwrap_or(Errno::ENOEXEC)
}

/// Passes signals on and buries children until `child` ends; then ends likewise.
fn stay(thread: &'static Thread, child: i32) -> ! {
    let process = thread.process();
    process.rewriter.clear();
    process.space.lock().unmap_all();
    // What the program closes must be closed.
    let _ = file::close_range(0, u32::MAX as usize, 0);
    loop {
        let info = signal::wait_for_any(!0);
        if info.signo as u32 == SIGCHLD {
            while let Some((pid, status)) = host::take_any_child() {
                if pid == child {
                    end(process, status)
                }
            }
        } else if info.is_from_user() {
            // Linux sends what comes from the terminal to the child itself.
            let _ = signal::kill(child, info.signo as u32);
        }
    }
}
