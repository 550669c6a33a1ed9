//! setsockopt(2) and getsockopt(2), ioctl(2): what the vkernel must know of, or answer otherwise.

use crate::entry::Call;
use crate::socket::connection::{Link, Source};
use crate::socket::{lifecycle, returning};
use crate::syscall::net::{socket_of, target};
use crate::syscall::table::forward;
use crate::usermem::UserPtr;
use core::sync::atomic::Ordering;
use pegasus_abi::socket::{
    FIONBIO, FIONREAD, IPPROTO_TCP, SIOCOUTQ, SO_ERROR, SO_RCVLOWAT, SO_RCVTIMEO, SO_RCVTIMEO_NEW,
    SO_SNDTIMEO, SO_SNDTIMEO_NEW, SOL_SOCKET, TCP_CORK, TCP_INFO, TCP_NODELAY, TCP_ULP,
};
use pegasus_abi::{Errno, Result};
use pegasus_contract::layout::BUFFER_LEN;
use pegasus_contract::socket::{EndState, INLINE_LEN, SocketRecord, socket_flags};

/// Timeouts of calls, with the `time_t` of old and the one of 64 bits.
const TIMEOUTS: [usize; 4] = [SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW];
/// In place of a flag: SO_RCVLOWAT.
const RECEIVE_LEAST: u32 = u32::MAX;

/// The flag behind an option that Linux's socket has differently while the connection is linked.
fn flag_of(level: usize, option: usize) -> Option<u32> {
    match (level & 0xffff_ffff, option & 0xffff_ffff) {
        (IPPROTO_TCP, TCP_NODELAY) => Some(socket_flags::NODELAY),
        (IPPROTO_TCP, TCP_CORK) => Some(socket_flags::CORK),
        _ => None,
    }
}

fn is_adopted(socket: &SocketRecord) -> bool {
    socket.flags.load(Ordering::Acquire) & socket_flags::ADOPTED != 0
}

pub fn setsockopt(call: &Call) -> Result {
    let [fd, level, option, value_at, len, _] = call.args;
    let Some(socket) = socket_of(call, fd) else {
        return forward(call);
    };
    if (level & 0xffff_ffff, option & 0xffff_ffff) == (IPPROTO_TCP, TCP_ULP) {
        // From here on Linux changes the bytes.
        returning::hand_over(call.thread, socket, fd & 0xffff_ffff);
        return forward(call);
    }
    if let Some(flag) = flag_of(level, option) {
        if (len as i32) < 4 {
            return Err(Errno::EINVAL);
        }
        let is_on = UserPtr(value_at).read::<u32>()? != 0;
        let done = if is_adopted(socket) {
            Ok(0)
        } else {
            forward(call)
        };
        if done.is_ok() && is_adopted(socket) {
            if is_on {
                socket.flags.fetch_or(flag, Ordering::Relaxed);
            } else {
                socket.flags.fetch_and(!flag, Ordering::Relaxed);
            }
        }
        return done;
    }
    if level & 0xffff_ffff == SOL_SOCKET && TIMEOUTS.contains(&(option & 0xffff_ffff)) {
        socket
            .flags
            .fetch_or(socket_flags::TIMED, Ordering::Relaxed);
    }
    if (level & 0xffff_ffff, option & 0xffff_ffff) != (SOL_SOCKET, SO_RCVLOWAT) {
        return forward(call);
    }
    let done = forward(call)?;
    let least = pegasus_host::socket::int_option(fd, SOL_SOCKET, SO_RCVLOWAT)?;
    socket.receive_least.store(least.max(1), Ordering::SeqCst);
    if is_adopted(socket) && socket.flags.load(Ordering::Acquire) & socket_flags::RETIRED == 0 {
        // Wake-up bytes come one by one.
        pegasus_host::socket::set_int_option(fd, SOL_SOCKET, SO_RCVLOWAT, 1)?;
    }
    Ok(done)
}

pub fn getsockopt(call: &Call) -> Result {
    let [fd, level, option, value_at, len_at, _] = call.args;
    if (level & 0xffff_ffff, option & 0xffff_ffff) == (IPPROTO_TCP, TCP_INFO) {
        return tcp_info(call);
    }
    if (level & 0xffff_ffff, option & 0xffff_ffff) == (SOL_SOCKET, SO_ERROR) {
        let done = forward(call)?;
        if let Some(socket) = socket_of(call, fd)
            && UserPtr(value_at).read::<u32>()? != 0
        {
            socket
                .flags
                .fetch_or(socket_flags::RESET_TOLD, Ordering::Relaxed);
        }
        return Ok(done);
    }
    let is_least = (level & 0xffff_ffff, option & 0xffff_ffff) == (SOL_SOCKET, SO_RCVLOWAT);
    let flag = flag_of(level, option).or(is_least.then_some(RECEIVE_LEAST));
    let (Some(socket), Some(flag)) = (socket_of(call, fd), flag) else {
        return forward(call);
    };
    if !is_adopted(socket) {
        return forward(call);
    }
    let len: i32 = UserPtr(len_at).read()?;
    if len < 0 {
        return Err(Errno::EINVAL);
    }
    let value = match flag {
        RECEIVE_LEAST => socket.receive_least.load(Ordering::Relaxed),
        flag => u32::from(socket.flags.load(Ordering::Relaxed) & flag != 0),
    };
    let len = (len as usize).min(size_of::<u32>());
    UserPtr(value_at).write_bytes(&value.to_ne_bytes()[..len])?;
    UserPtr(len_at).write(&(len as u32))?;
    Ok(0)
}

/// TCP_INFO: Linux's, but for the state, which half-closes in memory have changed.
fn tcp_info(call: &Call) -> Result {
    const FIN_WAIT2: u8 = 5;
    const CLOSE: u8 = 7;
    const CLOSE_WAIT: u8 = 8;
    let [fd, _, _, value_at, len_at, _] = call.args;
    let done = forward(call)?;
    let Some((target, _pin)) = target(call, fd, 0) else {
        return Ok(done);
    };
    let Some(link) = lifecycle::link(target.socket, target.fd) else {
        return Ok(done);
    };
    let is_finished = target.has(socket_flags::WRITE_SHUT);
    let their_end = link.their_end();
    let peer_finished = their_end != EndState::Open as u32;
    let is_reset = their_end >= EndState::Reset as u32;
    let state = match (is_finished || is_reset, peer_finished) {
        (false, false) => return Ok(done),
        (true, false) => FIN_WAIT2,
        (false, true) => CLOSE_WAIT,
        (true, true) => CLOSE,
    };
    if UserPtr(len_at).read::<u32>()? > 0 {
        UserPtr(value_at).write(&state)?;
    }
    Ok(done)
}

pub fn ioctl(call: &Call) -> Result {
    let [fd, request, at, ..] = call.args;
    let request = request & 0xffff_ffff;
    let Some(socket) = socket_of(call, fd) else {
        return forward(call);
    };
    if request == FIONBIO {
        let done = forward(call)?;
        let is_on = UserPtr(at).read::<u32>()? != 0;
        set_nonblocking(socket, is_on);
        return Ok(done);
    }
    let is_count = request == FIONREAD || request == SIOCOUTQ;
    let target = if is_count { target(call, fd, 0) } else { None };
    let link = target
        .as_ref()
        .and_then(|(target, _)| lifecycle::link(target.socket, target.fd));
    let Some(link) = link else {
        return forward(call);
    };
    let count = if request == FIONREAD {
        let count = readable(socket, &link, fd);
        if count > 0 {
            crate::epoll::set::note_seen(socket);
        }
        count
    } else {
        // Linux counts what the peer's kernel has not acknowledged, not what its program has not read: the first half of a ring
        // stands for that one's receive buffer.
        let received_len = if link.outgoing().0.has_buffer() {
            BUFFER_LEN / 2
        } else {
            INLINE_LEN
        };
        link.outgoing().0.len().saturating_sub(received_len)
    };
    UserPtr(at).write(&(count as u32))?;
    Ok(0)
}

fn readable(socket: &SocketRecord, link: &Link, fd: usize) -> usize {
    let in_ring = link.incoming().0.len();
    match link.source(socket.kernel_received.load(Ordering::Relaxed)) {
        Source::Ring => in_ring,
        Source::Kernel(left) => {
            let waiting = pegasus_host::socket::receivable(fd).unwrap_or(0);
            in_ring + waiting.min(left.map_or(usize::MAX, |left| left as usize))
        }
        Source::KernelAgain { kicks } => {
            let waiting = pegasus_host::socket::receivable(fd).unwrap_or(0);
            waiting.saturating_sub(kicks as usize)
        }
    }
}

/// O_NONBLOCK has been set or cleared.
pub fn set_nonblocking(socket: &SocketRecord, is_on: bool) {
    if is_on {
        socket
            .flags
            .fetch_or(socket_flags::NONBLOCK, Ordering::Relaxed);
    } else {
        socket
            .flags
            .fetch_and(!socket_flags::NONBLOCK, Ordering::Relaxed);
    }
}
