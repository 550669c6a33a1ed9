//! What poll(2) and epoll(7) would say of a linked socket (Linux: `tcp_poll`).

use crate::socket::connection::{Link, Source};
use crate::socket::lifecycle;
use crate::socket::receive::note_kernel_events;
use crate::socket::send::ask_for_room;
use crate::task::Thread;
use core::sync::atomic::Ordering;
use pegasus_abi::poll::{
    POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLRDNORM, POLLWRNORM,
};
use pegasus_contract::socket::{EndState, SocketRecord, socket_flags};

const READABLE: u32 = POLLIN | POLLRDNORM;
const WRITABLE: u32 = POLLOUT | POLLWRNORM;

/// The events that hold now. `wants_room`: the caller wants to know of room, and is going to wait for it if there is none; else it is
/// not looked for, since that takes the cache line with the peer's position from it.
///
/// `None`: the socket is Linux's again, which has to be asked.
pub fn events(
    thread: &Thread,
    socket: &'static SocketRecord,
    link: &Link,
    fd: usize,
    wants_room: bool,
) -> Option<u32> {
    let flags = socket.flags.load(Ordering::Acquire);
    if flags & socket_flags::RETIRED != 0 {
        return events_at_end(flags);
    }
    let their_end = link.their_end();
    let kernel_ended = flags & socket_flags::KERNEL_ENDED != 0;
    let received = socket.kernel_received.load(Ordering::Relaxed);
    let source = link.source(received);
    let is_over = kernel_ended || their_end >= EndState::Closed as u32 || link.returning() != 0;
    if is_over && source != Source::Kernel(None) {
        let held = lifecycle::take(&socket.receive_claim, thread);
        let is_retired = lifecycle::retire_if_done(socket, link, fd);
        drop(held);
        if is_retired {
            return events_at_end(socket.flags.load(Ordering::Acquire));
        }
    }
    let mut events = match source {
        Source::Ring => ring_events(socket, link),
        Source::Kernel(_) | Source::KernelAgain { .. } => kernel_events(socket, link, fd),
    };
    let peer_finished = their_end != EndState::Open as u32 || kernel_ended;
    let read_shut = peer_finished || flags & socket_flags::READ_SHUT != 0;
    let write_shut = flags & socket_flags::WRITE_SHUT != 0;
    if read_shut {
        events |= READABLE | POLLRDHUP;
    }
    if read_shut && write_shut {
        events |= POLLHUP;
    }
    if write_shut || is_over || wants_room && (link.is_roomy() || !ask_for_room(link)) {
        events |= WRITABLE;
    }
    let reset = EndState::Reset as u32;
    let was_killed = kernel_ended && their_end == EndState::Open as u32;
    if was_killed && link.has_unread_at_peer()
        || their_end >= reset
        || link.mine().ended.load(Ordering::Relaxed) >= reset
    {
        events |= POLLHUP | READABLE;
        if flags & socket_flags::RESET_TOLD == 0 {
            events |= POLLERR;
        }
    }
    Some(events)
}

/// After the peer's orderly end Linux may have a reset to tell, for a wake-up byte that was never taken. `None`: it knows.
fn events_at_end(flags: u32) -> Option<u32> {
    let hang_up = if flags & socket_flags::WRITE_SHUT != 0 {
        POLLHUP
    } else {
        0
    };
    let reset = if flags & socket_flags::PEER_RESET != 0 {
        POLLERR | POLLHUP
    } else {
        0
    };
    (flags & socket_flags::AT_END != 0).then_some(READABLE | WRITABLE | POLLRDHUP | hang_up | reset)
}

fn ring_events(socket: &SocketRecord, link: &Link) -> u32 {
    let least = socket.receive_least.load(Ordering::Relaxed) as usize;
    if link.incoming().0.len() >= least.max(1) {
        link.prefetch_incoming();
        READABLE
    } else {
        0
    }
}

/// While bytes are still to come through Linux it is Linux who knows whether they have.
fn kernel_events(socket: &SocketRecord, link: &Link, fd: usize) -> u32 {
    let seen = pegasus_host::socket::poll_now(fd, POLLIN | POLLPRI | POLLRDHUP);
    note_kernel_events(socket, link, fd, seen);
    // Looked at afterwards: the peer may have gone over to its ring, and what Linux has is a wake-up byte.
    let is_data = match link.source(socket.kernel_received.load(Ordering::Relaxed)) {
        Source::KernelAgain { kicks } => {
            let waiting = pegasus_host::socket::receivable(fd).unwrap_or(0);
            waiting as u64 > kicks
        }
        Source::Kernel(_) => true,
        Source::Ring => false,
    };
    let least = socket.receive_least.load(Ordering::Relaxed) as usize;
    let is_enough = || {
        let in_kernel = pegasus_host::socket::receivable(fd).unwrap_or(0);
        in_kernel + link.incoming().0.len() >= least
    };
    let bytes = if is_data && seen & POLLIN != 0 && (least <= 1 || is_enough()) {
        READABLE
    } else {
        ring_events(socket, link)
    };
    bytes | seen & POLLPRI
}
