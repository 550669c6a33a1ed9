//! Questions to the kernel about interfaces and addresses (rtnetlink(7)).
//!
//! A socket answers for the network namespace that it was opened in. The kernel answers while it takes the question, so nothing here waits.

use super::topology::{Address, Link};
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    socket,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longer than any datagram of a list of the kernel's.
const DATAGRAM_LEN_MAX: usize = 64 << 10;
/// Bound on one answer: some thousand interfaces or addresses.
const DATAGRAMS_MAX: usize = 64;
const HEADER_LEN: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("no netlink socket")]
    Open(#[source] Errno),
    #[error("the question cannot be sent")]
    Send(#[source] Errno),
    #[error("the answer cannot be received")]
    Receive(#[source] Errno),
    #[error("the kernel refuses")]
    Refused(#[source] Errno),
    #[error("the answer cannot be understood")]
    Malformed(#[from] DecodeError),
    #[error("the answer is cut off")]
    Short,
    #[error("the answer is too long")]
    Long,
    #[error("what the kernel was to list has changed meanwhile")]
    Changed,
}

/// A conversation about one network namespace.
#[derive(Debug)]
pub struct Route {
    socket: OwnedFd,
    sequence: u32,
}

/// How much a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    One,
    All,
}

/// What one datagram has brought.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    messages: Vec<RouteNetlinkMessage>,
    is_last: bool,
}

impl Route {
    /// For the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )
        .map_err(NetlinkError::Open)?;
        Ok(Route {
            socket,
            sequence: 0,
        })
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let found = self.ask(RouteNetlinkMessage::GetLink(link_question(0)), Extent::All)?;
        Ok(found.iter().filter_map(link).collect())
    }

    /// The interface with this index, if there is one.
    pub fn link(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let question = RouteNetlinkMessage::GetLink(link_question(index));
        match self.ask(question, Extent::One) {
            Ok(found) => Ok(found
                .iter()
                .find_map(link)
                .filter(|link| link.index == index)),
            Err(NetlinkError::Refused(Errno::ENODEV)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All addresses that can be reached from other machines.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let found = self.ask(question, Extent::All)?;
        let addresses = found.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) => Address::of(message),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// What this socket's namespace calls another one; `None` if it has no number for it.
    pub fn namespace_number(
        &mut self,
        namespace: BorrowedFd<'_>,
    ) -> Result<Option<i32>, NetlinkError> {
        let mut question = NsidMessage::default();
        let descriptor = namespace.as_raw_fd().cast_unsigned();
        question.attributes = vec![NsidAttribute::Fd(descriptor)];
        let found = self.ask(RouteNetlinkMessage::GetNsId(question), Extent::One)?;
        let number = found.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewNsId(message) => {
                message
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        NsidAttribute::Id(number) => Some(*number),
                        _ => None,
                    })
            }
            _ => None,
        });
        Ok(number.filter(|number| *number >= 0))
    }

    fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        extent: Extent,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.sequence += 1;
        self.send(question, extent)?;
        let mut answer = Vec::new();
        let mut datagram = vec![0; DATAGRAM_LEN_MAX];
        for _ in 0..DATAGRAMS_MAX {
            let len = self.receive(&mut datagram)?;
            let part = part(&datagram[..len], self.sequence)?;
            let is_whole = part.is_last || extent == Extent::One && !part.messages.is_empty();
            answer.extend(part.messages);
            if is_whole {
                return Ok(answer);
            }
        }
        Err(NetlinkError::Long)
    }

    fn send(&self, question: RouteNetlinkMessage, extent: Extent) -> Result<(), NetlinkError> {
        let mut message = NetlinkMessage::from(question);
        message.header.sequence_number = self.sequence;
        message.header.flags = match extent {
            Extent::One => NLM_F_REQUEST,
            Extent::All => NLM_F_REQUEST | NLM_F_DUMP,
        };
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())
            .map(drop)
            .map_err(NetlinkError::Send)
    }

    /// Takes the next datagram of the kernel's.
    fn receive(&self, datagram: &mut [u8]) -> Result<usize, NetlinkError> {
        loop {
            let (len, sender) = recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), datagram)
                .map_err(NetlinkError::Receive)?;
            if sender.is_some_and(|sender| sender.pid() == 0) {
                return Ok(len);
            }
        }
    }
}

impl AsFd for Route {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Index 0 asks for all.
fn link_question(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    message
}

fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::of(message)),
        _ => None,
    }
}

/// Takes a datagram apart; answers to other questions are passed over.
fn part(datagram: &[u8], sequence: u32) -> Result<Part, NetlinkError> {
    const ALIGNMENT: usize = 4;
    let mut part = Part {
        messages: Vec::new(),
        is_last: false,
    };
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)?;
        let len = message.header.length as usize;
        if len < HEADER_LEN || len > rest.len() {
            return Err(NetlinkError::Short);
        }
        rest = rest.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or(&[]);
        if message.header.sequence_number != sequence {
            continue;
        }
        if message.header.flags & NLM_F_DUMP_INTR != 0 {
            return Err(NetlinkError::Changed);
        }
        match message.payload {
            NetlinkPayload::InnerMessage(message) => part.messages.push(message),
            NetlinkPayload::Done(done) => {
                refusal(done.code)?;
                part.is_last = true;
            }
            NetlinkPayload::Error(error) => {
                refusal(error.raw_code())?;
                part.is_last = true;
            }
            NetlinkPayload::Overrun(_) => return Err(NetlinkError::Short),
            _ => {}
        }
    }
    Ok(part)
}

fn refusal(code: i32) -> Result<(), NetlinkError> {
    match code {
        0.. => Ok(()),
        _ => Err(NetlinkError::Refused(Errno::from_raw(code.wrapping_neg()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{DoneMessage, ErrorMessage};
    use proptest::prelude::*;
    use std::num::NonZeroI32;

    const SEQUENCE: u32 = 7;

    fn bytes(mut message: NetlinkMessage<RouteNetlinkMessage>, sequence: u32) -> Vec<u8> {
        message.header.sequence_number = sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn one_link(index: u32) -> NetlinkMessage<RouteNetlinkMessage> {
        RouteNetlinkMessage::NewLink(link_question(index)).into()
    }

    fn done() -> NetlinkMessage<RouteNetlinkMessage> {
        NetlinkMessage::new(
            Default::default(),
            NetlinkPayload::Done(DoneMessage::default()),
        )
    }

    #[test]
    fn a_datagram_may_hold_several_messages_and_the_end() {
        let datagram = [
            bytes(one_link(3), SEQUENCE),
            bytes(one_link(4), SEQUENCE - 1),
            bytes(done(), SEQUENCE),
        ]
        .concat();
        let part = part(&datagram, SEQUENCE).unwrap();
        assert!(part.is_last);
        let indices: Vec<_> = part
            .messages
            .iter()
            .filter_map(link)
            .map(|l| l.index)
            .collect();
        assert_eq!(indices, [3]);
    }

    #[test]
    fn a_list_that_changed_and_a_refusal_are_errors() {
        let mut changed = one_link(3);
        changed.header.flags = NLM_F_DUMP_INTR;
        let outcome = part(&bytes(changed, SEQUENCE), SEQUENCE);
        assert!(matches!(outcome, Err(NetlinkError::Changed)));
        let mut refusal = ErrorMessage::default();
        refusal.code = NonZeroI32::new(-libc::ENODEV);
        refusal.header = vec![0; HEADER_LEN];
        let refusal = NetlinkMessage::new(Default::default(), NetlinkPayload::Error(refusal));
        let outcome = part(&bytes(refusal, SEQUENCE), SEQUENCE);
        assert!(matches!(outcome, Err(NetlinkError::Refused(Errno::ENODEV))));
    }

    #[test]
    fn a_datagram_that_is_cut_off_is_an_error() {
        let whole = bytes(one_link(3), SEQUENCE);
        for len in 1..whole.len() {
            assert!(part(&whole[..len], SEQUENCE).is_err(), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_datagram_can_do_harm(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = part(&datagram, SEQUENCE);
        }
    }

    #[test]
    fn the_loopback_interface_is_found() {
        let mut route = Route::open().unwrap();
        let links = route.links().unwrap();
        assert!(!links.is_empty());
        for link in &links {
            assert_eq!(route.link(link.index).unwrap().as_ref(), Some(link));
        }
        assert_eq!(route.link(i32::MAX as u32).unwrap(), None);
        route.addresses().unwrap();
    }
}
