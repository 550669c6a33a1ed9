//! One end of a `SOCK_SEQPACKET` conversation: whole messages with descriptors, or an error.

use super::message::{self, DESCRIPTORS_MAX, DecodeError, MESSAGE_LEN_MAX, Message};
use crate::sys::process::adopt_descriptors;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, UnixCredentials, accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg,
    setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("cannot create a socket")]
    Create(#[source] Errno),
    #[error("cannot connect to the instance")]
    Connect(#[source] Errno),
    #[error("cannot send a message")]
    Send(#[source] Errno),
    #[error("cannot receive a message")]
    Receive(#[source] Errno),
    #[error("the other side has closed the conversation")]
    Closed,
    #[error(transparent)]
    Message(#[from] DecodeError),
}

/// Whether to wait for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Wait,
    Never,
}

#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

#[derive(Debug)]
pub struct Received<T> {
    pub message: T,
    pub descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Two connected ends. They are close-on-exec, and clones of this process inherit them.
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let (one, other) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(ChannelError::Create)?;
        Ok((Channel { socket: one }, Channel { socket: other }))
    }

    pub fn connect(path: &Path) -> Result<Self, ChannelError> {
        let socket = new_socket().map_err(ChannelError::Create)?;
        let address = UnixAddr::new(path).map_err(ChannelError::Connect)?;
        connect(socket.as_raw_fd(), &address).map_err(ChannelError::Connect)?;
        Ok(Channel { socket })
    }

    /// No operation waits longer than this from now on; then it fails with `EAGAIN`.
    pub fn limit_waits(&self, limit: Duration) -> Result<(), ChannelError> {
        let limit = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &limit)
            .and_then(|()| setsockopt(&self.socket, sockopt::SendTimeout, &limit))
            .map_err(ChannelError::Create)
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Result<UnixCredentials, Errno> {
        getsockopt(&self.socket, sockopt::PeerCredentials)
    }

    pub fn send<T: Message>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
        patience: Patience,
    ) -> Result<(), ChannelError> {
        let bytes = message::encode(message)?;
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | patience.flags();
        loop {
            let sent = sendmsg::<()>(
                self.socket.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                rights,
                flags,
                None,
            );
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::Send(errno)),
            }
        }
    }

    /// Takes the next message. One that is refused has been taken as well, and its descriptors closed.
    pub fn receive<T: Message>(&self, patience: Patience) -> Result<Received<T>, ChannelError> {
        let mut bytes = vec![0; MESSAGE_LEN_MAX];
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | patience.flags();
        let (len, flags, descriptors) = loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Ok(received) => {
                    let numbers = received
                        .cmsgs()
                        .map_err(ChannelError::Receive)?
                        .filter_map(|message| match message {
                            ControlMessageOwned::ScmRights(numbers) => Some(numbers),
                            _ => None,
                        })
                        .flatten()
                        .collect();
                    break (received.bytes, received.flags, adopt_descriptors(numbers));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(ChannelError::Receive(errno)),
            }
        };
        if len == 0 {
            return Err(ChannelError::Closed);
        }
        if flags.contains(MsgFlags::MSG_TRUNC) {
            return Err(DecodeError::TooLong.into());
        }
        Ok(Received {
            message: message::decode(&bytes[..len])?,
            descriptors,
        })
    }
}

impl Patience {
    fn flags(self) -> MsgFlags {
        match self {
            Patience::Wait => MsgFlags::empty(),
            Patience::Never => MsgFlags::MSG_DONTWAIT,
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.socket
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Channel { socket }
    }
}

/// A socket that listens at `path`.
pub fn listen_at(path: &Path) -> Result<OwnedFd, Errno> {
    const BACKLOG: i32 = 128;
    let socket = new_socket()?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// The next connection, if one waits.
pub fn accept_from(listener: BorrowedFd<'_>) -> Result<Option<Channel>, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    match accept4(listener.as_raw_fd(), flags) {
        Ok(number) => Ok(adopt_descriptors(vec![number]).pop().map(Channel::from)),
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::message::{FromAnchor, ToAnchor};
    use std::fs::File;

    fn raw(channel: &Channel, bytes: &[u8]) {
        sendmsg::<()>(
            channel.as_fd().as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
    }

    #[test]
    fn messages_arrive_with_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        one.send(
            &FromAnchor::Start,
            &[null.as_fd(), null.as_fd()],
            Patience::Wait,
        )
        .unwrap();
        let received = other.receive::<FromAnchor>(Patience::Never).unwrap();
        assert_eq!(received.message, FromAnchor::Start);
        assert_eq!(received.descriptors.len(), 2);
        assert!(matches!(
            other.receive::<FromAnchor>(Patience::Never),
            Err(ChannelError::Receive(Errno::EAGAIN))
        ));
        drop(one);
        assert!(matches!(
            other.receive::<FromAnchor>(Patience::Never),
            Err(ChannelError::Closed)
        ));
    }

    #[test]
    fn garbage_is_refused_and_the_next_message_understood() {
        let (one, other) = Channel::pair().unwrap();
        raw(&one, b"\0garbage");
        raw(&one, &vec![b' '; MESSAGE_LEN_MAX + 1]);
        one.send(&ToAnchor::Started, &[], Patience::Wait).unwrap();
        for _ in 0..2 {
            assert!(matches!(
                other.receive::<ToAnchor>(Patience::Never),
                Err(ChannelError::Message(_))
            ));
        }
        let received = other.receive::<ToAnchor>(Patience::Never).unwrap();
        assert_eq!(received.message, ToAnchor::Started);
    }

    #[test]
    fn a_silent_peer_is_not_waited_for_longer_than_allowed() {
        let (one, _other) = Channel::pair().unwrap();
        one.limit_waits(Duration::from_millis(10)).unwrap();
        assert!(matches!(
            one.receive::<ToAnchor>(Patience::Wait),
            Err(ChannelError::Receive(Errno::EAGAIN))
        ));
    }

    #[test]
    fn connections_are_accepted() {
        let path = std::env::temp_dir().join(format!("pegasus-channel-{}", std::process::id()));
        let listener = listen_at(&path).unwrap();
        let client = Channel::connect(&path).unwrap();
        let server = accept_from(listener.as_fd()).unwrap().unwrap();
        assert_eq!(server.peer().unwrap().pid(), nix::unistd::getpid().as_raw());
        client
            .send(&FromAnchor::Signal { number: 15 }, &[], Patience::Wait)
            .unwrap();
        assert!(server.receive::<FromAnchor>(Patience::Never).is_ok());
        std::fs::remove_file(path).unwrap();
    }
}
