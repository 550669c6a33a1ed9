//! Stays with a process until it ends: passes signals and terminal traffic, returns its status.

use super::console::{ConsoleError, ConsoleSocket, Terminal};
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::AsFd;

#[derive(Debug, thiserror::Error)]
pub enum ForegroundError {
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error("cannot become the parent of the container's orphans; --no-subreaper does without")]
    Subreaper(#[source] Errno),
    #[error("cannot receive signals for the container")]
    Signals(#[source] Errno),
    #[error("cannot wait for the container's process")]
    Wait(#[source] Errno),
}

/// Whether processes whose parent has died become children of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    Adopt,
    Leave,
}

/// Call before the container is created.
pub fn prepare(orphans: Orphans) -> Result<(), ForegroundError> {
    match orphans {
        Orphans::Adopt => prctl::set_child_subreaper(true).map_err(ForegroundError::Subreaper),
        Orphans::Leave => Ok(()),
    }
}

/// Returns the exit status of `pid`, or 128 plus the number of the signal that killed it.
pub fn attend(
    pid: Pid,
    console: Option<ConsoleSocket>,
    orphans: Orphans,
) -> Result<u8, ForegroundError> {
    let signals = receive_signals()?;
    let mut terminal = console.map(Terminal::attach).transpose()?;
    loop {
        if let Some(status) = reap(pid, orphans)? {
            if let Some(terminal) = &mut terminal {
                terminal.drain();
            }
            return Ok(status);
        }
        wait_for_event(&signals, terminal.as_mut())?;
        while let Ok(Some(signal)) = signals.read_signal() {
            pass_on(signal.ssi_signo as i32, pid, terminal.as_ref());
        }
    }
}

fn receive_signals() -> Result<SignalFd, ForegroundError> {
    let mut wanted = SigSet::all();
    // These report faults of this program itself.
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGFPE,
        Signal::SIGABRT,
    ] {
        wanted.remove(fault);
    }
    wanted.thread_block().map_err(ForegroundError::Signals)?;
    SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(ForegroundError::Signals)
}

fn wait_for_event(
    signals: &SignalFd,
    terminal: Option<&mut Terminal>,
) -> Result<(), ForegroundError> {
    let mut waited = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    if let Some(terminal) = &terminal {
        waited.extend(terminal.poll_fds());
    }
    match poll(&mut waited, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(ForegroundError::Signals(errno)),
    }
    let ready: Vec<bool> = waited[1..]
        .iter()
        .map(|fd| fd.any().unwrap_or(false))
        .collect();
    drop(waited);
    if let Some(terminal) = terminal {
        terminal.transfer(&ready);
    }
    Ok(())
}

fn pass_on(signal: i32, pid: Pid, terminal: Option<&Terminal>) {
    match signal {
        libc::SIGCHLD | libc::SIGPIPE => {}
        libc::SIGWINCH if terminal.is_some() => {
            if let Some(terminal) = terminal {
                terminal.copy_size();
            }
        }
        // The process may have ended just now; then its status says so.
        other => drop(sys::process::kill(pid, other)),
    }
}

/// Waits, without blocking, for what has ended; `Some` once `pid` is among it.
fn reap(pid: Pid, orphans: Orphans) -> Result<Option<u8>, ForegroundError> {
    let whom = match orphans {
        Orphans::Adopt => None,
        Orphans::Leave => Some(pid),
    };
    loop {
        match waitpid(whom, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(ended, status)) if ended == pid => {
                return Ok(Some(u8::try_from(status & 0xff).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(ended, signal, _)) if ended == pid => {
                return Ok(Some(128 + signal as u8));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ForegroundError::Wait(errno)),
        }
    }
}
