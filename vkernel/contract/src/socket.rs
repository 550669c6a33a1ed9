//! Sockets, connections and epoll sets in the shared heap.
//!
//! Fixed pools behind the arenas; a record is named by its index, so that nothing here is a pointer. A host tool
//! (`pegasus ss`) copies them out as it does [`record`](crate::record), and believes nothing.
//!
//! A *socket* stands for an open file description of a TCP socket of Linux's. While both ends of a connection are in the
//! group they share a *connection*: two rings, one for each direction. An *item* is a socket's membership in an epoll *set*.

use crate::layout::{
    BUFFERS_MAX, CONNECTION_LEN, CONNECTIONS_MAX, ITEM_LEN, ITEMS_MAX, POOLS_HEADER_LEN, SET_LEN,
    SETS_MAX, SOCKET_LEN, SOCKETS_MAX,
};
use core::sync::atomic::{AtomicU32, AtomicU64};
use pegasus_sync::{Bell, Claim, Link, Queue, Ring};

/// The free list of a pool, and how much of it has ever been used.
#[repr(C, align(64))]
pub struct PoolHead {
    /// Index + 1 of the first free record that has been used before, below a count of changes.
    pub free: AtomicU64,
    /// Records from this index on have never been used.
    pub fresh: AtomicU32,
    /// Records in use.
    pub used: AtomicU32,
}

/// At the start of the pools.
#[repr(C)]
pub struct PoolsHeader {
    pub sockets: PoolHead,
    pub connections: PoolHead,
    pub buffers: PoolHead,
    pub items: PoolHead,
    pub sets: PoolHead,
    /// Links of the buffers' free list: a buffer has no room for its own.
    pub buffer_links: [AtomicU32; BUFFERS_MAX],
    /// One bit for each TCP port that a member of the group has ever listened on.
    pub listening_ports: [AtomicU64; 65536 / 64],
    /// By port, see [`ArrivalsRecord::slot`].
    pub arrivals: [ArrivalsRecord; ARRIVALS_LEN],
}

/// Connections that members have made to TCP ports which share this record. A hint: Linux knows what there is to accept.
#[repr(C, align(64))]
pub struct ArrivalsRecord {
    /// How many, wrapping.
    pub made: AtomicU32,
}

impl ArrivalsRecord {
    /// The index of a port's record.
    pub const fn slot(port: u32) -> usize {
        port as usize % ARRIVALS_LEN
    }
}

pub const ARRIVALS_LEN: usize = 4096;

/// Life of a [`SocketRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SocketState {
    Free = 0,
    /// Not connected, or not yet used since.
    Fresh = 1,
    /// Looks for its peer in the directory.
    Searching = 2,
    /// Has a [`ConnectionRecord`].
    Linked = 3,
    /// Linux's alone, for good.
    Kernel = 4,
}

/// Bits of [`SocketRecord::flags`].
pub mod socket_flags {
    /// O_NONBLOCK.
    pub const NONBLOCK: u32 = 1;
    /// Came from accept(2).
    pub const ACCEPTED: u32 = 2;
    /// shutdown(2) of the reading side.
    pub const READ_SHUT: u32 = 4;
    /// shutdown(2) of the writing side.
    pub const WRITE_SHUT: u32 = 8;
    /// Linux has reported that the peer is gone, or an error.
    pub const KERNEL_ENDED: u32 = 64;
    /// After the peer's orderly end only end of file is to be read, whatever Linux's socket says.
    pub const AT_END: u32 = 128;
    /// Never to be linked.
    pub const KEEP_KERNEL: u32 = 256;
    /// Its own side of the connection has gone over to the rings.
    pub const ADOPTED: u32 = 512;
    /// A reset has been told to the program.
    pub const RESET_TOLD: u32 = 16;
    /// The peer was killed with bytes of this end unread: a reset, though Linux may say otherwise.
    pub const PEER_RESET: u32 = 32;
    /// Has had a connection, and is Linux's alone again.
    pub const RETIRED: u32 = 1024;
    /// Has written to a peer that is gone: the first write is lost in silence.
    pub const WRITTEN_AFTER_END: u32 = 16384;
    /// Had a timeout for calls set (SO_RCVTIMEO, SO_SNDTIMEO), itself or its listener.
    pub const TIMED: u32 = 32768;
    /// Another process has, or has had, descriptors of it: it came there by fork(2).
    pub const INHERITED: u32 = 1 << 24;
    /// Listens.
    pub const LISTENING: u32 = 8192;
    /// The program has set TCP_NODELAY, or TCP_CORK, itself.
    pub const NODELAY: u32 = 2048;
    pub const CORK: u32 = 4096;
}

/// In [`SocketRecord::link`]: there will be no connection.
pub const NEVER_LINKED: u32 = u32::MAX;

/// An open file description of a TCP socket.
#[repr(C, align(64))]
pub struct SocketRecord {
    /// Below: index + 1 of the connection, 0 for none yet, or [`NEVER_LINKED`]. Above: a count that changes when the record
    /// is used again.
    pub link: AtomicU64,
    pub state: AtomicU32,
    /// See [`socket_flags`].
    pub flags: AtomicU32,
    /// Descriptors, in all processes.
    pub descriptors: AtomicU32,
    /// Which end of the connection: 0 the connecting one, 1 the accepting one.
    pub side: AtomicU32,
    pub container: AtomicU32,
    /// Index + 1 of the first [`ItemRecord`], or 0.
    pub items: AtomicU32,
    /// SO_RCVLOWAT.
    pub receive_least: AtomicU32,
    /// Tasks asleep in Linux's poll on this socket. So far what the peer reads: it shall not change with each message.
    pub bell: Bell,
    pub next_free: AtomicU32,
    pub _pad0: [u32; 3],
    /// Calls that are using the record.
    pub pins: AtomicU32,
    /// Guards this end's producer and its `kernel_sent`.
    pub send_claim: Claim,
    /// Guards this end's consumer and its `kernel_received`.
    pub receive_claim: Claim,
    /// Bytes sent and received through Linux.
    pub kernel_sent: AtomicU64,
    pub kernel_received: AtomicU64,
    /// Calls made while searching.
    pub tries: AtomicU32,
    /// Guards `items`.
    pub items_claim: Claim,
    /// Time-stamp counter at the last look at Linux's socket; while searching, when that began.
    pub looked_at: AtomicU64,
    /// Network namespace cookie (SO_NETNS_COOKIE).
    pub netns: AtomicU64,
    /// IPv6 or v4-mapped, network byte order.
    pub local_address: [AtomicU64; 2],
    pub remote_address: [AtomicU64; 2],
    pub local_port: AtomicU32,
    pub remote_port: AtomicU32,
    /// Hash of the connection, the same at both ends.
    pub hash: AtomicU64,
    /// Of a listener: [`ArrivalsRecord::made`] of its port at the last accept(2).
    pub arrivals_seen: AtomicU32,
    pub _pad: [u32; 5],
}

/// One end's part in a connection: written by its tasks, but for what says otherwise.
#[repr(C, align(64))]
pub struct EndRecord {
    /// Index + 1 of this end's socket, if it could not be freed because the peer may have been looking at it: whoever lets go
    /// last frees it.
    pub left_over: AtomicU32,
    /// This end waits for room to write.
    pub wants_room: AtomicU32,
    /// Wake-up bytes that this end has sent, and taken.
    pub kicks_sent: AtomicU64,
    pub kicks_taken: AtomicU64,
    /// Bytes this end had sent through Linux when it went over to its ring, + 1; 0: it has not.
    pub switched: AtomicU64,
    /// Bytes this end had put into its ring when it went back to Linux, + 1; 0: it has not. `kicks_sent` does not grow
    /// any more then.
    pub returned: AtomicU64,
    /// See [`EndState`].
    pub ended: AtomicU32,
    /// 1: this end has let go of the connection. 2: and uses nothing of it any more.
    pub released: AtomicU32,
    /// Index of its socket.
    pub socket: AtomicU32,
    pub container: AtomicU32,
    /// Bytes this end had received through Linux when it let go.
    pub kernel_received: AtomicU64,
    /// How many of this end's tasks are waking the peer right now. On a cache line of its own: it changes with each message.
    pub notifying: AtomicU32,
    pub _pad1: [u32; 15],
}

/// What an end has said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum EndState {
    Open = 0,
    /// Will not write any more.
    Finished = 1,
    /// Is closed.
    Closed = 2,
    /// Is closed with data unread.
    Reset = 3,
    /// The same, after it had finished.
    ResetAfterEnd = 4,
}

/// Whether, and how, a connection goes back to Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Returning {
    No = 0,
    /// What is in the rings is read there.
    Drained = 1,
    /// End 0, or end 1, reads nothing any more: the other one takes back what it has not read, and sends it again.
    TakenBackFrom0 = 2,
    TakenBackFrom1 = 3,
}

/// Bytes of a connection's inline store for each direction.
pub const INLINE_LEN: usize = 1728;

/// Two ends and two rings. Ring `i` is written by end `i`.
#[repr(C, align(64))]
pub struct ConnectionRecord {
    pub next_free: AtomicU32,
    /// 0: free; 1: one end has it, the other is being asked; 2: in use.
    pub in_use: AtomicU32,
    /// Both ends go back to Linux: see [`Returning`].
    pub returning: AtomicU32,
    pub _pad: [u32; 13],
    pub ends: [EndRecord; 2],
    pub rings: [Ring; 2],
    /// Bytes, reached through the rings' stretches only.
    pub inline: [[AtomicU64; INLINE_LEN / 8]; 2],
}

const _: () = assert!(size_of::<ConnectionRecord>() <= CONNECTION_LEN);

/// What an item is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ItemUse {
    Armed = 0,
    /// Disabled by EPOLLONESHOT.
    Spent = 1,
    /// The program has taken it out of the set. It stays Linux's member, and is used again when the program adds it anew: some
    /// programs do both for each message.
    Parked = 2,
}

/// A descriptor's membership in an epoll set.
#[repr(C, align(64))]
pub struct ItemRecord {
    /// 1 while it is a member. An item that is not, but still queued, is freed by who takes it from the queue.
    pub member: AtomicU32,
    /// Its place in its set's queue.
    pub link: Link,
    /// Next item of the same socket: index + 1.
    pub next_of_socket: AtomicU32,
    /// Next item of the same set: index + 1.
    pub next_of_set: AtomicU32,
    pub set: AtomicU32,
    /// Index + 1; 0 for a descriptor that is not a TCP socket.
    pub socket: AtomicU32,
    pub fd: AtomicU32,
    /// As the program gave them.
    pub events: AtomicU32,
    /// See [`ItemUse`].
    pub item_use: AtomicU32,
    pub data: AtomicU64,
    /// 1: Linux's registration is the one for rings; 0: it is the program's, with other data; 2: that, and it does for rings.
    pub converted: AtomicU32,
    pub next_free: AtomicU32,
    /// Changes with each use of the record and of its registration: a late report of Linux's is not for the next one.
    pub uses: AtomicU32,
    /// Linux has told of it since the program last asked.
    pub told: AtomicU32,
}

/// An open file description of an epoll set that has sockets in it.
#[repr(C, align(64))]
pub struct SetRecord {
    /// Items that may be ready.
    pub queue: Queue,
    /// Guards `items` and taking from the queue.
    pub claim: Claim,
    pub pins: AtomicU32,
    /// Index + 1 of the first item.
    pub items: AtomicU32,
    pub items_len: AtomicU32,
    /// Time-stamp counter at the last look at Linux's set.
    pub looked_at: AtomicU64,
    pub next_free: AtomicU32,
    pub _pad0: [u32; 7],
    /// Tasks asleep in Linux's epoll_wait on this set. From here on what the peers of its members read with each message: on a cache
    /// line that a wait without a sleep does not change.
    pub sleepers: AtomicU32,
    /// Others may be asleep on Linux's set without being counted in `sleepers`: it is a member of another set, or polled.
    pub watched: AtomicU32,
    pub descriptors: AtomicU32,
    /// Upper half of the data of Linux's registrations, by which items are told from other members.
    pub tag: AtomicU32,
    /// 0: free; 1: in use; 2: has, or has had, a member that runs over rings.
    pub in_use: AtomicU32,
    /// Another process has, or has had, descriptors of it: it came there by fork(2).
    pub inherited: AtomicU32,
    pub _pad1: [u32; 10],
}

/// Entries of a bucket of the directory.
pub const BUCKET_LEN: usize = 8;

/// Sockets that look for their peer, by hash: the hash's upper half above index + 1; 0 for none.
#[repr(C, align(64))]
pub struct Bucket {
    pub entries: [AtomicU64; BUCKET_LEN],
}

/// What a descriptor number stands for in a process's table: its kind in the upper bits, an index below.
pub mod descriptor {
    pub const NONE: u32 = 0;
    pub const SOCKET: u32 = 1 << 30;
    pub const SET: u32 = 2 << 30;
    pub const KIND: u32 = 3 << 30;
}

const _: () = assert!(size_of::<PoolsHeader>() <= POOLS_HEADER_LEN);
const _: () = assert!(size_of::<SocketRecord>() == SOCKET_LEN);
const _: () = assert!(size_of::<ItemRecord>() == ITEM_LEN);
const _: () = assert!(size_of::<SetRecord>() == SET_LEN);
const _: () = assert!(core::mem::offset_of!(SetRecord, sleepers) == 64);
const _: () = assert!(SOCKETS_MAX < 1 << 30 && SETS_MAX < 1 << 30 && ITEMS_MAX < 1 << 31);
const _: () = assert!(CONNECTIONS_MAX < 1 << 31);
