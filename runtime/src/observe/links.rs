//! Who talks to whom: the connections and sockets of an instance, with addresses and containers.

use super::instances::Instance;
use crate::instance::heap_view::HeapViewError;
use crate::instance::pools_view::{Connection, End, HeapBytes, Socket, connections, sockets};
use pegasus_contract::socket::{EndState, SocketState};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// One end of a [`Link`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// `None` if neither end's socket says it any more.
    pub address: Option<SocketAddr>,
    /// Index of its container's record.
    pub container: u32,
    pub end: End,
}

/// A connection over rings, seen from its first point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Of the connection.
    pub index: u32,
    pub returning: bool,
    pub local: Point,
    pub remote: Point,
}

/// What the vkernel of an instance has.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Seen from the connecting end.
    pub links: Vec<Link>,
    pub sockets: Vec<Socket>,
}

/// How a TCP socket in that state would be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    Established,
    FinWait2,
    CloseWait,
    TimeWait,
    Reset,
    /// Both ends go back to Linux's sockets.
    Returning,
    Unknown,
}

impl LinkState {
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Established => "ESTAB",
            LinkState::FinWait2 => "FIN-WAIT-2",
            LinkState::CloseWait => "CLOSE-WAIT",
            LinkState::TimeWait => "TIME-WAIT",
            LinkState::Reset => "RESET",
            LinkState::Returning => "RETURNING",
            LinkState::Unknown => "UNKNOWN",
        }
    }
}

impl Traffic {
    pub fn of(instance: &Instance) -> Result<Self, HeapViewError> {
        match &instance.heap {
            Some(heap) => Self::read(heap),
            None => Ok(Self::default()),
        }
    }

    /// Connections first: a socket that appears in between has no connection yet that would be missed.
    pub fn read(heap: &impl HeapBytes) -> Result<Self, HeapViewError> {
        let connections = connections(heap)?;
        let sockets = sockets(heap)?;
        Ok(Traffic {
            links: connections
                .iter()
                .filter_map(|connection| link(connection, &sockets))
                .collect(),
            sockets: sockets.into_values().collect(),
        })
    }
}

/// `None` when no socket has the connection any more.
fn link(connection: &Connection, sockets: &BTreeMap<u32, Socket>) -> Option<Link> {
    let socket_of = |side: usize| {
        let socket = sockets.get(&connection.ends[side].socket)?;
        let is_its_own = socket.state == SocketState::Linked
            && socket.connection == Some(connection.index)
            && usize::try_from(socket.side) == Ok(side);
        is_its_own.then_some(socket)
    };
    let (one, other) = (socket_of(0), socket_of(1));
    // Who has gone is where the other one's bytes went.
    let point = |own: Option<&Socket>, peer: Option<&Socket>, end: End| Point {
        address: own
            .map(|own| own.local)
            .or_else(|| peer.map(|peer| peer.remote)),
        container: end.container,
        end,
    };
    (one.is_some() || other.is_some()).then(|| Link {
        index: connection.index,
        returning: connection.returning,
        local: point(one, other, connection.ends[0]),
        remote: point(other, one, connection.ends[1]),
    })
}

impl Link {
    /// The same connection, seen from the other end.
    pub fn reversed(&self) -> Self {
        Link {
            local: self.remote.clone(),
            remote: self.local.clone(),
            ..*self
        }
    }

    pub fn state(&self) -> LinkState {
        let (Some(local), Some(remote)) = (self.local.end.state, self.remote.end.state) else {
            return LinkState::Unknown;
        };
        match (local, remote) {
            (EndState::Reset | EndState::ResetAfterEnd, _)
            | (_, EndState::Reset | EndState::ResetAfterEnd) => LinkState::Reset,
            (EndState::Open, EndState::Open) if self.returning => LinkState::Returning,
            (EndState::Open, EndState::Open) => LinkState::Established,
            (EndState::Open, _) => LinkState::CloseWait,
            (_, EndState::Open) => LinkState::FinWait2,
            _ => LinkState::TimeWait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::pools_view::image::Image;
    use pegasus_contract::socket::EndRecord;
    use std::mem::offset_of;

    fn pair() -> Image {
        let mut image = Image::default();
        image.touch_sockets(2, 2);
        image.touch_connections(1, 1);
        image.socket(0, SocketState::Linked, 1, (2, 40_000), (3, 80));
        image.socket(1, SocketState::Linked, 2, (3, 80), (2, 40_000));
        image.connect(0, [0, 1], [1, 2]);
        image
    }

    fn only(image: &Image) -> Link {
        let [link] = Traffic::read(image).unwrap().links.try_into().unwrap();
        link
    }

    #[test]
    fn a_connection_joins_two_sockets() {
        let link = only(&pair());
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(link.local.address, address("10.0.0.2:40000"));
        assert_eq!(link.remote.address, address("10.0.0.3:80"));
        assert_eq!((link.local.container, link.remote.container), (1, 2));
        assert_eq!(link.state(), LinkState::Established);
        let back = link.reversed();
        assert_eq!((back.local.container, back.remote.container), (2, 1));
        assert_eq!(back.reversed(), link);
    }

    #[test]
    fn an_end_without_a_socket_is_known_by_the_other() {
        let mut image = pair();
        // Its record is another socket's by now.
        image.socket(1, SocketState::Kernel, 2, (3, 81), (9, 9));
        image.end_u32(0, 1, offset_of!(EndRecord, ended), EndState::Closed as u32);
        let link = only(&image);
        assert_eq!(link.remote.address, Some("10.0.0.3:80".parse().unwrap()));
        assert_eq!(link.state(), LinkState::CloseWait);
        assert_eq!(link.reversed().state(), LinkState::FinWait2);
    }

    #[test]
    fn a_connection_that_nobody_has_is_not_shown() {
        let mut image = pair();
        image.socket(0, SocketState::Fresh, 1, (2, 1), (3, 1));
        image.end_u32(0, 1, offset_of!(EndRecord, socket), u32::MAX);
        assert!(Traffic::read(&image).unwrap().links.is_empty());
    }

    #[test]
    fn one_socket_cannot_be_both_ends() {
        let mut image = pair();
        image.end_u32(0, 1, offset_of!(EndRecord, socket), 0);
        let link = only(&image);
        assert_eq!(link.local.address, Some("10.0.0.2:40000".parse().unwrap()));
        assert_eq!(link.remote.address, Some("10.0.0.3:80".parse().unwrap()));
    }

    #[test]
    fn states_are_those_of_tcp() {
        let mut image = pair();
        let mut state = |one: u32, other: u32| {
            image.end_u32(0, 0, offset_of!(EndRecord, ended), one);
            image.end_u32(0, 1, offset_of!(EndRecord, ended), other);
            only(&image).state().name()
        };
        assert_eq!(state(0, 1), "CLOSE-WAIT");
        assert_eq!(state(1, 0), "FIN-WAIT-2");
        assert_eq!(state(1, 2), "TIME-WAIT");
        assert_eq!(state(0, 3), "RESET");
        assert_eq!(state(0, 4), "RESET");
        assert_eq!(state(0, 5), "UNKNOWN");
    }
}
