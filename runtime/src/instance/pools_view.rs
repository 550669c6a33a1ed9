//! Reads the pools of a vkernel's shared heap from outside: sockets, and connections over rings.
//!
//! What [`heap_view`](super::heap_view) says of the heap is true here, too: container code can have written anything.
//! A number that bounds a loop is held against the contract's limits, an unknown state is skipped or said to be
//! unknown, and a record that changes while it is copied shows as a mixture of both, never as a failure. Of a pool
//! only the part that has ever been used is read, and of a connection only its head, never the bytes it carries.

use super::heap_view::{HeapView, HeapViewError};
use crate::sys::plain;
use pegasus_contract::layout::{
    BUFFER_LEN, BUFFERS_MAX, CONNECTION_LEN, CONNECTIONS_BASE, CONNECTIONS_MAX, HEAP_BASE,
    ITEMS_MAX, POOLS_BASE, SETS_MAX, SOCKET_LEN, SOCKETS_BASE, SOCKETS_MAX,
};
use pegasus_contract::socket::{
    ConnectionRecord, EndRecord, EndState, INLINE_LEN, PoolHead, PoolsHeader, SocketRecord,
    SocketState,
};
use pegasus_sync::Ring;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Records of sockets that one read brings.
const SOCKETS_AT_ONCE: usize = 512;
/// The part of a connection's record before the bytes it carries.
const CONNECTION_HEAD_LEN: usize = offset_of!(ConnectionRecord, inline);
/// More than this a ring cannot hold.
const UNREAD_MAX: u64 = (BUFFER_LEN + INLINE_LEN) as u64;

/// A heap's bytes, by offset from its start.
pub trait HeapBytes {
    fn copy(&self, offset: usize, bytes: &mut [u8]) -> Result<(), HeapViewError>;
}

impl HeapBytes for HeapView {
    fn copy(&self, offset: usize, bytes: &mut [u8]) -> Result<(), HeapViewError> {
        self.read(offset, bytes)
    }
}

/// How much of a pool is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    pub name: &'static str,
    pub used: u32,
    /// Records that have ever been used.
    pub touched: u32,
    pub limit: u32,
}

/// A TCP socket that the vkernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    pub state: SocketState,
    pub container: u32,
    /// Index of its connection.
    pub connection: Option<u32>,
    /// Which end of it.
    pub side: u32,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Bytes that went through Linux, as far as the vkernel counts them.
    pub kernel_sent: u64,
    pub kernel_received: u64,
}

/// One end of a connection, and the ring that it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Index of its socket.
    pub socket: u32,
    pub container: u32,
    /// `None` for a value without a meaning.
    pub state: Option<EndState>,
    /// It writes to its ring; before, what it sends still goes through Linux.
    pub switched: bool,
    /// It has let go of the connection.
    pub released: bool,
    /// Bytes put into the ring so far.
    pub sent: u64,
    /// How many of them the other end has not read yet.
    pub unread: u64,
    pub has_buffer: bool,
}

/// A connection over rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub index: u32,
    /// Both ends go back to Linux.
    pub returning: bool,
    /// The connecting one, and the accepting one.
    pub ends: [End; 2],
}

/// How much of every pool is taken.
pub fn pools(heap: &impl HeapBytes) -> Result<[PoolUse; 5], HeapViewError> {
    Ok([
        pool_use(
            heap,
            "sockets",
            offset_of!(PoolsHeader, sockets),
            SOCKETS_MAX,
        )?,
        pool_use(
            heap,
            "connections",
            offset_of!(PoolsHeader, connections),
            CONNECTIONS_MAX,
        )?,
        pool_use(
            heap,
            "buffers",
            offset_of!(PoolsHeader, buffers),
            BUFFERS_MAX,
        )?,
        pool_use(heap, "items", offset_of!(PoolsHeader, items), ITEMS_MAX)?,
        pool_use(heap, "sets", offset_of!(PoolsHeader, sets), SETS_MAX)?,
    ])
}

fn pool_use(
    heap: &impl HeapBytes,
    name: &'static str,
    offset: usize,
    limit: usize,
) -> Result<PoolUse, HeapViewError> {
    let mut bytes = [0; size_of::<PoolHead>()];
    heap.copy(POOLS_BASE - HEAP_BASE + offset, &mut bytes)?;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let head: Option<PoolHead> = plain::value(&bytes);
    let number = |number: fn(&PoolHead) -> &AtomicU32| {
        head.as_ref()
            .map_or(0, |head| u32_of(number(head)).min(limit))
    };
    Ok(PoolUse {
        name,
        used: number(|head| &head.used),
        touched: number(|head| &head.fresh),
        limit,
    })
}

/// The sockets that are not free, by index.
pub fn sockets(heap: &impl HeapBytes) -> Result<BTreeMap<u32, Socket>, HeapViewError> {
    let touched = pool_use(heap, "", offset_of!(PoolsHeader, sockets), SOCKETS_MAX)?.touched;
    let mut sockets = BTreeMap::new();
    let mut bytes = vec![0; SOCKETS_AT_ONCE * SOCKET_LEN];
    for first in (0..touched).step_by(SOCKETS_AT_ONCE) {
        let count = SOCKETS_AT_ONCE.min((touched - first) as usize);
        let bytes = &mut bytes[..count * SOCKET_LEN];
        let offset = SOCKETS_BASE - HEAP_BASE + first as usize * SOCKET_LEN;
        heap.copy(offset, bytes)?;
        let records = bytes.chunks_exact(SOCKET_LEN);
        sockets.extend((first..).zip(records).filter_map(|(index, record)| {
            let record: SocketRecord = plain::value(record)?;
            Some((index, socket(&record)?))
        }));
    }
    Ok(sockets)
}

fn socket(record: &SocketRecord) -> Option<Socket> {
    let state = u32_of(&record.state);
    let state = [
        SocketState::Fresh,
        SocketState::Searching,
        SocketState::Linked,
        SocketState::Kernel,
    ]
    .into_iter()
    .find(|known| *known as u32 == state)?;
    // The count of the record's uses is above.
    let link = u64_of(&record.link) as u32;
    Some(Socket {
        state,
        container: u32_of(&record.container),
        connection: link.checked_sub(1),
        side: u32_of(&record.side),
        local: address(&record.local_address, &record.local_port),
        remote: address(&record.remote_address, &record.remote_port),
        kernel_sent: u64_of(&record.kernel_sent),
        kernel_received: u64_of(&record.kernel_received),
    })
}

/// An IPv4 address in IPv6's clothes is shown as what it is.
fn address(words: &[AtomicU64; 2], port: &AtomicU32) -> SocketAddr {
    let mut bytes = [0; 16];
    for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
        part.copy_from_slice(&u64_of(word).to_ne_bytes());
    }
    let ip = IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical();
    SocketAddr::new(ip, u32_of(port) as u16)
}

/// The connections in use.
pub fn connections(heap: &impl HeapBytes) -> Result<Vec<Connection>, HeapViewError> {
    let touched = pool_use(
        heap,
        "",
        offset_of!(PoolsHeader, connections),
        CONNECTIONS_MAX,
    )?
    .touched;
    let mut connections = Vec::new();
    let mut bytes = [0; CONNECTION_HEAD_LEN];
    for index in 0..touched {
        let offset = CONNECTIONS_BASE - HEAP_BASE + index as usize * CONNECTION_LEN;
        heap.copy(offset, &mut bytes)?;
        connections.extend(connection(index, &bytes));
    }
    Ok(connections)
}

/// `None` if it is not in use.
fn connection(index: u32, bytes: &[u8; CONNECTION_HEAD_LEN]) -> Option<Connection> {
    let number = |offset: usize| {
        let bytes = bytes.get(offset..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    if number(offset_of!(ConnectionRecord, in_use))? == 0 {
        return None;
    }
    let end = |side: usize| {
        let record = offset_of!(ConnectionRecord, ends) + side * size_of::<EndRecord>();
        let ring = offset_of!(ConnectionRecord, rings) + side * size_of::<Ring>();
        let record: EndRecord = plain::value(bytes.get(record..)?)?;
        let ring: Ring = plain::value(bytes.get(ring..)?)?;
        Some(end(&record, &ring))
    };
    Some(Connection {
        index,
        returning: number(offset_of!(ConnectionRecord, returning))? != 0,
        ends: [end(0)?, end(1)?],
    })
}

fn end(record: &EndRecord, ring: &Ring) -> End {
    let state = u32_of(&record.ended);
    let known = [
        EndState::Open,
        EndState::Finished,
        EndState::Closed,
        EndState::Reset,
        EndState::ResetAfterEnd,
    ];
    End {
        socket: u32_of(&record.socket),
        container: u32_of(&record.container),
        state: known.into_iter().find(|known| *known as u32 == state),
        switched: u64_of(&record.switched) != 0,
        released: u32_of(&record.released) != 0,
        sent: ring.written(),
        unread: ring.written().saturating_sub(ring.read()).min(UNREAD_MAX),
        has_buffer: ring.has_buffer(),
    }
}

fn u32_of(number: &AtomicU32) -> u32 {
    number.load(Ordering::Relaxed)
}

fn u64_of(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

#[cfg(test)]
pub mod image;
#[cfg(test)]
mod tests;
