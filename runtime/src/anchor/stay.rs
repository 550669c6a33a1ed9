//! The anchor from the moment when the container is started: it lets the home task run the program, and becomes a
//! program itself that does nothing but pass on signals and wait for the end ([`code`](super::code)).
//!
//! It runs inside the container under the container's own policy: [`NEEDS`] names its calls.

use crate::executor::launch::LaunchError;
use crate::executor::lookup::errno_text;
use crate::instance::channel::{Channel, ChannelError, Patience};
use crate::instance::letter::LetterError;
use crate::instance::message::{FromAnchor, ToAnchor};
use crate::sys;
use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::ffi::IntoStringError;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

/// Calls that a container's policy must allow, or it cannot have an anchor. The program's own are
/// among them.
pub const NEEDS: [&str; 16] = [
    "close_range",
    "dup2",
    "execveat",
    "exit_group",
    "fcntl",
    "getpid",
    "ioctl",
    "kill",
    "ppoll",
    "prctl",
    "pwrite64",
    "read",
    "recvmsg",
    "sendmsg",
    "sendto",
    "signalfd4",
];

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
    #[error("cannot execute the anchor's own program")]
    Execute(#[source] Errno),
}

/// The home task makes the terminal its own; until then nobody's.
pub fn give_up_terminal() -> Result<(), AnchorError> {
    sys::anchor::give_up_terminal(sys::terminal::STDIN).map_err(AnchorError::Terminal)
}

/// Lets the home task run the program that `letter` describes, with descriptors below `inherited`.
/// Gives the signals that have been meant for it since.
pub fn start(
    link: &Channel,
    letter: &File,
    inherited: u32,
    path: &str,
) -> Result<SignalFd, AnchorError> {
    // From here on signals are for the program, even those that come before it runs.
    let signals = receive_signals()?;
    let numbers: Vec<i32> = (0..inherited.cast_signed()).collect();
    let mut descriptors = vec![letter.as_fd()];
    descriptors.extend(sys::anchor::inherited(&numbers));
    link.send(&FromAnchor::Start, &descriptors, Patience::Wait)?;
    match link.receive::<ToAnchor>(Patience::Wait) {
        Ok(received) => match received.message {
            ToAnchor::Started => Ok(signals),
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
    SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC).map_err(AnchorError::Signals)
}

/// Becomes the anchor's program. The container's descriptors are closed with it: the program has them now, and a
/// pipe must end when the program ends.
pub fn stay(link: &Channel, signals: &SignalFd, code: &File, title: &str) -> AnchorError {
    let errno = sys::anchor::execute(
        code.as_raw_fd(),
        title,
        [link.as_fd().as_raw_fd(), signals.as_raw_fd()],
    );
    AnchorError::Execute(errno)
}

/// Ends this process with a status of `wait4(2)`.
fn leave(wait_status: i32) -> ! {
    let signal = wait_status & 0x7f;
    if signal == 0 {
        std::process::exit(wait_status >> 8 & 0xff);
    }
    sys::anchor::die_of(signal)
}
