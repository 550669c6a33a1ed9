//! New connections, told in memory to who accepts them.
//!
//! Linux makes a connection and queues it at its listener, and wakes who sleeps there: that takes tens of microseconds if it is another CPU.
//! So a member that has connected to a port counts that up ([`announce`]), and one that is about to sleep in accept(2) looks at the
//! count for a while first ([`await_one`]). The count is by port alone, and any member can write it: it only says when to ask Linux.

use crate::socket::pools::header as pools;
use crate::socket::wait::{self, cycles};
use crate::task::Thread;
use core::sync::atomic::Ordering;
use pegasus_abi::poll::POLLIN;
use pegasus_contract::socket::{ArrivalsRecord, SocketRecord};

/// The longest that a thread looks for a connection, in cycles: 50 to 100 µs. A member that connects again and again takes some 40 from
/// one to the next, and a sleep on another CPU as long again.
pub const LOOK_CYCLES_MAX: u64 = 200_000;

fn record(port: u32) -> &'static ArrivalsRecord {
    &pools().arrivals[ArrivalsRecord::slot(port)]
}

/// A connection to `port` has been made, or soon will be.
pub fn announce(port: u32) {
    // Nothing is published with it: Linux's queue is looked at afterwards.
    record(port).made.fetch_add(1, Ordering::Release);
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
        let has_come = wait::look_at_home(thread, &thread.accept_patience, || made() != seen);
        if !has_come || thread.has_pending() {
            break;
        }
        seen = made();
    }
    Some(begin)
}
