//! A terminal for a container that runs in the foreground.
//!
//! The container library sends the master side of the new pseudo-terminal to a socket; here that is
//! a socket of our own, and we copy between the master and the user's terminal.

use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{self, SetArg, Termios};
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error("cannot create the socket {path:?} for the container's terminal")]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot receive the container's terminal")]
    Receive(#[source] io::Error),
    #[error("the container's terminal has not been sent")]
    NotSent,
    #[error("cannot switch the user's terminal to raw mode")]
    RawMode(#[source] Errno),
}

/// A listening socket that the library connects to; its file is removed when this is dropped.
#[derive(Debug)]
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Creates the socket in `directory`, under a name that is no container id.
    pub fn create(directory: &Path) -> Result<Self, ConsoleError> {
        let path = directory.join(format!("@console-{}.sock", std::process::id()));
        let failed = |source| ConsoleError::Socket {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let listener = UnixListener::bind(&path).map_err(failed)?;
        Ok(ConsoleSocket { path, listener })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn receive(&self) -> Result<OwnedFd, ConsoleError> {
        let (stream, _) = self.listener.accept().map_err(ConsoleError::Receive)?;
        let mut name = [0; 4096];
        let mut space = nix::cmsg_space!([i32; 4]);
        let mut vectors = [IoSliceMut::new(&mut name)];
        let message = recvmsg::<()>(
            stream.as_raw_fd(),
            &mut vectors,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .map_err(|errno| ConsoleError::Receive(errno.into()))?;
        let received = message
            .cmsgs()
            .map_err(|errno| ConsoleError::Receive(errno.into()))?;
        let mut descriptors = received.flat_map(|control| match control {
            ControlMessageOwned::ScmRights(numbers) => sys::process::adopt_descriptors(numbers),
            _ => Vec::new(),
        });
        descriptors.next().ok_or(ConsoleError::NotSent)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Somebody else may have tidied up first.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The user's terminal, in raw mode, connected to the container's. Dropping it restores the mode.
pub struct Terminal {
    master: File,
    original_mode: Option<Termios>,
    input_open: bool,
    master_open: bool,
}

const COPY_LEN_MAX: usize = 16 * 1024;

impl Terminal {
    pub fn attach(socket: ConsoleSocket) -> Result<Self, ConsoleError> {
        let master = File::from(socket.receive()?);
        let original_mode = termios::tcgetattr(io::stdin()).ok();
        if let Some(mode) = &original_mode {
            let mut raw = mode.clone();
            termios::cfmakeraw(&mut raw);
            termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)
                .map_err(ConsoleError::RawMode)?;
        }
        let terminal = Terminal {
            master,
            original_mode,
            input_open: true,
            master_open: true,
        };
        terminal.copy_size();
        Ok(terminal)
    }

    /// Gives the container's terminal the size of the user's.
    pub fn copy_size(&self) {
        // Without a terminal on our side there is no size to copy.
        let _ = sys::terminal::copy_size(io::stdin().as_fd(), self.master.as_fd());
    }

    /// What to wait for, in the order in which [`Self::transfer`] takes the answers.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut waited = Vec::with_capacity(2);
        if self.master_open {
            waited.push(PollFd::new(self.master.as_fd(), PollFlags::POLLIN));
        }
        if self.input_open {
            waited.push(PollFd::new(sys::terminal::STDIN, PollFlags::POLLIN));
        }
        waited
    }

    /// Copies once from each side that is ready.
    pub fn transfer(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        let master_ready = self.master_open && ready.next().unwrap_or(false);
        let input_ready = self.input_open && ready.next().unwrap_or(false);
        if master_ready {
            self.master_open = self.copy_out();
        }
        if input_ready {
            self.input_open = self.copy_in();
        }
    }

    /// Copies what the container wrote before it ended.
    pub fn drain(&mut self) {
        while self.master_open
            && nix::poll::poll(
                &mut [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)],
                nix::poll::PollTimeout::ZERO,
            )
            .is_ok_and(|ready| ready > 0)
        {
            self.master_open = self.copy_out();
        }
    }

    fn copy_out(&mut self) -> bool {
        let mut buffer = [0; COPY_LEN_MAX];
        match self.master.read(&mut buffer) {
            // EIO: the last process has closed the terminal.
            Ok(0) | Err(_) => false,
            Ok(len) => {
                let mut output = io::stdout().lock();
                output
                    .write_all(&buffer[..len])
                    .and_then(|()| output.flush())
                    .is_ok()
            }
        }
    }

    fn copy_in(&mut self) -> bool {
        let mut buffer = [0; COPY_LEN_MAX];
        match nix::unistd::read(0, &mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(len) => self.master.write_all(&buffer[..len]).is_ok(),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(mode) = &self.original_mode {
            // The terminal may be gone; then its mode is, too.
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, mode);
        }
    }
}
