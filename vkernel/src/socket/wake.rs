//! Waking the peer.
//!
//! A task that finds nothing to do on a socket says so (`sleepers` of the socket, or of an epoll set), looks once more, and
//! then sleeps in Linux, in poll or epoll on the real socket. Whoever changes the ring looks for sleepers after
//! the change, and sends one byte (a *kick*) over Linux's connection. So a sleeper is woken by the kernel whatever
//! namespaces, credentials and sets of descriptors lie between the two, and one wait covers the rings, all other
//! descriptors, timeouts, signals, and the end of the peer.
//!
//! Both sides order their two steps with SeqCst read-modify-writes, so that one of them sees the other
//! (Dekker). `kick_pending` keeps it to one byte per sleep. A byte that was sent wakes all who sleep on the socket, and in sets that
//! have it; so it is taken only by somebody who finds nothing to do ([`quiet`]).

use crate::epoll;
use crate::socket::connection::{Link, Source};
use crate::socket::lifecycle;
use crate::socket::pools::Pooled;
use crate::task::Thread;
use core::sync::atomic::{Ordering, fence};
use pegasus_contract::socket::{EndRecord, ItemRecord, SocketRecord};

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

/// The peer has something to see: bytes, room, or an end. `fd` is this end's socket.
pub fn peer(link: &Link, fd: usize) {
    let _notifying = Notifying::begin(link.mine());
    let is_asleep = note_ready(link);
    if is_asleep && can_kick(link) && link.theirs().kick_pending.swap(1, Ordering::SeqCst) == 0 {
        kick(link, fd);
    }
}

/// [`peer`], for when Linux will wake its sleepers itself.
pub fn peer_sets(link: &Link) {
    let _notifying = Notifying::begin(link.mine());
    let _ = note_ready(link);
}

/// Queues the peer's items. Tells whether somebody sleeps.
fn note_ready(link: &Link) -> bool {
    let theirs = link.theirs();
    if theirs.released.load(Ordering::SeqCst) != 0 {
        return false;
    }
    let Some(socket) = SocketRecord::at(theirs.socket.load(Ordering::Relaxed)) else {
        return false;
    };
    let mut is_asleep = socket.sleepers.load(Ordering::SeqCst) != 0;
    for item in items_of(socket) {
        is_asleep |= epoll::set::note_ready(item);
    }
    is_asleep
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
        link.theirs().kick_pending.store(0, Ordering::SeqCst);
    }
}

/// Kicks whoever sleeps at the other end, whether or not somebody has before.
pub fn insist(link: &Link, fd: usize) {
    let _notifying = Notifying::begin(link.mine());
    if can_kick(link) {
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

/// Takes the wake-up bytes that have come, if there is nothing that they were sent for: else they stay, for whoever still sleeps.
/// The caller holds `receive_claim`, and the next byte is in the ring.
pub fn quiet(link: &Link, fd: usize) {
    let mine = link.mine();
    let waiting = link.kicks_waiting();
    if waiting == 0 && mine.kick_pending.load(Ordering::Relaxed) == 0 {
        return;
    }
    // From here on the peer sends another one.
    mine.kick_pending.store(0, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    if link.incoming().0.is_empty() {
        take_kicks(link, fd, waiting);
    }
}

/// [`quiet`], if the next byte is in the ring.
pub fn quiet_if_ring(thread: &Thread, socket: &'static SocketRecord, link: &Link, fd: usize) {
    let _held = lifecycle::take(&socket.receive_claim, thread);
    if link.source(socket.kernel_received.load(Ordering::Relaxed)) == Source::Ring {
        quiet(link, fd);
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
