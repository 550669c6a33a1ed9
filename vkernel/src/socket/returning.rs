//! Connections that go back to Linux's stream: because only Linux can do what is asked of them, or because an end comes into
//! hands that know nothing of rings (a native program, or a process that is passed a descriptor).

use crate::socket::connection::Link;
use crate::socket::descriptors::{Entry, Table};
use crate::socket::pools::Pooled;
use crate::socket::send::{Target, return_mine};
use crate::socket::{directory, lifecycle, wake};
use crate::task::{Process, Thread};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use pegasus_abi::Result;
use pegasus_abi::fcntl::FD_CLOEXEC;
use pegasus_contract::socket::{Returning, SocketRecord, socket_flags};

/// From now on this end sends through Linux, and so does its peer with its next call. What is in the rings is read from there first.
pub fn keep_kernel(thread: &Thread, socket: &'static SocketRecord, fd: usize) {
    directory::give_up(socket);
    if let Some(link) = lifecycle::link(socket, fd) {
        begin(thread, socket, &link, fd, Returning::Drained as u32);
    }
}

fn begin(thread: &Thread, socket: &'static SocketRecord, link: &Link, fd: usize, how: u32) {
    let returning = &link.connection.returning;
    let no = Returning::No as u32;
    if returning
        .compare_exchange(no, how, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        returning.store(how, Ordering::SeqCst);
    }
    wake::insist(link, fd);
    wake::peer_sets(link);
    let held = lifecycle::take(&socket.send_claim, thread);
    return_mine(socket, link, fd);
    drop(held);
    // To Linux, which tells from now on what there is to read, an old wake-up byte is data.
    wake::quiet_if_ring(thread, socket, link, fd);
}

/// The same at once, and completely: when this returns, all that this end has not read is in Linux's stream or on its way there,
/// unless the peer does not run.
pub fn hand_over(thread: &Thread, socket: &'static SocketRecord, fd: usize) {
    if let Some(link) = begin_hand_over(thread, socket, fd) {
        finish_hand_over(thread, socket, &link, fd, &mut { PAUSES_MAX });
    }
}

/// How long all peers together are waited for: a second.
const PAUSE_NS: u64 = 200_000;
const PAUSES_MAX: u32 = 5000;

fn begin_hand_over(thread: &Thread, socket: &'static SocketRecord, fd: usize) -> Option<Link> {
    directory::give_up(socket);
    let link = lifecycle::link(socket, fd)?;
    let how = Returning::TakenBackFrom0 as u32 + link.side as u32;
    begin(thread, socket, &link, fd, how);
    return_peer_here(thread, &link);
    Some(link)
}

fn finish_hand_over(
    thread: &Thread,
    socket: &'static SocketRecord,
    link: &Link,
    fd: usize,
    pauses_left: &mut u32,
) {
    while *pauses_left > 0 {
        let is_back = link.theirs().returned.load(Ordering::SeqCst) != 0;
        if is_back || link.their_end() != 0 || link.theirs().released.load(Ordering::SeqCst) != 0 {
            break;
        }
        pegasus_host::process::pause_ns(PAUSE_NS);
        *pauses_left -= 1;
    }
    let _held = lifecycle::take(&socket.receive_claim, thread);
    if !lifecycle::retire_if_done(socket, link, fd) {
        // At least no wake-up byte shall be taken for data.
        wake::take_kicks(link, fd, link.kicks_waiting());
    }
}

/// The peer may be a socket of this very process, whose threads are elsewhere.
fn return_peer_here(thread: &Thread, link: &Link) {
    let peer = link.theirs().socket.load(Ordering::Relaxed);
    for (fd, entry) in Table::of(thread.process()).entries() {
        if let Entry::Socket(socket) = entry
            && socket.index() == peer
        {
            let _ = lifecycle::link(socket, fd);
            return;
        }
    }
}

/// A call of Linux's that sends on a socket that may be linked at any moment: its bytes are counted.
pub fn counted(target: &Target, send: impl FnOnce() -> Result) -> Result {
    let _held = lifecycle::take(&target.socket.send_claim, target.thread());
    let sent = send()?;
    let count = &target.socket.kernel_sent;
    count.store(
        count.load(Ordering::Relaxed) + sent as u64,
        Ordering::Relaxed,
    );
    Ok(sent)
}

/// The process's program is about to be replaced by one that Linux runs: what that inherits must be Linux's.
pub fn before_native_program(thread: &Thread, process: &Process) {
    let mut begun = Vec::new();
    for (fd, entry) in Table::of(process).entries() {
        let Entry::Socket(socket) = entry else {
            continue;
        };
        let is_inherited =
            pegasus_host::file::descriptor_flags(fd).is_ok_and(|flags| flags & FD_CLOEXEC == 0);
        if !is_inherited {
            continue;
        }
        if let Some(link) = begin_hand_over(thread, socket, fd) {
            begun.push((socket, link, fd));
        }
    }
    let mut pauses_left = PAUSES_MAX;
    for (socket, link, fd) in begun {
        finish_hand_over(thread, socket, &link, fd, &mut pauses_left);
    }
}

/// A child is about to be made that has no table of its own: what it inherits must be Linux's.
pub fn before_blind_child(thread: &Thread) {
    for (fd, entry) in Table::of(thread.process()).entries() {
        if let Entry::Socket(socket) = entry {
            keep_kernel(thread, socket, fd);
        }
    }
}

/// The process gets means to use descriptors without calls that the vkernel sees: all its connections go back, and new ones stay
/// with Linux.
pub fn keep_all(thread: &Thread) {
    let process = thread.process();
    process.keep_kernel_sockets();
    for (fd, entry) in Table::of(process).entries() {
        if let Entry::Socket(socket) = entry {
            socket
                .flags
                .fetch_or(socket_flags::KEEP_KERNEL, Ordering::Relaxed);
            hand_over(thread, socket, fd);
        }
    }
}
