//! Turns the vkernel's doorbell, a futex that home tasks ring, into a descriptor that can be polled.

use crate::sys::futex;
use crate::sys::shared_vkernel::SharedVkernel;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Debug, thiserror::Error)]
pub enum DoorbellError {
    #[error("cannot create an event descriptor")]
    Create(#[source] Errno),
    #[error("cannot start the thread that listens for home tasks")]
    Thread(#[source] io::Error),
}

/// Readable when it has been rung since [`Doorbell::answer`].
#[derive(Debug, Clone)]
pub struct Doorbell {
    event: Arc<EventFd>,
}

impl Doorbell {
    /// Starts to listen. The thread sleeps while nothing happens, and ends with the process.
    pub fn listen(vkernel: SharedVkernel) -> Result<Self, DoorbellError> {
        const STACK_LEN: usize = 64 << 10;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_flags(flags).map_err(DoorbellError::Create)?;
        let doorbell = Doorbell {
            event: Arc::new(event),
        };
        let listener = doorbell.clone();
        std::thread::Builder::new()
            .name("doorbell".to_owned())
            .stack_size(STACK_LEN)
            .spawn(move || {
                let word = &vkernel.header().doorbell;
                let mut seen = word.load(Ordering::Acquire);
                loop {
                    futex::wait(word, seen);
                    seen = word.load(Ordering::Acquire);
                    listener.ring();
                }
            })
            .map_err(DoorbellError::Thread)?;
        Ok(doorbell)
    }

    pub fn ring(&self) {
        // Fails only if it has been rung 2^64 times without an answer.
        let _ = self.event.write(1);
    }

    pub fn answer(&self) {
        // Fails if it has not been rung.
        let _ = self.event.read();
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
