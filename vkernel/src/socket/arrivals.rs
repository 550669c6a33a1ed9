//! New connections, told in memory to who accepts them.
//!
//! Linux makes a connection and queues it at its listener, and wakes who sleeps there: that takes tens of microseconds if it is another CPU.
//! So a member that has connected to a port counts that up ([`announce`]), and one that is about to sleep in accept(2) looks at the
//! count for a while first ([`await_one`]). The count is by port alone, and any member can write it: it only says when to ask Linux.
//!
//! The other way round, the two ends can be linked as soon as the connection is accepted. If somebody has looked for it, that is
//! so soon that the connecting end waits for it ([`await_link`]): then not even its first bytes go through Linux.

use crate::socket::connection::Link;
use crate::socket::pools::header as pools;
use crate::socket::wait::{self, cycles};
use crate::task::Thread;
use core::sync::atomic::Ordering;
use pegasus_abi::poll::POLLIN;
use pegasus_contract::socket::{ArrivalsRecord, SocketRecord, SocketState};

/// How long a connecting end waits for one that has been looking for it to accept, in cycles: 8 to 16 µs. Sending through Linux
/// would take as long.
const AWAIT_LINK_CYCLES: u64 = 32_000;

/// The longest that a thread looks for a connection, in cycles: 50 to 100 µs. A member that connects again and again takes some 40 from
/// one to the next, and a sleep on another CPU as long again.
pub const LOOK_CYCLES_MAX: u64 = 200_000;

fn record(port: u32) -> &'static ArrivalsRecord {
    &pools().arrivals[ArrivalsRecord::slot(port)]
}

/// A connection to `port` has been made, or soon will be. Tells whether somebody is looking for it.
pub fn announce(port: u32) -> bool {
    let record = record(port);
    // Nothing is published with it: Linux's queue is looked at afterwards.
    record.made.fetch_add(1, Ordering::Release);
    record.looked_for_until.load(Ordering::Relaxed) > cycles()
}

/// Waits for `socket`, which has just connected, to be linked by the end that accepts it.
pub fn await_link(socket: &'static SocketRecord) {
    let begin = cycles();
    while socket.state.load(Ordering::Acquire) == SocketState::Searching as u32
        && Link::of(socket).is_none()
        && cycles().wrapping_sub(begin) < AWAIT_LINK_CYCLES
    {
        core::hint::spin_loop();
    }
}

/// A thread is about to wait in Linux for a connection to `listener`, which is `fd`: looks for one first, if the last one came from a
/// member. Gives the time at which the wait began, unless there is something to accept already.
pub fn await_one(
    thread: &'static Thread,
    listener: &'static SocketRecord,
    fd: usize,
) -> Option<u64> {
    let record = record(listener.local_port.load(Ordering::Relaxed));
    let made = || record.made.load(Ordering::Acquire);
    let mut seen = made();
    if listener.arrivals_seen.swap(seen, Ordering::Relaxed) == seen {
        return None;
    }
    let begin = cycles();
    // Others' connections, of the same port elsewhere, shall not keep anybody from sleeping.
    while cycles().wrapping_sub(begin) < LOOK_CYCLES_MAX {
        if pegasus_host::socket::poll_now(fd, POLLIN) != 0 {
            return None;
        }
        let is_looking = |until| record.looked_for_until.store(until, Ordering::Relaxed);
        let patience = &thread.accept_patience;
        // On its CPU the connecting end would only keep this one from accepting.
        if !patience.has_one_cpu() {
            is_looking(cycles() + patience.look_cycles());
        }
        let has_come = wait::look_at_home(thread, patience, || made() != seen);
        is_looking(0);
        if !has_come || thread.has_pending() {
            break;
        }
        seen = made();
    }
    Some(begin)
}
