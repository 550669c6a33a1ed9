//! Sending: into the ring if there is one, else into Linux's stream, with its bytes counted.

use crate::deadline::Deadline;
use crate::entry::Call;
use crate::socket::connection::Link;
use crate::socket::descriptors::{Entry, Table};
use crate::socket::lifecycle::{self, Held};
use crate::socket::receive::{look_seldom, take_peer_reset};
use crate::socket::segments::Segments;
use crate::socket::wait::{self, For, Outcome, Wait};
use crate::socket::wake;
use crate::syscall::table::forward_as;
use crate::task::Thread;
use core::sync::atomic::Ordering;
use pegasus_abi::signal::SIGPIPE;
use pegasus_abi::socket::{MSG_DONTWAIT, MSG_NOSIGNAL, MsgHdr, SO_SNDTIMEO};
use pegasus_abi::{Errno, Result, nr};
use pegasus_contract::socket::{EndState, Returning, SocketRecord, socket_flags};
use pegasus_sync::Corrupt;

/// A socket as one call sees it.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub call: &'a Call,
    pub socket: &'static SocketRecord,
    pub fd: usize,
    /// MSG_* flags.
    pub flags: usize,
}

impl Target<'_> {
    pub fn thread(&self) -> &'static Thread {
        self.call.thread
    }

    /// Whether the descriptor still is the socket's: another thread may have closed it, and Linux given the number out again.
    pub fn is_current(&self) -> bool {
        let process = self.call.thread.process();
        process.has_had_one_thread()
            || matches!(Table::of(process).get(self.fd), Entry::Socket(socket) if core::ptr::eq(socket, self.socket))
    }

    pub fn has(&self, flag: u32) -> bool {
        self.socket.flags.load(Ordering::Acquire) & flag != 0
    }

    pub fn is_nonblocking(&self) -> bool {
        self.flags & MSG_DONTWAIT != 0 || self.has(socket_flags::NONBLOCK)
    }

    /// The socket's connection, if it has one. `Err`: the descriptor is not the socket's any more.
    pub fn link(&self) -> Result<Option<Link>> {
        if self.is_current() {
            Ok(lifecycle::link(self.socket, self.fd))
        } else {
            Err(Errno::EBADF)
        }
    }

    /// When a wait is over by SO_RCVTIMEO or SO_SNDTIMEO.
    pub fn deadline(&self, option: usize) -> Deadline {
        match pegasus_host::socket::timeout_option(self.fd, option) {
            Ok([sec, usec]) if sec != 0 || usec != 0 => {
                let ns = (sec as u64).saturating_mul(1_000_000_000);
                Deadline::after(ns.saturating_add(usec as u64 * 1000))
            }
            _ => Deadline::NEVER,
        }
    }

    /// The same for who only looks yet: `known`, or asked of Linux if there is one at all.
    pub fn look_deadline(&self, known: Option<Deadline>, option: usize) -> Deadline {
        let is_timed = self.has(socket_flags::TIMED);
        known.unwrap_or_else(|| {
            if is_timed {
                self.deadline(option)
            } else {
                Deadline::NEVER
            }
        })
    }
}

/// The result of a call that ends with `error` when it has moved `done` bytes: an error is told only if there are none.
pub fn moved_or(done: usize, error: Errno) -> Result {
    if done > 0 { Ok(done) } else { Err(error) }
}

/// What a wait that is over makes of a call that has moved `done` bytes; `None`: it goes on.
pub fn verdict(outcome: Outcome, deadline: Deadline, done: usize) -> Option<Result> {
    let error = match outcome {
        Outcome::Again => return None,
        Outcome::TimedOut => Errno::EAGAIN,
        // `sock_intr_errno`: a call with a timeout is not started again.
        Outcome::Interrupted if deadline.is_never() => Errno::ERESTART_IF_ASKED,
        Outcome::Interrupted => Errno::EINTR,
        Outcome::Closed => Errno::EBADF,
    };
    Some(moved_or(done, error))
}

/// One attempt that does not wait.
enum Step {
    /// So many bytes; all, or as far as there was room.
    Moved(usize),
    Full,
    Failed(Errno),
    /// This end has said that it writes no more.
    Broken,
    /// The other way has to be taken now.
    Other,
}

/// Sends `segments`. Gives the number of bytes that were taken.
pub fn send(target: &Target, segments: &mut Segments) -> Result {
    let mut done = 0;
    let mut deadline = None;
    loop {
        let link = match target.link() {
            Ok(link) => link,
            Err(error) => return moved_or(done, error),
        };
        let step = match &link {
            Some(link) => to_ring(target, link, segments),
            None => to_kernel(target, segments),
        };
        match step {
            Step::Moved(len) => {
                done += len;
                if segments.left() == 0 {
                    return Ok(done);
                }
                if segments.has_faulted() {
                    return moved_or(done, Errno::EFAULT);
                }
            }
            Step::Full => {}
            Step::Broken | Step::Failed(_) if done > 0 => return Ok(done),
            Step::Failed(errno) => return Err(errno),
            Step::Broken => {
                if target.flags & MSG_NOSIGNAL == 0 {
                    raise_sigpipe(target.thread());
                }
                return Err(Errno::EPIPE);
            }
            Step::Other => continue,
        }
        if target.is_nonblocking() {
            if let Some(link) = &link
                && !ask_for_room(link)
            {
                continue;
            }
            return moved_or(done, Errno::EAGAIN);
        }
        if let Some(result) = wait_for_room(target, link.as_ref(), &mut deadline, done) {
            return result;
        }
    }
}

/// Sends bytes of the vkernel's own.
pub fn send_own(target: &Target, bytes: &[u8]) -> Result {
    send(target, &mut Segments::own(bytes))
}

/// Wants to be told of room. Tells whether there is none (else it has come meanwhile).
pub fn ask_for_room(link: &Link) -> bool {
    link.mine().wants_room.store(1, Ordering::SeqCst);
    !link.is_roomy()
}

fn wait_for_room(
    target: &Target,
    link: Option<&Link>,
    deadline: &mut Option<Deadline>,
    done: usize,
) -> Option<Result> {
    let socket = target.socket;
    if let Some(link) = link {
        link.mine().wants_room.store(1, Ordering::SeqCst);
    }
    let is_ready = || {
        link.is_some_and(|link| {
            link.is_roomy()
                || link.they_are_closed()
                || link.is_to_return()
                || target.has(socket_flags::KERNEL_ENDED | socket_flags::WRITE_SHUT)
        })
    };
    let wait = Wait {
        thread: target.thread(),
        socket,
        link,
        fd: target.fd,
        what: For::Room,
    };
    let begin = wait::cycles();
    if wait.look(target.look_deadline(*deadline, SO_SNDTIMEO), is_ready) {
        return None;
    }
    let deadline = deadline.get_or_insert_with(|| target.deadline(SO_SNDTIMEO));
    deadline.settle();
    let deadline = *deadline;
    let outcome = wait.sleep_until(deadline, begin, is_ready);
    verdict(outcome, deadline, done)
}

fn to_ring(target: &Target, link: &Link, segments: &mut Segments) -> Step {
    let socket = target.socket;
    let held = lifecycle::take_shared(socket, &socket.send_claim, target.thread());
    if target.has(socket_flags::WRITE_SHUT) {
        return Step::Broken;
    }
    if target.has(socket_flags::AT_END) {
        if take_peer_reset(socket) {
            return Step::Failed(Errno::ECONNRESET);
        }
        let quiet = Target {
            flags: target.flags | MSG_NOSIGNAL,
            ..*target
        };
        return match to_kernel_holding(&quiet, segments, &held) {
            // For Linux it was reset, for the program its peer has only closed.
            Step::Failed(Errno::ECONNRESET | Errno::EPIPE) => after_end(target, segments),
            Step::Moved(len) => {
                // What comes now Linux says right: the answer to this is a reset.
                socket
                    .flags
                    .fetch_and(!socket_flags::AT_END, Ordering::SeqCst);
                Step::Moved(len)
            }
            step => step,
        };
    }
    if target.has(socket_flags::RETIRED) {
        return Step::Other;
    }
    if link.returning() != 0 {
        return_mine(target.socket, link, target.fd);
        return to_kernel_holding(target, segments, &held);
    }
    // A writer that never reads would not learn that its peer has been killed.
    look_seldom(socket, link, target.fd);
    if link.they_are_closed() || target.has(socket_flags::KERNEL_ENDED) {
        // Linux answers such a write with a reset, and the next one with EPIPE.
        return to_kernel_holding(target, segments, &held);
    }
    let want = segments.left();
    match link.write(want, |to| segments.copy_out(to)) {
        Ok(0) if segments.has_faulted() => Step::Failed(Errno::EFAULT),
        Ok(0) if want > 0 => Step::Full,
        Ok(len) => {
            wake::peer(link, target.fd, wake::BYTES);
            Step::Moved(len)
        }
        Err(Corrupt) => {
            drop(held);
            Step::Failed(reset(target.socket, link, target.fd))
        }
    }
}

/// A write to a peer that has closed: the first one is taken, and answered with a reset that nobody looks for.
fn after_end(target: &Target, segments: &mut Segments) -> Step {
    let written = socket_flags::WRITTEN_AFTER_END;
    let before = target.socket.flags.fetch_or(written, Ordering::SeqCst);
    let was_reset = Link::of(target.socket)
        .is_some_and(|link| link.their_end() == EndState::ResetAfterEnd as u32);
    if before & written != 0 || was_reset {
        return Step::Broken;
    }
    let len = segments.left();
    segments.advance_across(len);
    Step::Moved(len)
}

/// The connection's memory says what cannot be: it ends with a reset.
pub fn reset(socket: &'static SocketRecord, link: &Link, fd: usize) -> Errno {
    // So that its close says the same.
    pegasus_host::socket::reset_at_close(fd);
    link.mine()
        .ended
        .store(EndState::Reset as u32, Ordering::SeqCst);
    socket.flags.fetch_or(
        socket_flags::KERNEL_ENDED | socket_flags::WRITE_SHUT,
        Ordering::SeqCst,
    );
    // A peer whose own ring is whole must not take this for an orderly end.
    if pegasus_host::socket::disconnect(fd).is_err() {
        let _ = pegasus_host::socket::shut_down(fd, pegasus_abi::socket::SHUT_RDWR);
    }
    wake::peer_sets(link);
    Errno::ECONNRESET
}

/// This end goes back to Linux's stream. The caller holds `send_claim`.
pub fn return_mine(socket: &'static SocketRecord, link: &Link, fd: usize) {
    if link.mine().returned.load(Ordering::Acquire) != 0 {
        return;
    }
    return_bytes(socket, link, fd);
    if socket.flags.load(Ordering::Acquire) & socket_flags::WRITE_SHUT != 0 {
        // So far only said in memory.
        let _ = pegasus_host::socket::shut_down(fd, pegasus_abi::socket::SHUT_WR);
    }
}

/// What this end has written and is not read in its ring stays there, or goes through Linux.
fn return_bytes(socket: &'static SocketRecord, link: &Link, fd: usize) {
    let mine = link.mine();
    let (ring, _) = link.outgoing();
    let takes_back = link.returning() == Returning::TakenBackFrom0 as u32 + (1 - link.side) as u32;
    if !takes_back {
        // A sleeper there shall look at the connection again; after this, only Linux wakes.
        wake::insist(link, fd);
        mine.returned.store(ring.written() + 1, Ordering::SeqCst);
        return;
    }
    // The peer promises to read no more.
    let unread = ring.len();
    mine.returned.store(ring.read() + 1, Ordering::SeqCst);
    let mut at = 0;
    while at < unread {
        let mut bytes = [0; 1024];
        let want = bytes.len().min(unread - at);
        let copied = link.peek_own(at, &mut bytes[..want]);
        let Ok(len) = copied else { break };
        if len == 0 || !send_all(fd, &bytes[..len]) {
            let _ = reset(socket, link, fd);
            return;
        }
        at += len;
    }
}

/// Sends bytes over Linux's stream while the caller holds a claim: for a second at most.
fn send_all(fd: usize, mut bytes: &[u8]) -> bool {
    const WAITS_MAX: u32 = 1000;
    const PAUSE_NS: u64 = 1_000_000;
    let mut waits = 0;
    while !bytes.is_empty() {
        match pegasus_host::socket::send_now(fd, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::EAGAIN) if waits < WAITS_MAX => {
                waits += 1;
                pegasus_host::process::pause_ns(PAUSE_NS);
            }
            Err(_) => return false,
        }
    }
    true
}

fn to_kernel(target: &Target, segments: &mut Segments) -> Step {
    let held = lifecycle::take(&target.socket.send_claim, target.thread());
    let is_linked = Link::of(target.socket).is_some() && !target.has(socket_flags::RETIRED);
    if is_linked {
        return Step::Other;
    }
    to_kernel_holding(target, segments, &held)
}

fn to_kernel_holding(target: &Target, segments: &mut Segments, _: &Held) -> Step {
    const CHUNK_MAX: usize = 1 << 20;
    let pieces = segments.rest(CHUNK_MAX);
    let message = MsgHdr {
        iov: pieces.as_ptr() as usize,
        iov_len: pieces.len(),
        ..MsgHdr::default()
    };
    let flags = target.flags | MSG_DONTWAIT;
    let args = [target.fd, &raw const message as usize, flags, 0, 0, 0];
    match forward_as(nr::SENDMSG, &args) {
        Ok(len) => {
            let sent = &target.socket.kernel_sent;
            sent.store(sent.load(Ordering::Relaxed) + len as u64, Ordering::Relaxed);
            segments.advance_across(len);
            Step::Moved(len)
        }
        Err(Errno::EAGAIN) => Step::Full,
        Err(Errno::ERESTARTSYS) => Step::Failed(Errno::ERESTARTSYS),
        Err(errno) => Step::Failed(errno),
    }
}

fn raise_sigpipe(thread: &Thread) {
    let pid = thread.process().pid();
    let _ = pegasus_host::signal::send_to_thread(pid, thread.tid(), SIGPIPE);
}
