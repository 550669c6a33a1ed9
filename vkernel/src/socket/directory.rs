//! Finding the other end: sockets that look for their peer, by the hash of their connection.
//!
//! Linux has made the connection, so both ends exist. Whichever enters the directory second finds the first, and links the two. The
//! hash does not tell the ends apart, so both look into one bucket; who finds no room there stays with Linux.
//!
//! **Proof.** Within one network namespace two sockets with mirrored addresses and ports are the ends of one
//! connection (a translated one does not mirror). Between two, both addresses must also be on interfaces of members of the
//! group that hang on the same bridge of the host ([`pegasus_contract::network`]).

use crate::socket::connection::{IN_USE, Link, PENDING, connection_of};
use crate::socket::pools::{Pooled, bucket, header as pools};
use crate::task::header;
use core::sync::atomic::{AtomicU64, Ordering, fence};
use pegasus_abi::socket::{AF_INET, AF_INET6, SockAddr};
use pegasus_abi::{Errno, Result};
use pegasus_arch::area::cycles;
use pegasus_contract::socket::{
    ConnectionRecord, EndRecord, NEVER_LINKED, SocketRecord, SocketState, socket_flags,
};

/// After so many calls without a peer, a socket's peer is taken to be outside the group …
const TRIES_MAX: u32 = 32;
/// … but not before so many cycles of the time-stamp counter have passed, 100 ms or more: who begins with much to send makes many calls
/// before its peer has made one.
const SEARCH_CYCLES_MIN: u64 = 400_000_000;

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    address: [u64; 2],
    port: u32,
}

impl Name {
    /// `None` for a family other than IP. An IPv4 address becomes a v4-mapped one.
    fn of(address: &SockAddr) -> Option<Name> {
        let bytes = match address.family {
            AF_INET => {
                let mut bytes = [0; 16];
                bytes[10..12].fill(0xff);
                bytes[12..].copy_from_slice(&address.flow_or_v4.to_ne_bytes());
                bytes
            }
            AF_INET6 => address.v6,
            _ => return None,
        };
        let mut words = [0; 2];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().unwrap_or([0; 8]));
        }
        Some(Name {
            address: words,
            port: u32::from(u16::from_be(address.port)),
        })
    }

    fn load(address: &[AtomicU64; 2], port: &core::sync::atomic::AtomicU32) -> Name {
        Name {
            address: [0, 1].map(|word: usize| address[word].load(Ordering::Relaxed)),
            port: port.load(Ordering::Relaxed),
        }
    }

    fn store(&self, address: &[AtomicU64; 2], port: &core::sync::atomic::AtomicU32) {
        address[0].store(self.address[0], Ordering::Relaxed);
        address[1].store(self.address[1], Ordering::Relaxed);
        port.store(self.port, Ordering::Relaxed);
    }

    fn mix(&self) -> u64 {
        let mut hash = self.address[0] ^ self.address[1].rotate_left(29) ^ u64::from(self.port);
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        hash.wrapping_mul(0xd6e8_feb8_6659_fd93)
    }
}

fn local_of(socket: &SocketRecord) -> Name {
    Name::load(&socket.local_address, &socket.local_port)
}

fn remote_of(socket: &SocketRecord) -> Name {
    Name::load(&socket.remote_address, &socket.remote_port)
}

/// A member of the group listens on the port of `fd`.
pub fn note_listener(socket: &SocketRecord, fd: usize) {
    if let Ok(name) = pegasus_host::socket::local_name(fd) {
        let port = usize::from(u16::from_be(name.port));
        socket.local_port.store(port as u32, Ordering::Relaxed);
        pools().listening_ports[port / 64].fetch_or(1 << (port % 64), Ordering::SeqCst);
    }
}

/// Whether a member has ever listened on the port.
pub fn has_listener(port: u32) -> bool {
    let port = port as usize & 0xffff;
    pools().listening_ports[port / 64].load(Ordering::SeqCst) & (1 << (port % 64)) != 0
}

/// A call is about to use `socket`, which has no connection yet: looks for one. `None`: Linux's, for now at least.
pub fn search(socket: &'static SocketRecord, fd: usize) -> Option<Link> {
    if socket.link.load(Ordering::SeqCst) as u32 == NEVER_LINKED {
        return None;
    }
    match socket.state.load(Ordering::Acquire) {
        state if state == SocketState::Fresh as u32 => enter(socket, fd),
        state
            if state == SocketState::Searching as u32
                && socket.tries.fetch_add(1, Ordering::Relaxed) > TRIES_MAX
                && has_searched_for_long(socket) =>
        {
            give_up(socket);
        }
        _ => {}
    }
    Link::of(socket)
}

fn has_searched_for_long(socket: &SocketRecord) -> bool {
    let since = socket.looked_at.load(Ordering::Relaxed);
    cycles().wrapping_sub(since) > SEARCH_CYCLES_MIN
}

/// Enters a connected socket into the directory, and looks for its peer there.
fn enter(socket: &'static SocketRecord, fd: usize) {
    // Of several threads, one does it. The others' calls go to Linux, counted.
    if !socket.send_claim.try_take(u32::MAX) {
        return;
    }
    let entered = socket.state.load(Ordering::Acquire) == SocketState::Fresh as u32
        && describe(socket, fd) == Ok(true)
        && insert(socket);
    socket.send_claim.give_back();
    if entered {
        find_peer(socket);
    }
}

/// Notes the socket's names. `Ok(false)`: it is not one that can have a peer in the group.
fn describe(socket: &'static SocketRecord, fd: usize) -> Result<bool> {
    let remote = match pegasus_host::socket::remote_name(fd) {
        // Not connected yet.
        Err(Errno::ENOTCONN) => return Ok(false),
        Err(errno) => {
            give_up(socket);
            return Err(errno);
        }
        Ok(remote) => remote,
    };
    let local = pegasus_host::socket::local_name(fd)?;
    let names = Name::of(&local).zip(Name::of(&remote));
    let netns = pegasus_host::socket::namespace_cookie(fd);
    let (Some((local, remote)), Ok(netns)) = (names, netns) else {
        give_up(socket);
        return Ok(false);
    };
    let is_accepted = socket.flags.load(Ordering::Relaxed) & socket_flags::ACCEPTED != 0;
    let port = if is_accepted { local.port } else { remote.port };
    if !has_listener(port) {
        give_up(socket);
        return Ok(false);
    }
    local.store(&socket.local_address, &socket.local_port);
    remote.store(&socket.remote_address, &socket.remote_port);
    socket.netns.store(netns, Ordering::Relaxed);
    let hash = local.mix() ^ remote.mix();
    socket.hash.store(hash ^ hash >> 29, Ordering::Relaxed);
    socket.side.store(u32::from(is_accepted), Ordering::Relaxed);
    Ok(true)
}

const TAG_MASK: u64 = !0xffff_ffff;

fn word_of(socket: &SocketRecord) -> u64 {
    socket.hash.load(Ordering::Relaxed) & TAG_MASK | u64::from(socket.index() + 1)
}

fn insert(socket: &'static SocketRecord) -> bool {
    let word = word_of(socket);
    let entries = &bucket(word >> 32).entries;
    socket.looked_at.store(cycles(), Ordering::Relaxed);
    socket
        .state
        .store(SocketState::Searching as u32, Ordering::SeqCst);
    let is_in = entries.iter().any(|entry| {
        entry
            .compare_exchange(0, word, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    });
    if !is_in {
        give_up(socket);
    }
    is_in
}

fn remove(socket: &SocketRecord) {
    let word = word_of(socket);
    for entry in &bucket(word >> 32).entries {
        let _ = entry.compare_exchange(word, 0, Ordering::SeqCst, Ordering::Relaxed);
    }
}

/// The socket will not be linked, unless it is already.
pub fn give_up(socket: &SocketRecord) {
    const YIELDS_MAX: u32 = 1000;
    let mut link = socket.link.load(Ordering::SeqCst);
    for _ in 0..YIELDS_MAX {
        let is_pending = connection_of(link)
            .is_some_and(|connection| connection.in_use.load(Ordering::SeqCst) == PENDING);
        if !is_pending {
            break;
        }
        pegasus_host::process::yield_now();
        link = socket.link.load(Ordering::SeqCst);
    }
    let never = link | u64::from(NEVER_LINKED);
    let is_free = link as u32 == 0;
    if is_free
        && socket
            .link
            .compare_exchange(link, never, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    {
        if socket.state.load(Ordering::Acquire) == SocketState::Searching as u32 {
            remove(socket);
        }
        socket
            .state
            .store(SocketState::Kernel as u32, Ordering::Release);
    }
}

fn find_peer(socket: &'static SocketRecord) {
    let word = word_of(socket);
    for entry in &bucket(word >> 32).entries {
        let found = entry.load(Ordering::SeqCst);
        if found & TAG_MASK != word & TAG_MASK || found == word {
            continue;
        }
        let Some(other) = SocketRecord::at((found as u32).wrapping_sub(1)) else {
            continue;
        };
        // Read before the names are compared: a record that is used again has another one.
        let links = [socket, other].map(|socket| socket.link.load(Ordering::SeqCst));
        if links.iter().all(|link| *link as u32 == 0) && are_peers(socket, other) {
            join(socket, other, links);
            return;
        }
    }
}

fn are_peers(one: &SocketRecord, other: &SocketRecord) -> bool {
    let searching = |socket: &SocketRecord| {
        socket.state.load(Ordering::SeqCst) == SocketState::Searching as u32
    };
    let side = |socket: &SocketRecord| socket.side.load(Ordering::Relaxed);
    searching(other)
        && side(one) != side(other)
        && local_of(one) == remote_of(other)
        && remote_of(one) == local_of(other)
        && share_a_network(one, other)
}

/// See the module's notes on proof.
fn share_a_network(one: &SocketRecord, other: &SocketRecord) -> bool {
    let netns = |socket: &SocketRecord| socket.netns.load(Ordering::Relaxed);
    if netns(one) == netns(other) {
        return true;
    }
    match (bridge_of(one), bridge_of(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// The bridge that the socket's own address is on.
fn bridge_of(socket: &SocketRecord) -> Option<u64> {
    let netns = socket.netns.load(Ordering::Relaxed);
    let local = local_of(socket).address;
    let index = socket.container.load(Ordering::Relaxed) as usize;
    let network = header().networks.get(index)?;
    let before = network.sequence.load(Ordering::Acquire);
    if netns == 0 || network.netns_cookie.load(Ordering::Acquire) != netns {
        return None;
    }
    let len = network.addresses_len.load(Ordering::Acquire) as usize;
    let address = network.addresses.iter().take(len).find(|address| {
        [0, 1].map(|word: usize| address.address[word].load(Ordering::Relaxed)) == local
    })?;
    let bridge = address.bridge.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    let is_whole = before % 2 == 0 && network.sequence.load(Ordering::Relaxed) == before;
    Some(bridge).filter(|&bridge| bridge != 0 && is_whole)
}

/// Links two searching sockets. The accepting one is taken first, so that of two who try at once one wins.
fn join(one: &'static SocketRecord, other: &'static SocketRecord, links: [u64; 2]) {
    let Some(connection) = ConnectionRecord::claim() else {
        return;
    };
    let mut pair = [(one, links[0]), (other, links[1])];
    pair.sort_by_key(|(socket, _)| socket.side.load(Ordering::Relaxed));
    prepare(connection, [pair[0].0, pair[1].0]);
    let number = u64::from(connection.index() + 1);
    let take = |(socket, link): (&SocketRecord, u64)| {
        socket
            .link
            .compare_exchange(link, link | number, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    };
    let is_first = take(pair[1]);
    if !is_first || !take(pair[0]) {
        // The other end has found this one at the same time; or it has been closed, or has given up, since.
        connection.in_use.store(0, Ordering::SeqCst);
        if is_first {
            let (socket, link) = pair[1];
            let never = link | u64::from(NEVER_LINKED);
            socket.link.store(never, Ordering::SeqCst);
            remove(socket);
            socket
                .state
                .store(SocketState::Kernel as u32, Ordering::Release);
        }
        connection.release();
        return;
    }
    connection.in_use.store(IN_USE, Ordering::SeqCst);
    for (socket, _) in pair {
        remove(socket);
        let _ = socket.state.compare_exchange(
            SocketState::Searching as u32,
            SocketState::Linked as u32,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }
}

fn prepare(connection: &ConnectionRecord, sockets: [&SocketRecord; 2]) {
    connection.returning.store(0, Ordering::Relaxed);
    for (side, socket) in sockets.into_iter().enumerate() {
        let EndRecord {
            wants_room,
            kicks_sent,
            kicks_taken,
            switched,
            returned,
            ended,
            released,
            left_over,
            socket: index,
            container,
            notifying,
            ..
        } = &connection.ends[side];
        for word in [wants_room, ended, released, left_over, notifying] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [kicks_sent, kicks_taken, switched, returned] {
            word.store(0, Ordering::Relaxed);
        }
        index.store(socket.index(), Ordering::Relaxed);
        container.store(socket.container.load(Ordering::Relaxed), Ordering::Relaxed);
        connection.rings[side].reset();
    }
    connection.in_use.store(PENDING, Ordering::SeqCst);
}
