//! What follows from the kernel's lists of interfaces and addresses.
//!
//! An interface of a container is on a bridge of the host if it is one end of a virtual cable (veth) whose other end is a
//! port of that bridge. Interfaces are known by their indices, which each network namespace counts for itself; so both ends
//! must name each other, and the far end must also give the number of the container's namespace.

use super::Reachable;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;

/// An interface, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub kind: Kind,
    /// The other end, if that is in another network namespace.
    pub peer: Option<Peer>,
    /// What it is a port of.
    pub master: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Veth,
    Bridge(Vlans),
    Other,
}

/// Whether a bridge is one network, or one for each number that a port may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vlans {
    Ignored,
    Separate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub index: u32,
    /// What the namespace that was asked calls that of the other end.
    pub namespace: i32,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    /// An IPv4 address is mapped.
    pub address: Ipv6Addr,
}

impl Link {
    pub fn of(message: &LinkMessage) -> Self {
        let (mut peer, mut namespace, mut master) = (None, None, None);
        let mut kind = Kind::Other;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Link(index) => peer = Some(*index),
                LinkAttribute::LinkNetNsId(number) => namespace = Some(*number),
                LinkAttribute::Controller(index) => master = Some(*index),
                LinkAttribute::LinkInfo(infos) => kind = kind_of(infos),
                _ => {}
            }
        }
        Link {
            index: message.header.index,
            kind,
            peer: peer
                .zip(namespace)
                .map(|(index, namespace)| Peer { index, namespace }),
            master: master.filter(|index| *index != 0),
        }
    }
}

fn kind_of(infos: &[LinkInfo]) -> Kind {
    let is = |wanted: InfoKind| infos.contains(&LinkInfo::Kind(wanted));
    if is(InfoKind::Veth) {
        Kind::Veth
    } else if is(InfoKind::Bridge) {
        Kind::Bridge(vlans(infos))
    } else {
        Kind::Other
    }
}

/// A bridge that does not say is taken to separate.
fn vlans(infos: &[LinkInfo]) -> Vlans {
    let says_ignored = infos.iter().any(|info| match info {
        LinkInfo::Data(InfoData::Bridge(options)) => {
            options.contains(&InfoBridge::VlanFiltering(false))
        }
        _ => false,
    });
    if says_ignored {
        Vlans::Ignored
    } else {
        Vlans::Separate
    }
}

impl Address {
    /// `None` for an address that means something on one machine or one cable only, or that is not known to be nobody else's.
    pub fn of(message: &AddressMessage) -> Option<Self> {
        let flags = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Flags(flags) => Some(*flags),
                _ => None,
            });
        let doubtful = AddressFlags::Tentative | AddressFlags::Dadfailed;
        let is_certain = !flags.is_some_and(|flags| flags.intersects(doubtful));
        let is_wide = message.header.scope == AddressScope::Universe;
        // Where an interface is one end of a line, the other address is that of the other end.
        let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
            message.attributes.iter().find_map(wanted)
        };
        let address = of(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        })
        .or(of(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        }))?;
        let is_meant = !address.is_loopback() && !address.is_unspecified();
        (is_certain && is_wide && is_meant).then_some(Address {
            link: message.header.index,
            address: match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            },
        })
    }
}

/// What `port` is a port of, if it is certainly the other end of the container's `link`: a veth that names `link`, in the
/// namespace with the container's `number`, as its other end.
pub fn master_of_peer(link: &Link, port: &Link, number: i32) -> Option<u32> {
    let back = Peer {
        index: link.index,
        namespace: number,
    };
    let are_ends = link.kind == Kind::Veth
        && port.kind == Kind::Veth
        && link.peer.map(|peer| peer.index) == Some(port.index)
        && port.peer == Some(back);
    // Within the container, the interface may be a part of something else again.
    let is_plain = link.master.is_none();
    port.master.filter(|_| are_ends && is_plain)
}

/// The id of `link`, if it is a bridge that joins all its ports into one network.
pub fn bridge(link: &Link) -> Option<NonZeroU32> {
    match link.kind {
        Kind::Bridge(Vlans::Ignored) => NonZeroU32::new(link.index),
        _ => None,
    }
}

/// The addresses with the bridges of their interfaces. An address of several interfaces is on no bridge in particular.
pub fn reachable(addresses: &[Address], bridges: &BTreeMap<u32, NonZeroU32>) -> Vec<Reachable> {
    let mut found = BTreeMap::new();
    for address in addresses {
        let bridge = bridges.get(&address.link).copied();
        found
            .entry(address.address)
            .and_modify(|bridge| *bridge = None)
            .or_insert(bridge);
    }
    let mut reachable: Vec<_> = found
        .into_iter()
        .map(|(address, bridge)| Reachable { address, bridge })
        .collect();
    // There is room for some only: first those that something is known of.
    reachable.sort_by_key(|reachable| reachable.bridge.is_none());
    reachable
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::LinkHeader;

    const CONTAINER: i32 = 4;

    fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header = LinkHeader {
            index,
            ..Default::default()
        };
        message.attributes = attributes;
        message
    }

    fn veth(index: u32, peer: u32, namespace: i32, master: Option<u32>) -> Link {
        let mut attributes = vec![
            LinkAttribute::Link(peer),
            LinkAttribute::LinkNetNsId(namespace),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        attributes.extend(master.map(LinkAttribute::Controller));
        Link::of(&message(index, attributes))
    }

    fn bridge_with(options: Vec<InfoBridge>) -> Link {
        let infos = vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(options)),
        ];
        Link::of(&message(9, vec![LinkAttribute::LinkInfo(infos)]))
    }

    fn address(text: &str, link: u32) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = link;
        message.attributes = vec![AddressAttribute::Address(text.parse().unwrap())];
        message
    }

    #[test]
    fn the_ends_of_a_cable_name_each_other() {
        let link = veth(2, 17, 0, None);
        assert_eq!(
            master_of_peer(&link, &veth(17, 2, CONTAINER, Some(9)), CONTAINER),
            Some(9)
        );
        assert_eq!(
            master_of_peer(&link, &veth(17, 2, CONTAINER, None), CONTAINER),
            None
        );
    }

    #[test]
    fn equal_indices_of_other_namespaces_prove_nothing() {
        let link = veth(2, 17, 0, None);
        // The end of another container's cable, that of another interface, another interface.
        for port in [
            veth(17, 2, CONTAINER + 1, Some(9)),
            veth(17, 3, CONTAINER, Some(9)),
            veth(18, 2, CONTAINER, Some(9)),
        ] {
            assert_eq!(master_of_peer(&link, &port, CONTAINER), None, "{port:?}");
        }
    }

    #[test]
    fn only_plain_cables_lead_to_a_bridge() {
        let port = veth(17, 2, CONTAINER, Some(9));
        let mut other = veth(2, 17, 0, None);
        other.kind = Kind::Other;
        assert_eq!(master_of_peer(&other, &port, CONTAINER), None);
        assert_eq!(
            master_of_peer(&veth(2, 17, 0, Some(5)), &port, CONTAINER),
            None
        );
        // Both ends in one namespace.
        let within = message(2, vec![LinkAttribute::Link(17)]);
        assert_eq!(Link::of(&within).peer, None);
    }

    #[test]
    fn a_bridge_counts_if_it_is_one_network() {
        let id = |options| bridge(&bridge_with(options)).map(NonZeroU32::get);
        assert_eq!(id(vec![InfoBridge::VlanFiltering(false)]), Some(9));
        assert_eq!(id(vec![InfoBridge::VlanFiltering(true)]), None);
        assert_eq!(id(Vec::new()), None);
        assert_eq!(bridge(&veth(9, 2, 0, None)), None);
    }

    #[test]
    fn addresses_are_those_others_can_reach() {
        let of = |message: &AddressMessage| Address::of(message).map(|found| found.address);
        let mapped = "::ffff:172.17.0.2".parse().ok();
        assert_eq!(of(&address("172.17.0.2", 2)), mapped);
        assert_eq!(of(&address("fd00::2", 2)), "fd00::2".parse().ok());
        for loopback in ["127.0.0.1", "::1", "0.0.0.0"] {
            assert_eq!(of(&address(loopback, 1)), None);
        }
        let mut near = address("fe80::2", 2);
        near.header.scope = AddressScope::Link;
        assert_eq!(of(&near), None);
        let mut doubtful = address("fd00::2", 2);
        let flags = AddressAttribute::Flags(AddressFlags::Tentative | AddressFlags::Permanent);
        doubtful.attributes.push(flags);
        assert_eq!(of(&doubtful), None);
        let mut line = address("10.0.0.1", 2);
        let own = AddressAttribute::Local("10.0.0.2".parse().unwrap());
        line.attributes.push(own);
        assert_eq!(of(&line), "::ffff:10.0.0.2".parse().ok());
    }

    #[test]
    fn an_address_of_two_interfaces_is_on_neither_bridge() {
        let of = |text: &str, link| Address::of(&address(text, link)).unwrap();
        let addresses = [
            of("10.0.0.9", 4),
            of("10.0.0.2", 2),
            of("10.0.1.2", 3),
            of("10.0.0.2", 3),
        ];
        let id = NonZeroU32::new(7);
        let bridges = BTreeMap::from_iter([(2, id), (3, id)].map(|(link, id)| (link, id.unwrap())));
        let found: Vec<_> = reachable(&addresses, &bridges)
            .into_iter()
            .map(|reachable| (reachable.address.to_string(), reachable.bridge))
            .collect();
        let expected = [
            ("::ffff:10.0.1.2", id),
            ("::ffff:10.0.0.2", None),
            ("::ffff:10.0.0.9", None),
        ];
        assert_eq!(found, expected.map(|(text, id)| (text.to_owned(), id)));
    }
}
