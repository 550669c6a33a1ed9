//! Waking the peer.
//!
//! A task that finds nothing to do on a socket says so (to the socket's bell, or as one of the `sleepers` of an epoll set), looks once more, and
//! then sleeps in Linux, in poll or epoll on the real socket. Whoever changes the ring looks for sleepers after
//! the change, and sends one byte (a *kick*) over Linux's connection. So a sleeper is woken by the kernel whatever
//! namespaces, credentials and sets of descriptors lie between the two, and one wait covers the rings, all other
//! descriptors, timeouts, signals, and the end of the peer.
//!
//! The order of the steps, and that it is about one byte per sleep, is [`pegasus_sync::Bell`]'s, where it is model-checked. A byte that was
//! sent wakes all who sleep on the socket, and in sets that have it; so it is taken only as far as nobody needs it ([`quiet`]).

use crate::epoll;
use crate::socket::connection::{Link, Source};
use crate::socket::lifecycle;
use crate::socket::pools::Pooled;
use crate::task::Thread;
use core::sync::atomic::{Ordering, fence};
use pegasus_contract::socket::{EndRecord, ItemRecord, SocketRecord};
use pegasus_sync::{Kicks, Wanted};

/// Says that this end is looking at its peer's sleepers: they must not be freed meanwhile.
struct Notifying(&'static EndRecord);

impl Notifying {
    fn begin(end: &'static EndRecord) -> Self {
        // Also the barrier between the change and the look at the sleepers.
        end.notifying.fetch_add(1, Ordering::SeqCst);
        Notifying(end)
    }
}

impl Drop for Notifying {
    fn drop(&mut self) {
        self.0.notifying.fetch_sub(1, Ordering::Release);
    }
}

/// What has changed for a peer.
pub const BYTES: Wanted = Wanted {
    bytes: true,
    room: false,
};
pub const ROOM: Wanted = Wanted {
    bytes: false,
    room: true,
};
pub const EITHER: Wanted = Wanted {
    bytes: true,
    room: true,
};

/// The peer has something to see. `fd` is this end's socket.
pub fn peer(link: &Link, fd: usize, change: Wanted) {
    let notifying = Notifying::begin(link.mine());
    let Some(socket) = peer_of(link) else { return };
    if can_kick(link) {
        let kick = || kick(link, fd);
        let others = || queue_items(socket);
        let count = &notifying.0.notifying;
        socket.bell.announce_noticed(count, change, others, kick);
    } else {
        queue_items(socket);
    }
}

/// [`peer`], for when Linux will wake its sleepers itself.
pub fn peer_sets(link: &Link) {
    let _notifying = Notifying::begin(link.mine());
    if let Some(socket) = peer_of(link) {
        queue_items(socket);
    }
}

/// The peer's socket, unless it has let go of the connection.
fn peer_of(link: &Link) -> Option<&'static SocketRecord> {
    let theirs = link.theirs();
    if theirs.released.load(Ordering::SeqCst) != 0 {
        return None;
    }
    SocketRecord::at(theirs.socket.load(Ordering::Relaxed))
}

/// Queues the items of a socket. Tells whether somebody sleeps on their sets.
fn queue_items(socket: &SocketRecord) -> bool {
    let mut is_slept_on = false;
    for item in items_of(socket) {
        is_slept_on |= epoll::set::note_ready(item);
    }
    is_slept_on
}

/// The items of a socket; at most as many as there can be, whatever the links say.
pub fn items_of(socket: &SocketRecord) -> impl Iterator<Item = &'static ItemRecord> {
    const ITEMS_OF_SOCKET_MAX: usize = 4096;
    let mut next = socket.items.load(Ordering::SeqCst);
    core::iter::from_fn(move || {
        let item = ItemRecord::at(next.checked_sub(1)?)?;
        next = item.next_of_socket.load(Ordering::SeqCst);
        Some(item)
    })
    .take(ITEMS_OF_SOCKET_MAX)
}

/// Not once this end has gone back to Linux, where its bytes are data again.
fn can_kick(link: &Link) -> bool {
    let mine = link.mine();
    mine.returned.load(Ordering::SeqCst) == 0 && mine.switched.load(Ordering::Relaxed) != 0
}

/// Sends a wake-up byte.
fn kick(link: &Link, fd: usize) {
    let mine = link.mine();
    mine.kicks_sent.fetch_add(1, Ordering::SeqCst);
    if pegasus_host::socket::send_now(fd, b"!").is_err() {
        mine.kicks_sent.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Kicks whoever sleeps at the other end, whether or not somebody has before.
pub fn insist(link: &Link, fd: usize) {
    let _notifying = Notifying::begin(link.mine());
    // Once the peer has let go there is nobody to wake, and Linux would answer the byte with a reset.
    if peer_of(link).is_some() && can_kick(link) {
        kick(link, fd);
    }
}

/// Waits until no task of the peer is looking at this end's sleepers, or it has had time enough (it may have been
/// killed there). Tells whether it is certain.
pub fn wait_until_unnoticed(link: &Link) -> bool {
    const YIELDS_MAX: u32 = 2000;
    fence(Ordering::SeqCst);
    for _ in 0..YIELDS_MAX {
        if link.theirs().notifying.load(Ordering::SeqCst) == 0 {
            return true;
        }
        pegasus_host::process::yield_now();
    }
    false
}

/// Wake-up bytes as a [`Bell`](pegasus_sync::Bell) wants them.
struct WakeUps<'a> {
    link: &'a Link,
    fd: usize,
}

impl Kicks for WakeUps<'_> {
    fn arrived(&self) -> usize {
        self.link.kicks_waiting() as usize
    }

    fn take(&self, number: usize) {
        take_kicks(self.link, self.fd, number as u64);
    }
}

/// Takes the wake-up bytes that have come, but for one if there is something that anybody still sleeps for.
/// The caller holds `receive_claim`, and the next byte is in the ring.
pub fn quiet(socket: &SocketRecord, link: &Link, fd: usize) {
    if link.kicks_waiting() == 0 && !socket.bell.is_pending() {
        return;
    }
    let is_there = |wanted: Wanted| {
        let has_bytes = !link.incoming().0.is_empty() || link.their_end() != 0;
        wanted.bytes && has_bytes || wanted.room && link.is_roomy()
    };
    socket.bell.quiet(&WakeUps { link, fd }, is_there);
}

/// [`quiet`], if the next byte is in the ring.
pub fn quiet_if_ring(thread: &Thread, socket: &'static SocketRecord, link: &Link, fd: usize) {
    let _held = lifecycle::take(&socket.receive_claim, thread);
    if link.source(socket.kernel_received.load(Ordering::Relaxed)) == Source::Ring {
        quiet(socket, link, fd);
    }
}

/// Takes so many wake-up bytes out of Linux's stream, as far as they have come. The caller holds `receive_claim`.
pub fn take_kicks(link: &Link, fd: usize, mut left: u64) {
    while left > 0 {
        let mut bytes = [0; 64];
        // Not more than there is: an error that comes after them is the program's to see.
        let waiting = pegasus_host::socket::receivable(fd).unwrap_or(0);
        let want = (left.min(bytes.len() as u64) as usize).min(waiting);
        if want == 0 {
            break;
        }
        match pegasus_host::socket::receive_now(fd, &mut bytes[..want], 0) {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                link.mine()
                    .kicks_taken
                    .fetch_add(len as u64, Ordering::Relaxed);
                left -= len as u64;
            }
        }
    }
}
