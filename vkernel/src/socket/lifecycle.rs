//! The life of a socket's record: made with the descriptor, linked, retired when the peer is gone, closed with the last
//! descriptor, and free when no call uses it any more.

use crate::epoll;
use crate::socket::connection::{Link, Source};
use crate::socket::descriptors::{Entry, Table};
use crate::socket::pools::{DirectionStores, Pooled};
use crate::socket::{directory, send, wake};
use crate::task::{Thread, header, record};
use core::sync::atomic::{Ordering, fence};
use pegasus_abi::poll::POLLRDHUP;
use pegasus_abi::socket::{IPPROTO_TCP, SO_RCVLOWAT, SOL_SOCKET, TCP_CORK, TCP_NODELAY};
use pegasus_contract::socket::{EndState, SocketRecord, SocketState, socket_flags};

/// Gives descriptor `fd`, a TCP socket that has just been made, a record. Without one it is Linux's alone.
pub fn attach(thread: &Thread, fd: usize, flags: u32) {
    let table = Table::of(thread.process());
    if !table.has_room_for(fd) || thread.process().keeps_kernel_sockets() {
        return;
    }
    record::look_for_dead_again();
    let Some(socket) = SocketRecord::claim() else {
        return;
    };
    let link = socket.link.load(Ordering::Relaxed);
    for word in [
        &socket.descriptors,
        &socket.pins,
        &socket.side,
        &socket.items,
        &socket.tries,
    ] {
        word.store(0, Ordering::Relaxed);
    }
    for word in [
        &socket.kernel_sent,
        &socket.kernel_received,
        &socket.looked_at,
        &socket.hash,
    ] {
        word.store(0, Ordering::Relaxed);
    }
    socket.bell.reset();
    socket.receive_least.store(1, Ordering::Relaxed);
    socket.arrivals_seen.store(0, Ordering::Relaxed);
    socket.send_claim.give_back();
    socket.receive_claim.give_back();
    socket.items_claim.give_back();
    socket.flags.store(flags, Ordering::Relaxed);
    let container = thread.process().container;
    socket.container.store(container, Ordering::Relaxed);
    // A new count, and no connection.
    let count = (link >> 32).wrapping_add(1);
    socket.link.store(count << 32, Ordering::SeqCst);
    socket
        .state
        .store(SocketState::Fresh as u32, Ordering::Release);
    table.set(fd, Entry::Socket(socket));
}

/// Keeps a record from being used again while a call uses it. Other threads, or none, can close its descriptors.
pub struct Pin(Option<&'static SocketRecord>);

impl Pin {
    pub fn new(thread: &Thread, socket: &'static SocketRecord) -> Pin {
        if thread.process().has_had_one_thread() {
            return Pin(None);
        }
        socket.pins.fetch_add(1, Ordering::SeqCst);
        Pin(Some(socket))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(socket) = self.0
            && socket.pins.fetch_sub(1, Ordering::SeqCst) == 1
            && socket.descriptors.load(Ordering::SeqCst) == 0
        {
            free(socket, Thread::current().claimant());
        }
    }
}

/// The socket's connection, which this end enters if it has not yet. `None`: Linux's.
pub fn link(socket: &'static SocketRecord, fd: usize) -> Option<Link> {
    let flags = socket.flags.load(Ordering::Acquire);
    if flags & (socket_flags::RETIRED | socket_flags::AT_END) == socket_flags::RETIRED {
        return None;
    }
    let link = match Link::of(socket) {
        Some(link) => link,
        None => directory::search(socket, fd)?,
    };
    if flags & socket_flags::ADOPTED == 0 {
        adopt(socket, &link, fd);
    }
    if link.returning() != 0 && link.mine().returned.load(Ordering::Acquire) == 0 {
        let _held = take(&socket.send_claim, Thread::current());
        send::return_mine(socket, &link, fd);
    }
    Some(link)
}

/// This end goes over to its ring.
fn adopt(socket: &'static SocketRecord, link: &Link, fd: usize) {
    let holder = Thread::current().claimant();
    socket.send_claim.take(holder, claimant_is_gone);
    let flags = socket.flags.load(Ordering::Acquire);
    if flags & socket_flags::ADOPTED == 0 {
        // Wake-ups must not wait for an acknowledgement, or for more.
        // Each wake-up byte is to be seen.
        if socket.receive_least.load(Ordering::Relaxed) > 1 {
            let _ = pegasus_host::socket::set_int_option(fd, SOL_SOCKET, SO_RCVLOWAT, 1);
        }
        let options = [
            (TCP_NODELAY, socket_flags::NODELAY, 1),
            (TCP_CORK, socket_flags::CORK, 0),
        ];
        for (option, flag, wanted) in options {
            use pegasus_host::socket::{int_option, set_int_option};
            let present = int_option(fd, IPPROTO_TCP, option).unwrap_or(wanted);
            if present != 0 {
                socket.flags.fetch_or(flag, Ordering::Relaxed);
            }
            if present != wanted {
                let _ = set_int_option(fd, IPPROTO_TCP, option, wanted);
            }
        }
        let sent = socket.kernel_sent.load(Ordering::Relaxed);
        link.mine().switched.store(sent + 1, Ordering::SeqCst);
        socket
            .flags
            .fetch_or(socket_flags::ADOPTED, Ordering::SeqCst);
    }
    socket.send_claim.give_back();
    epoll::set::note_all_ready(socket);
}

/// Whether the holder of a claim has been killed: see [`Thread::claimant`].
pub fn claimant_is_gone(holder: u32) -> bool {
    record::is_gone(holder.wrapping_sub(1))
}

/// [`claimant_is_gone`], as `asker` can see it.
fn is_gone_for(asker: u32, holder: u32) -> bool {
    if asker == record::INSTANCE {
        record::is_evicted(holder.wrapping_sub(1))
    } else {
        claimant_is_gone(holder)
    }
}

/// Takes a claim of a socket's for the calling thread.
pub fn take(claim: &'static pegasus_sync::Claim, thread: &Thread) -> Held {
    take_as(claim, thread.claimant())
}

/// [`take`], by name: a process's record may be cleared by a task that is no thread of a container.
pub fn take_as(claim: &'static pegasus_sync::Claim, holder: u32) -> Held {
    claim.take(holder, |present| is_gone_for(holder, present));
    Held(Some(claim))
}

/// [`take`], which is nothing to do if nobody else can come by the socket.
pub fn take_shared(
    socket: &'static SocketRecord,
    claim: &'static pegasus_sync::Claim,
    thread: &Thread,
) -> Held {
    let is_alone =
        socket.descriptors.load(Ordering::Relaxed) == 1 && thread.process().has_had_one_thread();
    if is_alone {
        Held(None)
    } else {
        take(claim, thread)
    }
}

/// A claim, given back when dropped.
pub struct Held(Option<&'static pegasus_sync::Claim>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(claim) = self.0 {
            claim.give_back();
        }
    }
}

/// The peer will read and write nothing any more: once its bytes have been read, the socket is Linux's alone again, which knows
/// what to say. The caller holds `receive_claim`.
pub fn retire_if_done(socket: &'static SocketRecord, link: &Link, fd: usize) -> bool {
    let flags = socket.flags.load(Ordering::Acquire);
    let kernel_ended = flags & socket_flags::KERNEL_ENDED != 0;
    let their_end = link.their_end();
    let received = socket.kernel_received.load(Ordering::Relaxed);
    let source = link.source(received);
    let is_over = match source {
        Source::Ring => {
            (kernel_ended || their_end >= EndState::Closed as u32) && link.incoming().0.is_empty()
        }
        Source::KernelAgain { .. } => link.mine().returned.load(Ordering::Acquire) != 0,
        Source::Kernel(_) => false,
    };
    if !is_over {
        return false;
    }
    wake::take_kicks(link, fd, link.kicks_waiting());
    if link.kicks_waiting() > 0 && !kernel_ended {
        // They are on their way, and must not be taken for data.
        return false;
    }
    let mut set = socket_flags::RETIRED;
    // A wake-up byte that the peer had not taken makes Linux's end of it a reset; for the program it is one only if there
    // were bytes of its own that were not read.
    // Of a connection that has gone back Linux knows all, and more may be in its stream.
    let is_back = matches!(source, Source::KernelAgain { .. });
    let was_killed = !is_back && kernel_ended && their_end == EndState::Open as u32;
    if was_killed && link.has_unread_at_peer() {
        set |= socket_flags::PEER_RESET;
    }
    let is_told_here = [EndState::Closed as u32, EndState::ResetAfterEnd as u32];
    // Or Linux has told of a reset already.
    let was_told = flags & socket_flags::PEER_RESET != 0;
    if is_told_here.contains(&their_end) || was_killed || was_told {
        set |= socket_flags::AT_END;
    }
    let least = socket.receive_least.load(Ordering::Relaxed);
    if least > 1 {
        let _ = pegasus_host::socket::set_int_option(fd, SOL_SOCKET, SO_RCVLOWAT, least);
    }
    socket.flags.fetch_or(set, Ordering::SeqCst);
    epoll::set::note_all_ready(socket);
    true
}

/// On what terms a record is let go.
#[derive(Clone, Copy)]
pub struct Leave {
    /// A descriptor that still stands for it; `None`: the process is gone, and Linux has closed it.
    pub fd: Option<usize>,
    /// By which name claims are taken.
    pub holder: u32,
    /// Calls that are counted as using it are those of processes that are gone.
    pub pins_are_dead: bool,
}

/// The last descriptor is about to be closed, or has been.
pub fn close(socket: &'static SocketRecord, leave: Leave) {
    let Leave { fd, holder, .. } = leave;
    let peer_was_killed = say_end(socket, fd);
    fence(Ordering::SeqCst);
    if leave.pins_are_dead || socket.pins.load(Ordering::SeqCst) == 0 {
        free(socket, holder);
    }
    if peer_was_killed {
        // No claim is held here.
        record::look_for_dead();
    }
}

/// Tells the peer that the last descriptor goes. Gives whether the peer, of the same container, has gone without a word, and
/// still has its records.
pub fn say_end(socket: &'static SocketRecord, fd: Option<usize>) -> bool {
    directory::give_up(socket);
    let mut peer_was_killed = false;
    if let Some(link) = Link::of(socket) {
        // One that has gone back to Linux may live on in hands that are not known here.
        let is_returned = link.mine().returned.load(Ordering::Acquire) != 0;
        let end = match fd {
            Some(fd) if is_returned => {
                take_late_kicks(socket, &link, fd);
                EndState::Open
            }
            Some(fd) => end_connection(socket, &link, fd),
            None => EndState::Open,
        };
        if end != EndState::Open {
            let before = link.mine().ended.load(Ordering::SeqCst);
            let end = match end {
                EndState::Reset if before == EndState::Finished as u32 => EndState::ResetAfterEnd,
                end => end,
            };
            link.mine().ended.store(end as u32, Ordering::SeqCst);
            wake::peer_sets(&link);
        }
        let has_ended = socket.flags.load(Ordering::Relaxed) & socket_flags::KERNEL_ENDED != 0;
        let said_nothing = link.their_end() < EndState::Closed as u32;
        let is_neighbour = link.theirs().container.load(Ordering::Relaxed)
            == link.mine().container.load(Ordering::Relaxed);
        let holds_on = link.theirs().released.load(Ordering::Relaxed) == 0;
        peer_was_killed = fd.is_some() && is_neighbour && has_ended && said_nothing && holds_on;
    }
    peer_was_killed
}

/// A wake-up byte that the peer has sent on its own way back to Linux is nobody's data: unread, it would make this close a reset.
fn take_late_kicks(socket: &SocketRecord, link: &Link, fd: usize) {
    wake::wait_until_unnoticed(link);
    let received = socket.kernel_received.load(Ordering::Relaxed);
    if let Source::KernelAgain { kicks: kicks @ 1.. } = link.source(received) {
        wake::take_kicks(link, fd, kicks);
    }
}

/// Says how this end closes, and leaves nothing in Linux's stream that would make it a reset.
fn end_connection(socket: &'static SocketRecord, link: &Link, fd: usize) -> EndState {
    let received = socket.kernel_received.load(Ordering::Relaxed);
    let in_ring = !link.incoming().0.is_empty();
    let has_unread = in_ring
        || match link.source(received) {
            Source::Ring => false,
            Source::Kernel(_) => pegasus_host::socket::receivable(fd).is_ok_and(|len| len > 0),
            // Linux sees for itself what is unread there.
            Source::KernelAgain { .. } => false,
        };
    if has_unread {
        pegasus_host::socket::reset_at_close(fd);
    }
    if has_unread || pegasus_host::socket::resets_at_close(fd) {
        return EndState::Reset;
    }
    if link.source(received) == Source::Ring {
        // The peer sends no further wake-up byte.
        socket.bell.silence();
        wake::wait_until_unnoticed(link);
        wake::take_kicks(link, fd, link.kicks_waiting());
    }
    await_their_close(socket, link, fd);
    EndState::Closed
}

/// A peer that has said here that it closes is just about to do so in Linux. It stays the first: its end keeps the connection's
/// addresses for a minute (TIME_WAIT), not this one.
fn await_their_close(socket: &SocketRecord, link: &Link, fd: usize) {
    const LOOKS_MAX: u32 = 50;
    /// A fifth of a second.
    const PAUSES_MAX: u32 = 1000;
    const PAUSE_NS: u64 = 200_000;
    let is_known = socket.flags.load(Ordering::Relaxed) & socket_flags::KERNEL_ENDED != 0;
    // With a call of another thread still on it, Linux closes it when that ends.
    let is_in_use = || {
        SocketRecord::at(link.theirs().socket.load(Ordering::Relaxed))
            .is_some_and(|peer| peer.pins.load(Ordering::Relaxed) != 0)
    };
    if is_known || link.their_end() != EndState::Closed as u32 || is_in_use() {
        return;
    }
    for _ in 0..LOOKS_MAX {
        if pegasus_host::socket::poll_now(fd, POLLRDHUP) != 0 {
            return;
        }
        pegasus_host::process::yield_now();
    }
    // It has been interrupted in between.
    for _ in 0..PAUSES_MAX {
        if is_in_use() || pegasus_host::socket::poll_now(fd, POLLRDHUP) != 0 {
            return;
        }
        pegasus_host::process::pause_ns(PAUSE_NS);
    }
}

/// Linux is about to give the connection up, and to reset the peer.
pub fn dissolve(thread: &Thread, socket: &'static SocketRecord) {
    directory::give_up(socket);
    if let Some(link) = Link::of(socket) {
        let _held = take(&socket.send_claim, thread);
        socket
            .flags
            .fetch_or(socket_flags::RETIRED, Ordering::SeqCst);
        link.mine()
            .ended
            .store(EndState::Reset as u32, Ordering::SeqCst);
        wake::peer_sets(&link);
        epoll::set::note_all_ready(socket);
    }
}

/// Nobody uses the record any more.
fn free(socket: &'static SocketRecord, holder: u32) {
    // Both of the last descriptor and the last call may come here: one frees.
    let state = socket
        .state
        .swap(SocketState::Free as u32, Ordering::SeqCst);
    if state == SocketState::Free as u32 {
        return;
    }
    let mut is_certain = true;
    if let Some(link) = Link::of(socket) {
        let received = socket.kernel_received.load(Ordering::Relaxed);
        link.mine()
            .kernel_received
            .store(received, Ordering::Relaxed);
        let (sent, read) = (link.outgoing().0.written(), link.incoming().0.read());
        // Nobody is in a call with this end: who still counts was killed there.
        link.mine().notifying.store(0, Ordering::SeqCst);
        link.mine().released.store(1, Ordering::SeqCst);
        // After that: who adds up now and then may miss these once, but does not see them twice.
        let container = socket.container.load(Ordering::Relaxed) as usize;
        if let Some(container) = header().containers.get(container) {
            container.rings_sent.fetch_add(sent, Ordering::Relaxed);
            container.rings_received.fetch_add(read, Ordering::Relaxed);
        }
        is_certain = wake::wait_until_unnoticed(&link);
        epoll::set::forget_socket(socket, is_certain, holder);
        if !is_certain {
            let number = socket.index() + 1;
            link.mine().left_over.store(number, Ordering::Relaxed);
        }
        link.mine().released.store(2, Ordering::SeqCst);
        release_if_last(&link);
    } else {
        epoll::set::forget_socket(socket, true, holder);
    }
    if is_certain {
        socket.release();
    }
}

/// Gives the connection back when both ends have let go of it.
fn release_if_last(link: &Link) {
    let connection = link.connection;
    let both = connection
        .ends
        .iter()
        .all(|end| end.released.load(Ordering::SeqCst) == 2);
    if both && connection.in_use.swap(0, Ordering::SeqCst) != 0 {
        for end in &connection.ends {
            let left_over = end.left_over.swap(0, Ordering::Relaxed);
            if let Some(socket) = left_over.checked_sub(1).and_then(SocketRecord::at) {
                socket.release();
            }
        }
        for (ring, inline) in connection.rings.iter().zip(&connection.inline) {
            ring.dispose(&DirectionStores(inline));
        }
        connection.release();
    }
}
