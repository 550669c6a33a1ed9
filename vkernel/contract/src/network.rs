//! Where a container of a shared instance is reachable: its addresses, and the bridge behind each.
//!
//! The runtime writes a container's record before its program starts, and clears it when nothing of the
//! container is left; the vkernel only reads. Two addresses with the same bridge id belong to interfaces that the
//! host had put on the same bridge when the two containers were started. An own instance has no records: it has
//! no neighbours.

use core::sync::atomic::{AtomicU32, AtomicU64};

pub const NETWORK_ADDRESSES_MAX: usize = 16;

/// What is known of one container's network namespace; all zeros if nothing is.
#[repr(C)]
pub struct NetworkRecord {
    /// As `getsockopt(SO_NETNS_COOKIE)` gives it for a socket of the namespace; 0 if the record says nothing. Stored
    /// last when the record is written, and set to 0 first when it is cleared.
    pub netns_cookie: AtomicU64,
    /// Incremented before and after each change, so that a reader that has seen the same even number before and after
    /// has read one state of the record.
    pub sequence: AtomicU32,
    /// How many of `addresses` count.
    pub addresses_len: AtomicU32,
    pub addresses: [NetworkAddress; NETWORK_ADDRESSES_MAX],
}

/// An address of an interface other than the loopback one.
#[repr(C)]
pub struct NetworkAddress {
    /// The 16 bytes of an IPv6 address, or of an IPv4 one as `::ffff:a.b.c.d`, as they lie in memory.
    pub address: [AtomicU64; 2],
    /// Index, in the network namespace of the instance's host process, of the bridge that the interface's peer is a
    /// port of; 0 if it is not known to be one's.
    pub bridge: AtomicU64,
}
