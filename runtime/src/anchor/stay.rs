//! The anchor while the program runs: a process that sleeps, passes signals on, and ends as the program
//! does.
//!
//! It runs inside the container under the container's own policy, so it makes few and common calls.

use crate::executor::launch::LaunchError;
use crate::executor::lookup::errno_text;
use crate::instance::channel::{Channel, ChannelError, Patience};
use crate::instance::letter::LetterError;
use crate::instance::message::{FromAnchor, ToAnchor};
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use std::ffi::IntoStringError;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("the program's path, arguments or environment are no text")]
    Text(#[from] IntoStringError),
    #[error(transparent)]
    Letter(#[from] LetterError),
    #[error("cannot give the terminal to the container")]
    Terminal(#[source] Errno),
    #[error("cannot receive signals for the container")]
    Signals(#[source] Errno),
    #[error("cannot reach the group's instance")]
    Instance(#[from] ChannelError),
    #[error("exec {path}: {}", errno_text(*.errno))]
    Program { path: String, errno: Errno },
}

/// The home task makes the terminal its own; until then nobody's.
pub fn give_up_terminal() -> Result<(), AnchorError> {
    sys::anchor::give_up_terminal(sys::terminal::STDIN).map_err(AnchorError::Terminal)
}

/// Lets the home task run the program that `letter` describes, with descriptors below `inherited`,
/// and does not return if it does.
pub fn start(link: &Channel, letter: &File, inherited: u32, path: &str) -> Result<(), AnchorError> {
    // From here on signals are for the program, even those that come before it runs.
    let signals = receive_signals()?;
    let numbers: Vec<i32> = (0..inherited.cast_signed()).collect();
    let mut descriptors = vec![letter.as_fd()];
    descriptors.extend(sys::anchor::inherited(&numbers));
    link.send(&FromAnchor::Start, &descriptors, Patience::Wait)?;
    match link.receive::<ToAnchor>(Patience::Wait) {
        Ok(received) => match received.message {
            ToAnchor::Started => stay(link, &signals),
            ToAnchor::Ended { wait_status } => leave(wait_status),
            ToAnchor::Failed { errno } => Err(AnchorError::Program {
                path: path.to_owned(),
                errno: Errno::from_raw(errno),
            }),
        },
        Err(ChannelError::Closed) => leave(libc::SIGKILL),
        Err(error) => Err(error.into()),
    }
}

fn receive_signals() -> Result<SignalFd, AnchorError> {
    sys::anchor::block_signals().map_err(AnchorError::Signals)?;
    // Every signal but those that cannot be caught, real-time ones included.
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&SigSet::all(), flags).map_err(AnchorError::Signals)
}

fn stay(link: &Channel, signals: &SignalFd) -> ! {
    // The program has them now: a pipe must end when the program ends.
    sys::anchor::close_all_but(&[link.as_fd().as_raw_fd(), signals.as_raw_fd()]);
    sys::anchor::trim_memory();
    loop {
        if wait_for_either(link.as_fd(), signals.as_fd()).is_err() {
            leave(libc::SIGKILL);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            pass_on(&signal, link);
        }
        match link.receive::<ToAnchor>(Patience::Never) {
            Ok(received) => {
                if let ToAnchor::Ended { wait_status } = received.message {
                    leave(wait_status);
                }
            }
            Err(ChannelError::Receive(Errno::EAGAIN)) => {}
            // Without its instance the container is gone.
            Err(_) => leave(libc::SIGKILL),
        }
    }
}

fn wait_for_either(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut fds = [one, other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Signals from outside the container are for its first process; the container's own processes
/// know that one themselves.
fn pass_on(signal: &siginfo, link: &Channel) {
    let is_from_outside = signal.ssi_pid == 0;
    let number = signal.ssi_signo.cast_signed();
    if is_from_outside && number != libc::SIGCHLD {
        // If the instance has gone, the next look at the link says so.
        let _ = link.send(&FromAnchor::Signal { number }, &[], Patience::Wait);
    }
}

/// Ends this process with a status of `wait4(2)`.
fn leave(wait_status: i32) -> ! {
    let signal = wait_status & 0x7f;
    if signal == 0 {
        std::process::exit(wait_status >> 8 & 0xff);
    }
    sys::anchor::die_of(signal)
}
