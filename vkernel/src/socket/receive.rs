//! Receiving: what Linux's stream still holds from before the switch, then from the ring.

use crate::deadline::Deadline;
use crate::epoll;
use crate::schedule::away::is_away;
use crate::socket::connection::{Link, Source};
use crate::socket::lifecycle::{self, Held};
use crate::socket::segments::Segments;
use crate::socket::send::{Target, moved_or, reset, verdict};
use crate::socket::wait::{self, For, Wait};
use crate::socket::wake;
use crate::syscall::table::forward_as;
use crate::task::Thread;
use core::sync::atomic::{Ordering, fence};
use pegasus_abi::poll::{POLLERR, POLLHUP, POLLIN, POLLRDHUP};
use pegasus_abi::socket::{
    MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MsgHdr, RW_COUNT_MAX, SO_RCVTIMEO,
};
use pegasus_abi::{Errno, Result, nr};
use pegasus_contract::socket::{EndState, SocketRecord, socket_flags};
use pegasus_sync::Corrupt;

/// A call that would have to wait looks at Linux's socket if nobody has for so long, in cycles: 25 to 50 µs.
const LOOK_AT_KERNEL_CYCLES: u64 = 100_000;
/// The same for calls that have something to do, and for threads that a worker runs, which come home to look: 10 to 40 ms. It is only
/// about peers that are killed, and with many connections each call would find its own not looked at for long.
const LOOK_AT_KERNEL_CYCLES_BUSY: u64 = 40_000_000;

/// One attempt that does not wait.
enum Step {
    Moved(usize),
    Empty,
    /// End of file.
    End,
    Failed(Errno),
    /// The source has changed.
    Other,
}

/// Receives into `segments`. Gives the number of bytes; 0 at the end of the stream.
pub fn receive(target: &Target, segments: &mut Segments) -> Result {
    let peeks = target.flags & MSG_PEEK != 0;
    let wants_all = target.flags & MSG_WAITALL != 0;
    let wanted = segments.left();
    let mut done = 0;
    let mut known = 0;
    let mut deadline = None;
    loop {
        let link = match target.link() {
            Ok(link) => link,
            Err(error) => return moved_or(done, error),
        };
        if peeks {
            // The same bytes again, and what has come since.
            segments.restart(wanted);
            known = core::mem::take(&mut done);
        }
        let step = match &link {
            Some(link) => from_link(target, link, segments),
            None => from_kernel_alone(target, segments),
        };
        match step {
            Step::Moved(len) => {
                done += len;
                if segments.has_faulted() && done == 0 {
                    return Err(Errno::EFAULT);
                }
                let least = if wants_all {
                    wanted
                } else {
                    least_of(target).min(wanted)
                };
                if done >= least || segments.has_faulted() || segments.left() == 0 {
                    return Ok(done);
                }
                if len > 0 && !peeks || done > known {
                    continue;
                }
            }
            Step::Empty => {}
            Step::End => return Ok(done),
            Step::Failed(errno) => return moved_or(done, errno),
            Step::Other => continue,
        }
        if target.is_nonblocking() {
            if let Some(link) = &link
                && look_seldom(target.socket, link, target.fd)
            {
                continue;
            }
            return moved_or(done, Errno::EAGAIN);
        }
        if let Some(result) = wait_for_bytes(target, link.as_ref(), &mut deadline, done) {
            return result;
        }
    }
}

fn least_of(target: &Target) -> usize {
    (target.socket.receive_least.load(Ordering::Relaxed) as usize).max(1)
}

fn wait_for_bytes(
    target: &Target,
    link: Option<&Link>,
    deadline: &mut Option<Deadline>,
    done: usize,
) -> Option<Result> {
    let skip = if target.flags & MSG_PEEK != 0 {
        done
    } else {
        0
    };
    let is_ready = || match link {
        Some(link) => has_news(target, link, skip) || has_first_bytes(target, link, skip),
        // The peer's first bytes are on their way, through Linux.
        None => wait::has_been_linked(target.socket, None) || has_come(target),
    };
    let wait = Wait {
        thread: target.thread(),
        socket: target.socket,
        link,
        fd: target.fd,
        what: For::Bytes,
    };
    let begin = wait::cycles();
    if wait.look(target.look_deadline(*deadline, SO_RCVTIMEO), is_ready) {
        return None;
    }
    let deadline = deadline.get_or_insert_with(|| target.deadline(SO_RCVTIMEO));
    deadline.settle();
    let deadline = *deadline;
    let outcome = wait.sleep_until(deadline, begin, is_ready);
    verdict(outcome, deadline, done)
}

/// Whether a reader has more to see than the `skip` bytes that it knows.
fn has_news(target: &Target, link: &Link, skip: usize) -> bool {
    let (ring, _) = link.incoming();
    ring.len() > skip
        || link.their_end() != EndState::Open as u32
        || link.is_to_return()
        || target.has(socket_flags::KERNEL_ENDED | socket_flags::READ_SHUT)
}

/// Whether bytes have come through Linux from a peer that has not gone over to its ring.
fn has_first_bytes(target: &Target, link: &Link, skip: usize) -> bool {
    let received = target.socket.kernel_received.load(Ordering::Relaxed);
    skip == 0 && link.source(received) == Source::Kernel(None) && has_come(target)
}

/// Whether Linux has something to read. Not for a thread that would have to come home to ask.
fn has_come(target: &Target) -> bool {
    !is_away(target.thread()) && pegasus_host::socket::poll_now(target.fd, POLLIN) != 0
}

/// Asks Linux whether the peer has been killed, if nobody has for some time. Tells whether that is news.
pub fn look_now_and_then(thread: &Thread, socket: &SocketRecord, link: &Link, fd: usize) -> bool {
    let cycles_max = if is_away(thread) {
        LOOK_AT_KERNEL_CYCLES_BUSY
    } else {
        LOOK_AT_KERNEL_CYCLES
    };
    look_after(cycles_max, socket, link, fd)
}

/// [`look_now_and_then`] for a call that has something to do or does not wait: who waits for such sockets is told by its epoll set.
pub fn look_seldom(socket: &SocketRecord, link: &Link, fd: usize) -> bool {
    look_after(LOOK_AT_KERNEL_CYCLES_BUSY, socket, link, fd)
}

fn look_after(cycles_max: u64, socket: &SocketRecord, link: &Link, fd: usize) -> bool {
    let looked_at = &socket.looked_at;
    let now = wait::cycles();
    if now.wrapping_sub(looked_at.load(Ordering::Relaxed)) < cycles_max {
        return false;
    }
    looked_at.store(now, Ordering::Relaxed);
    let seen = pegasus_host::socket::poll_now(fd, POLLIN | POLLRDHUP);
    note_kernel_events(socket, link, fd, seen)
}

/// Notes what Linux says of the socket. Tells whether the peer's end is news.
pub fn note_kernel_events(socket: &SocketRecord, link: &Link, fd: usize, events: u32) -> bool {
    let flags = socket.flags.load(Ordering::SeqCst);
    let is_certain = events & (POLLHUP | POLLERR) != 0;
    // After a shutdown(2) of its own reading side Linux says so of every socket.
    let is_ended = is_certain
        || events & POLLRDHUP != 0
            && (flags & socket_flags::READ_SHUT == 0 || pegasus_host::socket::is_peer_gone(fd));
    let is_news = is_ended
        && flags & socket_flags::KERNEL_ENDED == 0
        && link.mine().ended.load(Ordering::Relaxed) < EndState::Closed as u32;
    if is_news {
        socket
            .flags
            .fetch_or(socket_flags::KERNEL_ENDED, Ordering::SeqCst);
        // Whoever hears it from Linux later takes it for old.
        epoll::set::note_all_ready(socket);
    }
    is_news
}

fn from_link(target: &Target, link: &Link, segments: &mut Segments) -> Step {
    let socket = target.socket;
    let held = lifecycle::take_shared(socket, &socket.receive_claim, target.thread());
    if target.has(socket_flags::AT_END) {
        return if take_peer_reset(socket) {
            Step::Failed(Errno::ECONNRESET)
        } else {
            Step::End
        };
    }
    if target.has(socket_flags::RETIRED) {
        return Step::Other;
    }
    let received = socket.kernel_received.load(Ordering::Relaxed);
    match link.source(received) {
        Source::Kernel(left) => from_kernel(target, Stream::Before(link, left), segments, &held),
        Source::KernelAgain { .. } => {
            wake::take_kicks(link, target.fd, link.kicks_waiting());
            if link.kicks_waiting() > 0 {
                return Step::Empty;
            }
            if lifecycle::retire_if_done(socket, link, target.fd) {
                return Step::Other;
            }
            from_kernel(target, Stream::Again, segments, &held)
        }
        Source::Ring => from_ring(target, link, segments, held),
    }
}

/// Whether a reset is still to be told, which it is once.
pub fn take_peer_reset(socket: &SocketRecord) -> bool {
    let reset = socket_flags::PEER_RESET;
    let is_told = socket.flags.fetch_and(!reset, Ordering::SeqCst) & reset != 0;
    if is_told {
        // Nor is a write taken any more.
        let written = socket_flags::WRITTEN_AFTER_END;
        socket.flags.fetch_or(written, Ordering::SeqCst);
    }
    is_told
}

fn from_ring(target: &Target, link: &Link, segments: &mut Segments, held: Held) -> Step {
    if link.mine().ended.load(Ordering::Relaxed) == EndState::Reset as u32 {
        return Step::Failed(Errno::ECONNRESET);
    }
    if link.is_frozen() {
        return Step::Empty;
    }
    // Looked at before the ring (an acquire): what the peer wrote before it said so is then seen.
    let their_end = link.their_end();
    let want = segments.left();
    let had = link.incoming().0.len();
    let peeks = target.flags & MSG_PEEK != 0;
    let discards = target.flags & MSG_TRUNC != 0;
    let mut copy = |from: &[u8]| {
        if discards {
            segments.advance_across(from.len());
            from.len()
        } else {
            segments.copy_in(from)
        }
    };
    let moved = if peeks {
        link.peek(0, want, &mut copy)
    } else {
        link.read(want, &mut copy)
    };
    match moved {
        Err(Corrupt) => {
            drop(held);
            Step::Failed(reset(target.socket, link, target.fd))
        }
        Ok(0) if want == 0 && !link.incoming().0.is_empty() => Step::Moved(0),
        Ok(0) if segments.has_faulted() => Step::Failed(Errno::EFAULT),
        Ok(0) if want > 0 && !link.incoming().0.is_empty() => Step::Other,
        Ok(0) => at_end(target, link, their_end),
        Ok(len) => {
            // A peer that waits for room has filled the ring: then there is more to read than this, now or soon.
            if !peeks && had * 4 > link.incoming_capacity() {
                tell_of_room(link, target.fd);
            }
            if !link.incoming().0.is_empty() {
                epoll::set::note_seen(target.socket);
            }
            link.prefetch_outgoing();
            Step::Moved(len)
        }
    }
}

/// Lets a peer go on that waits for room, if there is a fair amount.
pub fn tell_of_room(link: &Link, fd: usize) {
    fence(Ordering::SeqCst);
    let wants = &link.theirs().wants_room;
    if wants.load(Ordering::Relaxed) == 0 {
        return;
    }
    let seen_from_there = Link {
        side: 1 - link.side,
        ..*link
    };
    if seen_from_there.is_roomy() && wants.swap(0, Ordering::SeqCst) != 0 {
        wake::peer(link, fd, wake::ROOM);
    }
}

/// The ring is empty, and was when the peer said `their_end`.
fn at_end(target: &Target, link: &Link, their_end: u32) -> Step {
    let kernel_ended = target.has(socket_flags::KERNEL_ENDED);
    if (kernel_ended || their_end >= EndState::Closed as u32)
        && lifecycle::retire_if_done(target.socket, link, target.fd)
    {
        return Step::Other;
    }
    if their_end == EndState::Finished as u32 || target.has(socket_flags::READ_SHUT) {
        return Step::End;
    }
    wake::quiet(target.socket, link, target.fd);
    if link.incoming().0.is_empty() {
        Step::Empty
    } else {
        Step::Other
    }
}

fn from_kernel_alone(target: &Target, segments: &mut Segments) -> Step {
    let socket = target.socket;
    let held = lifecycle::take(&socket.receive_claim, target.thread());
    let stream = match Link::of(socket) {
        Some(_) if !target.has(socket_flags::RETIRED) => return Step::Other,
        Some(_) => Stream::Again,
        None => Stream::Unlinked,
    };
    from_kernel(target, stream, segments, &held)
}

/// What is known of Linux's stream when a call receives from it.
#[derive(Clone, Copy)]
enum Stream<'a> {
    /// The socket had no connection.
    Unlinked,
    /// Only what the peer sent before it went over to its ring: so many bytes, if it has.
    Before(&'a Link, Option<u64>),
    /// There is no ring any more.
    Again,
}

/// From Linux's stream, counted.
fn from_kernel(target: &Target, stream: Stream, segments: &mut Segments, _: &Held) -> Step {
    let len_max = match stream {
        Stream::Before(_, Some(left)) => left.min(RW_COUNT_MAX as u64) as usize,
        _ => usize::MAX,
    };
    let pieces = segments.rest(len_max);
    let message = MsgHdr {
        iov: pieces.as_ptr() as usize,
        iov_len: pieces.len(),
        ..MsgHdr::default()
    };
    let flags = (target.flags & !MSG_WAITALL) | MSG_DONTWAIT;
    let args = [target.fd, &raw const message as usize, flags, 0, 0, 0];
    let done = forward_as(nr::RECVMSG, &args);
    // What the peer did meanwhile.
    let switched = match stream {
        Stream::Unlinked => Link::of(target.socket),
        Stream::Before(link, None) => Some(*link),
        Stream::Before(_, Some(_)) | Stream::Again => None,
    }
    .filter(|link| link.theirs().switched.load(Ordering::SeqCst) != 0);
    match done {
        Ok(0) if segments.left() == 0 => Step::Moved(0),
        Ok(0) if switched.is_some() => Step::Other,
        Ok(0) => Step::End,
        Ok(len) => {
            let len = switched.map_or(len, |link| without_kicks(target, &link, len));
            if target.flags & MSG_PEEK == 0 {
                let received = &target.socket.kernel_received;
                let before = received.load(Ordering::Relaxed);
                received.store(before + len as u64, Ordering::Relaxed);
            }
            segments.advance_across(len);
            if len == 0 {
                Step::Other
            } else {
                Step::Moved(len)
            }
        }
        Err(Errno::EAGAIN) => Step::Empty,
        Err(Errno::ECONNRESET) if switched.is_some() => {
            // Linux tells of a reset once: it is kept until the ring has been read.
            let reset = socket_flags::PEER_RESET;
            target.socket.flags.fetch_or(reset, Ordering::SeqCst);
            Step::Other
        }
        Err(errno) => Step::Failed(errno),
    }
}

/// The peer has gone over to its ring while Linux was copying, and may have sent a wake-up byte: how many of the `len` bytes are data.
fn without_kicks(target: &Target, link: &Link, len: usize) -> usize {
    let received = target.socket.kernel_received.load(Ordering::Relaxed);
    let switched = link.theirs().switched.load(Ordering::SeqCst);
    let sent = switched.saturating_sub(1);
    let data = sent.saturating_sub(received).min(len as u64) as usize;
    if target.flags & MSG_PEEK == 0 {
        link.mine()
            .kicks_taken
            .fetch_add((len - data) as u64, Ordering::Relaxed);
    }
    data
}
