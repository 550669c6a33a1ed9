//! Calls on sockets.
//!
//! Each looks its descriptor up; one that the vkernel does not know goes to Linux as it is.

pub mod connect;
pub mod option;
pub mod recv;
pub mod send;
pub mod shutdown;

use crate::entry::Call;
use crate::socket::descriptors::{Entry, Table};
use crate::socket::lifecycle::Pin;
use crate::socket::send::Target;
use core::sync::atomic::Ordering;
use pegasus_abi::socket::MSG_DONTWAIT;
use pegasus_contract::socket::{SocketRecord, SocketState, socket_flags};

/// The socket that descriptor `fd` of the caller stands for, if a call on it may be more than Linux's own.
pub fn socket_of(call: &Call, fd: usize) -> Option<&'static SocketRecord> {
    match Table::of(call.thread.process()).get(fd) {
        Entry::Socket(socket) => Some(socket),
        _ => None,
    }
}

/// [`target`] for calls with a position, which a socket does not have: -1, or Linux says what is wrong.
fn positionless<'a>(
    call: &'a Call,
    fd: usize,
    position: usize,
    flags: usize,
) -> Option<(Target<'a>, Pin)> {
    const RWF_NOWAIT: usize = 8;
    if position != usize::MAX || flags & !RWF_NOWAIT != 0 {
        return None;
    }
    let flags = if flags == 0 { 0 } else { MSG_DONTWAIT };
    target(call, fd, flags)
}

/// The same for calls that move bytes: not for a socket that is Linux's for good.
fn target<'a>(call: &'a Call, fd: usize, flags: usize) -> Option<(Target<'a>, Pin)> {
    let fd = fd & 0xffff_ffff;
    let socket = socket_of(call, fd)?;
    let pin = Pin::new(call.thread, socket);
    if socket.state.load(Ordering::Acquire) == SocketState::Kernel as u32 {
        // Nothing depends on its descriptor any more, but a membership in an epoll set, or another thread's call.
        let is_unused = socket.items.load(Ordering::Relaxed) == 0;
        if is_unused && call.thread.process().has_had_one_thread() {
            Table::of(call.thread.process()).clear(fd);
        }
        return None;
    }
    let retired = socket_flags::RETIRED | socket_flags::AT_END;
    if socket.flags.load(Ordering::Acquire) & retired == socket_flags::RETIRED {
        return None;
    }
    let target = Target {
        call,
        socket,
        fd,
        flags,
    };
    Some((target, pin))
}
