//! A conversation on the control socket.

use crate::instance::channel::{Channel, ChannelError, Patience};
use crate::instance::message::{Answer, ContainerName, Request};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Who says nothing for so long is not listened to any more.
const SILENCE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Connection {
    channel: Channel,
    heard_at: Instant,
    /// The member that was cloned for this peer.
    pub spawned: Option<u64>,
    /// The container whose end this peer waits for.
    pub waits_for: Option<ContainerName>,
}

/// What to do after listening.
#[derive(Debug)]
pub enum Step {
    Nothing,
    Close,
    Asked(Request, Vec<OwnedFd>),
}

impl Connection {
    pub fn new(channel: Channel) -> Self {
        Connection {
            channel,
            heard_at: Instant::now(),
            spawned: None,
            waits_for: None,
        }
    }

    /// `None` while the peer may take as long as it lives: it builds a container, or waits itself.
    pub fn deadline(&self) -> Option<Instant> {
        let is_free = self.spawned.is_none() && self.waits_for.is_none();
        is_free.then(|| self.heard_at + SILENCE_MAX)
    }

    /// Takes the next request. Who sends anything else is told so and not heard again.
    pub fn hear(&mut self) -> Step {
        self.heard_at = Instant::now();
        match self.channel.receive::<Request>(Patience::Never) {
            Ok(received) => Step::Asked(received.message, received.descriptors),
            Err(ChannelError::Receive(Errno::EAGAIN)) => Step::Nothing,
            Err(ChannelError::Closed) => Step::Close,
            Err(error) => {
                let reason = crate::error::chain(&error);
                tracing::warn!("refused a message: {reason}");
                self.say(&Answer::Refused { reason });
                Step::Close
            }
        }
    }

    /// Whether the peer could be told.
    pub fn say(&mut self, answer: &Answer) -> bool {
        match self.channel.send(answer, &[], Patience::Never) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("cannot answer: {error}");
                false
            }
        }
    }

    /// Nothing of a container is left.
    pub fn gone(&mut self, name: &ContainerName) {
        if self.waits_for.as_ref() == Some(name) {
            self.waits_for = None;
            self.heard_at = Instant::now();
            self.say(&Answer::Removed);
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
