//! What a process does that stays while another one runs in its stead.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use pegasus_contract::anchor::{LINK, SIGNALS};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Gives up the controlling terminal, if `terminal` is it.
pub fn give_up_terminal(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // The members of the old session are sent this signal.
    // SAFETY: SIG_IGN runs no code of this program.
    unsafe { nix::sys::signal::signal(Signal::SIGHUP, SigHandler::SigIgn) }?;
    // SAFETY: TIOCNOTTY takes no argument.
    match Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) }) {
        Ok(_) | Err(Errno::ENOTTY) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Blocks every signal that can be blocked, real-time ones included.
pub fn block_signals() -> Result<(), Errno> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)
}

/// Ends this process by `signal`, or, if it survives that, with the status that a shell would show.
pub fn die_of(signal: i32) -> ! {
    // SAFETY: SIG_DFL runs no code of this program; the mask is a valid one.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        libc::kill(libc::getpid(), signal);
    }
    std::process::exit(128 + signal);
}

/// Shows `name`, cut to 15 bytes, where processes are listed.
pub fn name_process(name: &str) {
    if let Ok(name) = CString::new(name) {
        // Only for people to read.
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Shows no arguments and no environment where processes are listed: then `name_process` counts.
pub fn hide_arguments() -> Result<(), Errno> {
    /// `struct prctl_mm_map`; the last field leaves `/proc/self/exe` as it is.
    #[repr(C)]
    struct Map {
        start_code: u64,
        end_code: u64,
        start_data: u64,
        end_data: u64,
        start_brk: u64,
        brk: u64,
        start_stack: u64,
        arguments: [u64; 4],
        auxv: u64,
        auxv_len: u32,
        exe: u32,
    }
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|_| Errno::ENOENT)?;
    let (_, after_name) = stat.rsplit_once(") ").ok_or(Errno::EINVAL)?;
    let numbers: Vec<u64> = after_name
        .split(' ')
        .map(|field| field.trim_end().parse().unwrap_or(0))
        .collect();
    // Fields are numbered from 1 in proc(5); the state, which is first here, is field 3.
    let field = |number: usize| numbers.get(number - 3).copied().ok_or(Errno::EINVAL);
    // SAFETY: with 0 the call only tells where the break is.
    let brk = unsafe { libc::sbrk(0) } as u64;
    let map = Map {
        start_code: field(26)?,
        end_code: field(27)?,
        start_data: field(45)?,
        end_data: field(46)?,
        start_brk: field(47)?,
        brk,
        start_stack: field(28)?,
        arguments: [field(48)?; 4],
        auxv: 0,
        auxv_len: 0,
        exe: u32::MAX,
    };
    // SAFETY: the kernel reads one `Map`. What it tells others about this process changes, nothing else.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            libc::PR_SET_MM_MAP,
            &raw const map,
            size_of::<Map>(),
            0,
        )
    };
    Errno::result(set).map(drop)
}

/// Covers `path` inside the mount namespace of process `inside` with an empty directory. This process must have
/// one thread only.
pub fn cover_directory(inside: Pid, path: &CStr) -> Result<(), Errno> {
    let namespace = CString::new(format!("/proc/{inside}/ns/mnt")).map_err(|_| Errno::EINVAL)?;
    // SAFETY: with one thread, the child may do what any program may; it makes a few calls and ends.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let covered = cover(&namespace, path);
            // SAFETY: ends this process without running what belongs to its parent.
            unsafe { libc::_exit(covered.err().map_or(0, |errno| errno as i32)) }
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
            _ => Err(Errno::ECHILD),
        },
    }
}

fn cover(namespace: &CStr, path: &CStr) -> Result<(), Errno> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let file = nix::fcntl::open(namespace, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    // SAFETY: just opened, and closed with the process.
    let namespace = unsafe { BorrowedFd::borrow_raw(file) };
    setns(namespace, CloneFlags::CLONE_NEWNS)?;
    let options = Some(c"size=0,mode=555");
    mount(Some(c"tmpfs"), path, Some(c"tmpfs"), flags, options)
}

/// Descriptors by number, as a program inherits them. Numbers that are not open may be among them:
/// sending one fails.
pub fn inherited(numbers: &[RawFd]) -> Vec<BorrowedFd<'static>> {
    numbers
        .iter()
        // SAFETY: the process keeps those that it inherits for a program until that has them.
        .map(|number| unsafe { BorrowedFd::borrow_raw(*number) })
        .collect()
}

/// Becomes the program in `code`, listed as `title`, whose only descriptors are `kept`, numbered as it expects them.
/// Returns on failure.
pub fn execute(code: RawFd, title: &str, kept: [RawFd; 2]) -> Errno {
    const TARGETS: [RawFd; 2] = [LINK as RawFd, SIGNALS as RawFd];
    /// Above any number that is a target.
    const ASIDE: RawFd = 16;
    let aside = |number| nix::fcntl::fcntl(number, FcntlArg::F_DUPFD_CLOEXEC(ASIDE));
    let arranged = || -> Result<RawFd, Errno> {
        let code = aside(code)?;
        let kept = [aside(kept[0])?, aside(kept[1])?];
        for (number, target) in kept.into_iter().zip(TARGETS) {
            nix::unistd::dup2(number, target)?;
        }
        close_all_but(&[TARGETS[0], TARGETS[1], code]);
        Ok(code)
    };
    let code = match arranged() {
        Ok(code) => code,
        Err(errno) => return errno,
    };
    let title = CString::new(title).unwrap_or_default();
    let argv = [title.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: all are NUL-terminated and NULL-terminated.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            code,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Errno::last()
}

/// Closes every descriptor that is not listed.
pub fn close_all_but(kept: &[RawFd]) {
    const NUMBER_MAX: RawFd = 1 << 16;
    let mut kept = kept.to_vec();
    kept.sort_unstable();
    let mut first = 0;
    for number in kept.into_iter().chain([RawFd::MAX]) {
        if first < number {
            close_range(first, number - 1, NUMBER_MAX);
        }
        first = number.saturating_add(1);
    }
}

fn close_range(first: RawFd, last: RawFd, number_max: RawFd) {
    // SAFETY: whoever owns these descriptors does not use them any more.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed != 0 {
        for number in first..=last.min(number_max) {
            // SAFETY: as above.
            unsafe { libc::close(number) };
        }
    }
}
