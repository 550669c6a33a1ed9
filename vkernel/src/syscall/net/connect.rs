//! socket(2), connect(2), listen(2), accept(2): Linux's own, and noted.

use crate::entry::Call;
use crate::socket::{directory, lifecycle};
use crate::syscall::net::socket_of;
use crate::syscall::table::forward;
use crate::usermem::UserPtr;
use core::sync::atomic::Ordering;
use pegasus_abi::socket::{
    AF_INET, AF_INET6, IPPROTO_TCP, SOCK_NONBLOCK, SOCK_STREAM, SOCK_TYPE_MASK,
};
use pegasus_abi::{Result, nr};
use pegasus_contract::socket::socket_flags;

pub fn socket(call: &Call) -> Result {
    let [family, kind, protocol, ..] = call.args;
    let fd = forward(call)?;
    let is_ip = family == usize::from(AF_INET) || family == usize::from(AF_INET6);
    let is_tcp = kind & SOCK_TYPE_MASK == SOCK_STREAM && matches!(protocol, 0 | IPPROTO_TCP);
    if is_ip && is_tcp {
        lifecycle::attach(call.thread, fd, nonblock(kind));
    }
    Ok(fd)
}

const fn nonblock(flags: usize) -> u32 {
    if flags & SOCK_NONBLOCK != 0 {
        socket_flags::NONBLOCK
    } else {
        0
    }
}

/// connect(2). To AF_UNSPEC it dissolves a connection, as a reset; the socket stays Linux's from then on.
pub fn connect(call: &Call) -> Result {
    const AF_UNSPEC: u16 = 0;
    let [fd, address, ..] = call.args;
    let is_dissolving = UserPtr(address).read::<u16>() == Ok(AF_UNSPEC);
    if let Some(socket) = socket_of(call, fd).filter(|_| is_dissolving) {
        lifecycle::dissolve(call.thread, socket);
    }
    forward(call)
}

pub fn listen(call: &Call) -> Result {
    let done = forward(call)?;
    if let Some(socket) = socket_of(call, call.args[0]) {
        socket
            .flags
            .fetch_or(socket_flags::LISTENING, Ordering::Relaxed);
        directory::note_listener(call.args[0]);
    }
    Ok(done)
}

/// accept(2) and accept4(2). Sockets from a listener that the vkernel has not seen made are Linux's alone.
pub fn accept(call: &Call) -> Result {
    let listener = socket_of(call, call.args[0]);
    let fd = forward(call)?;
    if let Some(listener) = listener {
        let inherited = listener.flags.load(Ordering::Relaxed) & socket_flags::TIMED;
        let flags = if call.nr == nr::ACCEPT4 {
            nonblock(call.args[3])
        } else {
            0
        };
        lifecycle::attach(call.thread, fd, flags | inherited | socket_flags::ACCEPTED);
    }
    Ok(fd)
}
