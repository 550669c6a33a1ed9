//! read(2), readv(2), recvfrom(2), recvmsg(2), recvmmsg(2).

use crate::deadline::Deadline;
use crate::entry::Call;
use crate::socket::lifecycle;
use crate::socket::receive;
use crate::socket::segments::Segments;
use crate::socket::send::Target;
use crate::syscall::net::{positionless, target};
use crate::syscall::table::forward;
use crate::usermem::UserPtr;
use core::mem::offset_of;
use pegasus_abi::poll::Timespec;
use pegasus_abi::socket::{
    MMsgHdr, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC,
    MSG_WAITALL, MSG_WAITFORONE, MsgHdr,
};
use pegasus_abi::{Errno, Result};

const FLAGS_KNOWN: usize = MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT | MSG_WAITALL;

pub fn read(call: &Call) -> Result {
    let [fd, buffer, len, ..] = call.args;
    match target(call, fd, 0) {
        Some(_) if len == 0 => Ok(0),
        Some((target, _pin)) => receive::receive(&target, &mut Segments::one(buffer, len)),
        None => forward(call),
    }
}

pub fn readv(call: &Call) -> Result {
    let [fd, pieces, count, ..] = call.args;
    match target(call, fd, 0) {
        Some((target, _pin)) => {
            let mut segments = Segments::read(pieces, count)?;
            if segments.left() == 0 {
                return Ok(0);
            }
            receive::receive(&target, &mut segments)
        }
        None => forward(call),
    }
}

/// preadv2(2) without a position is readv(2).
pub fn preadv2(call: &Call) -> Result {
    let [fd, pieces, count, position, _, flags] = call.args;
    match positionless(call, fd, position, flags) {
        Some((target, _pin)) => {
            let mut segments = Segments::read(pieces, count)?;
            if segments.left() == 0 {
                return Ok(0);
            }
            receive::receive(&target, &mut segments)
        }
        None => forward(call),
    }
}

/// Whether a call with these flags is for Linux whatever the socket.
fn is_for_kernel(target: &Target, flags: usize) -> Option<Result> {
    if flags & MSG_ERRQUEUE != 0 {
        return None;
    }
    // There is no urgent byte in a ring.
    let is_linked =
        lifecycle::link(target.socket, target.fd).is_some_and(|link| link.returning() == 0);
    (flags & MSG_OOB != 0 && is_linked).then_some(Err(Errno::EINVAL))
}

pub fn recvfrom(call: &Call) -> Result {
    let [fd, buffer, len, flags, address, address_len] = call.args;
    let Some((target, _pin)) = target(call, fd, flags & FLAGS_KNOWN) else {
        return forward(call);
    };
    if flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return is_for_kernel(&target, flags).unwrap_or_else(|| forward(call));
    }
    let done = receive::receive(&target, &mut Segments::one(buffer, len))?;
    if address != 0 && address_len != 0 {
        // TCP gives no address.
        UserPtr(address_len).write(&0u32)?;
    }
    Ok(done)
}

pub fn recvmsg(call: &Call) -> Result {
    let [fd, message_at, flags, ..] = call.args;
    let Some((target, _pin)) = target(call, fd, flags & FLAGS_KNOWN) else {
        return forward(call);
    };
    if flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return is_for_kernel(&target, flags).unwrap_or_else(|| forward(call));
    }
    receive_message(&target, UserPtr(message_at), flags)
}

fn receive_message(target: &Target, message_at: UserPtr, flags: usize) -> Result {
    let message: MsgHdr = message_at.read()?;
    if message.iov_len > pegasus_abi::socket::UIO_MAXIOV {
        return Err(Errno::EMSGSIZE);
    }
    let mut segments = Segments::read(message.iov, message.iov_len)?;
    let done = receive::receive(target, &mut segments)?;
    if message.name != 0 {
        message_at
            .offset(offset_of!(MsgHdr, name_len))?
            .write(&0u32)?;
    }
    message_at
        .offset(offset_of!(MsgHdr, control_len))?
        .write(&0usize)?;
    message_at
        .offset(offset_of!(MsgHdr, flags))?
        .write(&((flags & MSG_CMSG_CLOEXEC) as u32))?;
    Ok(done)
}

pub fn recvmmsg(call: &Call) -> Result {
    let [fd, messages, count, flags, timeout_at, _] = call.args;
    let Some((mut target, _pin)) = target(call, fd, flags & FLAGS_KNOWN) else {
        return forward(call);
    };
    if flags & (MSG_OOB | MSG_ERRQUEUE) != 0 {
        return is_for_kernel(&target, flags).unwrap_or_else(|| forward(call));
    }
    let deadline = match timeout_at {
        0 => Deadline::NEVER,
        at => {
            let time: Timespec = UserPtr(at).read()?;
            if time.sec < 0 || !(0..1_000_000_000).contains(&time.nsec) {
                return Err(Errno::EINVAL);
            }
            Deadline::after(time.sec as u64 * 1_000_000_000 + time.nsec as u64)
        }
    };
    let count = (count & 0xffff_ffff).min(pegasus_abi::socket::UIO_MAXIOV);
    let mut received = 0;
    while received < count {
        let at = UserPtr(messages).offset(received * size_of::<MMsgHdr>());
        let done = at.and_then(|at| {
            let len = receive_message(&target, at, flags)?;
            at.offset(offset_of!(MMsgHdr, len))?.write(&(len as u32))?;
            Ok(len)
        });
        match done {
            // The end of the stream is one message; Linux would give it again and again.
            Ok(0) if received > 0 => break,
            Ok(_) => received += 1,
            Err(errno) if received == 0 => return Err(errno),
            Err(_) => break,
        }
        if flags & MSG_WAITFORONE != 0 {
            target.flags |= MSG_DONTWAIT;
        }
        // Like Linux, which looks at the time between messages only.
        if deadline.is_over() {
            break;
        }
    }
    Ok(received)
}
