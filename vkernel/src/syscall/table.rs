//! The one table of system calls: dispatch, the gate's fast path and `docs/SYSCALLS.md` derive from it.
//!
//! A number without a row is [`Support::Native`]: the calling task executes it, and Linux answers, as it
//! does for numbers that do not exist.
#![allow(unsafe_code)]

use crate::entry::Call;
use crate::epoll::control::{epoll_create, epoll_ctl};
use crate::syscall::net::{connect, option, recv, send, shutdown};
use crate::syscall::{
    descriptor, filter, futex, memory, path, poll, process, signal, task, time, wait,
};
use core::sync::atomic::Ordering;
use pegasus_abi::errno::from_return;
use pegasus_abi::nr::{self, NR_LEN};
use pegasus_abi::{Errno, Result};
use pegasus_arch::{area, gate};

/// Serves one call.
pub type Handler = fn(&Call) -> Result;

/// What becomes of a call.
#[derive(Clone, Copy)]
pub enum Support {
    /// Executed by the home task, unchanged.
    Native,
    /// Served by the vkernel with all that Linux offers.
    Full(Handler),
    /// Served, with a difference that somebody might notice.
    Partial(Handler, &'static str),
    /// Always this error.
    Refused(Errno, &'static str),
}

use Support::{Full, Partial, Refused};

const ROWS: &[(usize, Support)] = &[
    (
        nr::MMAP,
        Partial(
            memory::mmap,
            "MAP_32BIT in a shared instance: one container at a time",
        ),
    ),
    (nr::MUNMAP, Full(memory::munmap)),
    (nr::MPROTECT, Full(memory::mprotect)),
    (nr::PKEY_MPROTECT, Full(memory::pkey_mprotect)),
    (nr::MREMAP, Full(memory::mremap)),
    (nr::BRK, Full(memory::brk)),
    (nr::MADVISE, Full(memory::madvise)),
    (nr::REMAP_FILE_PAGES, Full(memory::remap_file_pages)),
    (nr::MLOCKALL, Full(memory::mlockall)),
    (nr::MUNLOCKALL, Full(memory::munlockall)),
    (nr::SHMAT, Full(memory::shmat)),
    (nr::SHMDT, Full(memory::shmdt)),
    (
        nr::MAP_SHADOW_STACK,
        Refused(Errno::EOPNOTSUPP, "shadow stacks are not offered"),
    ),
    (nr::RT_SIGACTION, Full(signal::rt_sigaction)),
    (nr::RT_SIGPROCMASK, Full(signal::rt_sigprocmask)),
    (nr::RT_SIGPENDING, Full(signal::rt_sigpending)),
    (nr::RT_SIGRETURN, Full(signal::rt_sigreturn)),
    (nr::SIGALTSTACK, Full(signal::sigaltstack)),
    (nr::RT_SIGSUSPEND, Full(wait::rt_sigsuspend)),
    (nr::RT_SIGTIMEDWAIT, Full(wait::rt_sigtimedwait)),
    (nr::SOCKET, Full(connect::socket)),
    (nr::CONNECT, Full(connect::connect)),
    (nr::LISTEN, Full(connect::listen)),
    (nr::ACCEPT, Full(connect::accept)),
    (nr::ACCEPT4, Full(connect::accept)),
    (nr::READ, Full(recv::read)),
    (nr::READV, Full(recv::readv)),
    (nr::RECVFROM, Full(recv::recvfrom)),
    (nr::RECVMSG, Full(recv::recvmsg)),
    (nr::RECVMMSG, Full(recv::recvmmsg)),
    (nr::PREADV2, Full(recv::preadv2)),
    (nr::PWRITEV2, Full(send::pwritev2)),
    (nr::WRITE, Full(send::write)),
    (nr::WRITEV, Full(send::writev)),
    (nr::SENDTO, Full(send::sendto)),
    (nr::SENDMSG, Full(send::sendmsg)),
    (nr::SENDMMSG, Full(send::sendmmsg)),
    (nr::SENDFILE, Full(send::sendfile)),
    (nr::SPLICE, Full(send::splice)),
    (nr::SHUTDOWN, Full(shutdown::shutdown)),
    (nr::SETSOCKOPT, Full(option::setsockopt)),
    (nr::GETSOCKOPT, Full(option::getsockopt)),
    (nr::IOCTL, Full(option::ioctl)),
    (nr::CLOSE, Full(descriptor::close)),
    (nr::CLOSE_RANGE, Full(descriptor::close_range)),
    (nr::UNSHARE, Full(descriptor::unshare)),
    (nr::DUP, Full(descriptor::dup)),
    (nr::DUP2, Full(descriptor::dup2)),
    (nr::DUP3, Full(descriptor::dup2)),
    (nr::FCNTL, Full(descriptor::fcntl)),
    (nr::POLL, Full(poll::poll)),
    (nr::SELECT, Full(poll::select)),
    (nr::EPOLL_CREATE, Full(epoll_create)),
    (nr::EPOLL_CREATE1, Full(epoll_create)),
    (nr::EPOLL_CTL, Full(epoll_ctl)),
    (nr::EPOLL_WAIT, Full(wait::epoll_wait)),
    (nr::PPOLL, Full(wait::ppoll)),
    (nr::PSELECT6, Full(wait::pselect6)),
    (nr::EPOLL_PWAIT, Full(wait::epoll_pwait)),
    (nr::EPOLL_PWAIT2, Full(wait::epoll_pwait)),
    (
        nr::FUTEX,
        Partial(
            futex::futex,
            "private ones are woken in order of arrival, whatever the priorities",
        ),
    ),
    (nr::FUTEX_WAITV, Full(futex::futex2)),
    (nr::FUTEX_WAKE, Full(futex::futex2)),
    (nr::FUTEX_WAIT, Full(futex::futex2)),
    (nr::FUTEX_REQUEUE, Full(futex::futex2)),
    (nr::CLOCK_GETTIME, Full(time::clock_gettime)),
    (nr::GETRUSAGE, Full(time::getrusage)),
    (nr::TIMES, Full(time::times)),
    (nr::TIMER_CREATE, Full(time::timer_create)),
    (nr::TIMER_DELETE, Full(time::timer_delete)),
    (nr::CLONE, Full(task::clone)),
    (nr::CLONE3, Full(task::clone3)),
    (nr::FORK, Full(task::fork)),
    (nr::VFORK, Full(task::vfork)),
    (nr::WAIT4, Full(wait::wait4)),
    (nr::WAITID, Full(wait::waitid)),
    (nr::EXIT, Full(task::exit)),
    (nr::EXIT_GROUP, Full(task::exit_group)),
    (
        nr::EXECVE,
        Partial(process::execve, "a child's new program runs native"),
    ),
    (
        nr::EXECVEAT,
        Partial(process::execveat, "a child's new program runs native"),
    ),
    (
        nr::PRCTL,
        Partial(
            process::prctl,
            "dispatch is the vkernel's; what Linux keeps per address space does not change in a shared instance",
        ),
    ),
    (
        nr::ARCH_PRCTL,
        Partial(process::arch_prctl, "the GS base is the vkernel's"),
    ),
    (
        nr::IO_URING_SETUP,
        Partial(
            process::io_uring_setup,
            "ENOSYS in a shared instance: Linux places the rings itself",
        ),
    ),
    (nr::USERFAULTFD, Full(process::userfaultfd)),
    (nr::SECCOMP, Full(filter::seccomp)),
    (nr::PTRACE, Full(process::ptrace)),
    (nr::SETUID, Full(process::set_identity)),
    (nr::SETGID, Full(process::set_identity)),
    (nr::SETREUID, Full(process::set_identity)),
    (nr::SETREGID, Full(process::set_identity)),
    (nr::SETRESUID, Full(process::set_identity)),
    (nr::SETRESGID, Full(process::set_identity)),
    (nr::SETFSUID, Full(process::set_identity)),
    (nr::SETFSGID, Full(process::set_identity)),
    (nr::GETRLIMIT, Full(process::getrlimit)),
    (nr::SETRLIMIT, Full(process::setrlimit)),
    (
        nr::PRLIMIT64,
        Partial(
            process::prlimit64,
            "RLIMIT_AS of another process is not seen",
        ),
    ),
    (
        nr::RSEQ,
        Refused(Errno::ENOSYS, "a thread may change the task that runs it"),
    ),
    (nr::OPEN, Full(path::open)),
    (nr::OPENAT, Full(path::openat)),
    (nr::OPENAT2, Full(path::openat2)),
    (nr::READLINK, Full(path::readlink)),
    (nr::READLINKAT, Full(path::readlinkat)),
    (nr::STAT, Full(path::stat)),
    (nr::NEWFSTATAT, Full(path::newfstatat)),
];

static TABLE: [Support; NR_LEN] = {
    let mut table = [Support::Native; NR_LEN];
    let mut row = 0;
    while row < ROWS.len() {
        table[ROWS[row].0] = ROWS[row].1;
        row += 1;
    }
    table
};

/// Of the rows above, those that concern Linux alone when their first argument, a descriptor, is not a known one.
const BY_DESCRIPTOR: &[usize] = &[
    nr::READ,
    nr::READV,
    nr::PREADV2,
    nr::PWRITEV2,
    nr::RECVFROM,
    nr::RECVMSG,
    nr::RECVMMSG,
    nr::WRITE,
    nr::WRITEV,
    nr::SENDTO,
    nr::SENDFILE,
    nr::SHUTDOWN,
    nr::SETSOCKOPT,
    nr::GETSOCKOPT,
    nr::CONNECT,
    nr::LISTEN,
    nr::ACCEPT,
    nr::ACCEPT4,
    nr::IOCTL,
    nr::CLOSE,
    nr::DUP,
    nr::FCNTL,
    nr::EPOLL_WAIT,
];

/// For the gate: how each call goes. See [`gate::SERVED`].
const fn served() -> [u8; NR_LEN] {
    let mut served = [0; NR_LEN];
    let mut row = 0;
    while row < ROWS.len() {
        served[ROWS[row].0] = gate::SERVED;
        row += 1;
    }
    let mut row = 0;
    while row < BY_DESCRIPTOR.len() {
        served[BY_DESCRIPTOR[row]] = gate::SERVED_BY_DESCRIPTOR;
        row += 1;
    }
    served
}

/// For the gate: how the calls go of a thread on its home task.
pub static SERVED: [u8; NR_LEN] = served();
/// The same for one that a worker runs: all take the slow path, which finds out who may make them.
pub static SERVED_AWAY: [u8; NR_LEN] = [gate::SERVED; NR_LEN];

/// Calls that may well end without any call of Linux's. All others are made at home from the beginning.
const AWAY: &[usize] = &[
    nr::READ,
    nr::READV,
    nr::RECVFROM,
    nr::RECVMSG,
    nr::RECVMMSG,
    nr::WRITE,
    nr::WRITEV,
    nr::SENDTO,
    nr::SENDMSG,
    nr::SENDMMSG,
    nr::SETSOCKOPT,
    nr::GETSOCKOPT,
    nr::IOCTL,
    nr::POLL,
    nr::PPOLL,
    nr::SELECT,
    nr::PSELECT6,
    nr::EPOLL_CTL,
    nr::EPOLL_WAIT,
    nr::EPOLL_PWAIT,
    nr::EPOLL_PWAIT2,
    nr::FUTEX,
    nr::CLOCK_GETTIME,
];

static RUNS_AWAY: [bool; NR_LEN] = {
    let mut runs = [false; NR_LEN];
    let mut row = 0;
    while row < AWAY.len() {
        runs[AWAY[row]] = true;
        row += 1;
    }
    runs
};

/// Whether a thread that is away may begin with this call there.
pub fn runs_away(nr: usize) -> bool {
    RUNS_AWAY.get(nr).is_some_and(|runs| *runs)
}

/// The rows that are not [`Support::Native`].
pub fn rows() -> &'static [(usize, Support)] {
    ROWS
}

/// Whether the vkernel answers `nr` itself.
pub fn is_served(nr: usize) -> bool {
    !matches!(TABLE.get(nr), None | Some(Support::Native))
}

/// Answers a call.
pub fn dispatch(call: &Call) -> Result {
    match TABLE.get(call.nr) {
        Some(Full(handler) | Partial(handler, _)) => handler(call),
        Some(Refused(errno, _)) => Err(*errno),
        Some(Support::Native) | None => forward(call),
    }
}

/// Lets the home task execute the call as it is.
pub fn forward(call: &Call) -> Result {
    forward_as(call.nr, &call.args)
}

/// Counts a served call that comes to a call of Linux's.
pub fn note_forwarded() {
    // SAFETY: vkernel code runs with an area, whose shard is one of the process's record.
    let forwarded = unsafe { &(*area::current().shard.get()).forwarded };
    forwarded.store(forwarded.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Lets the home task execute another call in its place.
pub fn forward_as(nr: usize, args: &[usize; 6]) -> Result {
    note_forwarded();
    // SAFETY: calls that change mappings, handlers, the alternate stack, dispatch or the task itself all have rows
    // above; those rows forward only after checking that they concern the container's own range.
    from_return(unsafe { gate::forward(nr, args) })
}
