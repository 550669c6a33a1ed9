//! Sockets of Linux's, as the vkernel looks at them itself. Nothing here waits.

use crate::raw::{call, call2, call3, call4, call5};
use pegasus_abi::errno::Result;
use pegasus_abi::nr;
use pegasus_abi::poll::{EpollEvent, PollFd};
use pegasus_abi::socket::{
    FIONREAD, IPPROTO_TCP, MSG_DONTWAIT, MSG_NOSIGNAL, SO_LINGER, SO_NETNS_COOKIE, SOL_SOCKET,
    SockAddr, TCP_INFO,
};

/// getsockname(2) or getpeername(2), by number.
fn name(number: usize, fd: usize) -> Result<SockAddr> {
    let mut address = SockAddr::default();
    let mut len = size_of::<SockAddr>() as u32;
    // SAFETY: the kernel writes at most `len` bytes to `address`.
    unsafe {
        call3(number, fd, &raw mut address as usize, &raw mut len as usize)?;
    }
    Ok(address)
}

/// getsockname(2).
pub fn local_name(fd: usize) -> Result<SockAddr> {
    name(nr::GETSOCKNAME, fd)
}

/// getpeername(2). ENOTCONN unless connected.
pub fn remote_name(fd: usize) -> Result<SockAddr> {
    name(nr::GETPEERNAME, fd)
}

/// getsockopt(2) of an option with a value of this type; shorter ones leave the rest as in `value`.
fn option<T: Copy>(fd: usize, level: usize, option: usize, mut value: T) -> Result<T> {
    let mut len = size_of::<T>() as u32;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which callers choose to be integers.
    unsafe {
        call5(
            nr::GETSOCKOPT,
            fd,
            level,
            option,
            &raw mut value as usize,
            &raw mut len as usize,
        )?;
    }
    Ok(value)
}

/// A socket option that is an `int`.
pub fn int_option(fd: usize, level: usize, number: usize) -> Result<u32> {
    option(fd, level, number, 0)
}

/// SO_RCVTIMEO or SO_SNDTIMEO: seconds and microseconds.
pub fn timeout_option(fd: usize, number: usize) -> Result<[i64; 2]> {
    option(fd, SOL_SOCKET, number, [0; 2])
}

/// The cookie of the socket's network namespace (SO_NETNS_COOKIE, since Linux 5.14).
pub fn namespace_cookie(fd: usize) -> Result<u64> {
    option(fd, SOL_SOCKET, SO_NETNS_COOKIE, 0)
}

/// Whether the peer of a TCP socket has sent its end, or a reset.
pub fn is_peer_gone(fd: usize) -> bool {
    /// `TCP_ESTABLISHED`, and the states in which only this end has.
    const STATES_OPEN: [u8; 3] = [1, 4, 5];
    option(fd, IPPROTO_TCP, TCP_INFO, [0u8; 8]).is_ok_and(|info| !STATES_OPEN.contains(&info[0]))
}

/// setsockopt(2) of an `int`.
pub fn set_int_option(fd: usize, level: usize, number: usize, value: u32) -> Result {
    // SAFETY: the kernel only reads `value`.
    unsafe {
        call5(
            nr::SETSOCKOPT,
            fd,
            level,
            number,
            &raw const value as usize,
            size_of::<u32>(),
        )
    }
}

/// Whether close(2) sends a reset: SO_LINGER for no time at all.
pub fn resets_at_close(fd: usize) -> bool {
    option(fd, SOL_SOCKET, SO_LINGER, [0u32; 2]).is_ok_and(|[is_on, time]| is_on != 0 && time == 0)
}

/// Makes close(2) send a reset.
pub fn reset_at_close(fd: usize) {
    let linger = [1u32, 0];
    // SAFETY: the kernel only reads `linger`.
    let _ = unsafe {
        call5(
            nr::SETSOCKOPT,
            fd,
            SOL_SOCKET,
            SO_LINGER,
            linger.as_ptr() as usize,
            size_of_val(&linger),
        )
    };
}

/// Sends bytes, as far as the kernel takes them at once.
pub fn send_now(fd: usize, bytes: &[u8]) -> Result {
    let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    // SAFETY: the kernel only reads `bytes`.
    unsafe {
        call(
            nr::SENDTO,
            [fd, bytes.as_ptr() as usize, bytes.len(), flags, 0, 0],
        )
    }
}

/// Receives what is there.
pub fn receive_now(fd: usize, buffer: &mut [u8], flags: usize) -> Result {
    // SAFETY: the kernel writes at most the buffer's length.
    unsafe {
        call(
            nr::RECVFROM,
            [
                fd,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                MSG_DONTWAIT | flags,
                0,
                0,
            ],
        )
    }
}

/// Bytes that could be received.
pub fn receivable(fd: usize) -> Result<usize> {
    let mut len = 0u32;
    // SAFETY: the kernel writes an int.
    unsafe { call3(nr::IOCTL, fd, FIONREAD, &raw mut len as usize)? };
    Ok(len as usize)
}

/// The events among `events` that hold now (and errors): poll(2) with timeout 0.
pub fn poll_now(fd: usize, events: u32) -> u32 {
    let mut poll = PollFd {
        fd: fd as i32,
        events: events as u16,
        revents: 0,
    };
    // SAFETY: the kernel writes `revents`.
    let _ = unsafe { call3(nr::POLL, &raw mut poll as usize, 1, 0) };
    u32::from(poll.revents)
}

/// The same for many at once: poll(2) with timeout 0.
pub fn poll_all_now(fds: &mut [PollFd]) -> Result {
    // SAFETY: the kernel writes `revents` of the slice's elements.
    unsafe { call3(nr::POLL, fds.as_mut_ptr() as usize, fds.len(), 0) }
}

/// shutdown(2).
pub fn shut_down(fd: usize, how: usize) -> Result {
    // SAFETY: touches no memory.
    unsafe { call2(nr::SHUTDOWN, fd, how) }
}

/// connect(2) to no address: a connection ends at once, for the peer with a reset.
pub fn disconnect(fd: usize) -> Result {
    // AF_UNSPEC.
    let address = [0u16; 8];
    // SAFETY: the kernel only reads `address`.
    unsafe {
        call3(
            nr::CONNECT,
            fd,
            address.as_ptr() as usize,
            size_of_val(&address),
        )
    }
}

/// epoll_ctl(2).
pub fn control_set(set: usize, operation: usize, fd: usize, event: &EpollEvent) -> Result {
    // SAFETY: the kernel only reads `event`.
    unsafe {
        call4(
            nr::EPOLL_CTL,
            set,
            operation,
            fd,
            &raw const *event as usize,
        )
    }
}

/// epoll_wait(2) with timeout 0.
pub fn ready_in_set(set: usize, events: &mut [EpollEvent]) -> Result {
    // SAFETY: the kernel writes at most the slice's length.
    unsafe {
        call4(
            nr::EPOLL_WAIT,
            set,
            events.as_mut_ptr() as usize,
            events.len(),
            0,
        )
    }
}

/// The status flags (fcntl(2) F_GETFL).
pub fn status_flags(fd: usize) -> Result {
    // SAFETY: touches no memory.
    unsafe { call3(nr::FCNTL, fd, pegasus_abi::fcntl::F_GETFL, 0) }
}
