//! write(2), writev(2), sendto(2), sendmsg(2), sendmmsg(2), sendfile(2).

use crate::entry::Call;
use crate::socket::descriptors::{Entry, Table};
use crate::socket::lifecycle::{self, Pin};
use crate::socket::segments::Segments;
use crate::socket::send::Target;
use crate::socket::{returning, send};
use crate::syscall::net::{positionless, socket_of, target};
use crate::syscall::table::{forward, forward_as};
use crate::usermem::UserPtr;
use pegasus_abi::fcntl::{S_IFMT, S_IFREG};
use pegasus_abi::socket::{
    MMsgHdr, MSG_DONTWAIT, MSG_FASTOPEN, MSG_MORE, MSG_NOSIGNAL, MSG_OOB, MSG_ZEROCOPY, MsgHdr,
    SCM_RIGHTS, SOL_SOCKET,
};
use pegasus_abi::{Errno, Result, nr};

/// Flags that mean for a ring what they mean for Linux, or nothing.
const FLAGS_KNOWN: usize = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_ZEROCOPY;
/// A program may pass bits that TCP ignores; these it does not.
const FLAGS_NOT_FOR_RINGS: usize = MSG_OOB | MSG_FASTOPEN;

pub fn write(call: &Call) -> Result {
    let [fd, buffer, len, ..] = call.args;
    match target(call, fd, 0) {
        Some((target, _pin)) => send::send(&target, &mut Segments::one(buffer, len)),
        None => forward(call),
    }
}

pub fn writev(call: &Call) -> Result {
    let [fd, pieces, count, ..] = call.args;
    match target(call, fd, 0) {
        Some((target, _pin)) => send::send(&target, &mut Segments::read(pieces, count)?),
        None => forward(call),
    }
}

/// pwritev2(2) without a position is writev(2).
pub fn pwritev2(call: &Call) -> Result {
    let [fd, pieces, count, position, _, flags] = call.args;
    match positionless(call, fd, position, flags) {
        Some((target, _pin)) => send::send(&target, &mut Segments::read(pieces, count)?),
        None => forward(call),
    }
}

/// The target of a call with flags. One with flags that only Linux has takes the connection back there.
fn flagged<'a>(call: &'a Call, fd: usize, flags: usize) -> Option<(Target<'a>, Pin)> {
    let flags = flags & 0xffff_ffff;
    let (target, pin) = target(call, fd, flags & FLAGS_KNOWN)?;
    if flags & FLAGS_NOT_FOR_RINGS != 0 {
        returning::keep_kernel(call.thread, target.socket, target.fd);
        return None;
    }
    Some((target, pin))
}

pub fn sendto(call: &Call) -> Result {
    let [fd, buffer, len, flags, address, address_len] = call.args;
    match flagged(call, fd, flags) {
        Some((target, _pin)) => {
            check_name(address, address_len)?;
            send::send(&target, &mut Segments::one(buffer, len))
        }
        None => forward(call),
    }
}

/// A connected TCP socket ignores a name, but Linux copies it first.
fn check_name(name: usize, len: usize) -> Result<()> {
    if name != 0 && len > 0 {
        UserPtr(name).read::<u8>()?;
    }
    Ok(())
}

pub fn sendmsg(call: &Call) -> Result {
    let [fd, message_at, flags, ..] = call.args;
    let is_known = matches!(Table::of(call.thread.process()).get(fd), Entry::Socket(_));
    if !is_known {
        note_passed_descriptors(call, UserPtr(message_at));
        return forward(call);
    }
    match flagged(call, fd, flags) {
        Some((target, _pin)) => send_message(&target, UserPtr(message_at)),
        None => forward(call),
    }
}

fn send_message(target: &Target, message_at: UserPtr) -> Result {
    let message: MsgHdr = message_at.read()?;
    if message.iov_len > pegasus_abi::socket::UIO_MAXIOV {
        return Err(Errno::EMSGSIZE);
    }
    if message.control != 0 && message.control_len > 0 {
        // TCP has none that is for a ring; what is wrong with it is Linux's to say.
        UserPtr(message.control).read::<u8>()?;
    }
    check_name(message.name, message.name_len as usize)?;
    send::send(target, &mut Segments::read(message.iov, message.iov_len)?)
}

pub fn sendmmsg(call: &Call) -> Result {
    let [fd, messages, count, flags, ..] = call.args;
    let count = (count & 0xffff_ffff).min(pegasus_abi::socket::UIO_MAXIOV);
    let is_known = matches!(Table::of(call.thread.process()).get(fd), Entry::Socket(_));
    if !is_known {
        for index in 0..count {
            let at = UserPtr(messages.wrapping_add(index * size_of::<MMsgHdr>()));
            note_passed_descriptors(call, at);
        }
        return forward(call);
    }
    let Some((target, _pin)) = flagged(call, fd, flags) else {
        return forward(call);
    };
    let mut sent = 0;
    while sent < count {
        let at = UserPtr(messages).offset(sent * size_of::<MMsgHdr>());
        let done = at.and_then(|at| {
            let len = send_message(&target, at)?;
            at.offset(core::mem::offset_of!(MMsgHdr, len))?
                .write(&(len as u32))
        });
        match done {
            Ok(()) => sent += 1,
            Err(errno) if sent == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(sent)
}

/// A message over another kind of socket may pass descriptors on, to whom is not known: their connections go back to Linux.
fn note_passed_descriptors(call: &Call, message_at: UserPtr) {
    const DESCRIPTORS_MAX: usize = 253;
    const HEADER_LEN: usize = 16;
    let Ok(message) = message_at.read::<MsgHdr>() else {
        return;
    };
    if message.control == 0 || message.control_len < HEADER_LEN {
        return;
    }
    let table = Table::of(call.thread.process());
    let mut at = 0;
    while at + HEADER_LEN <= message.control_len {
        let header = UserPtr(message.control).offset(at);
        let Ok([len, kind]) = header.and_then(|header| header.read::<[u64; 2]>()) else {
            return;
        };
        let len = len as usize;
        if len < HEADER_LEN {
            return;
        }
        if kind == u64::from(SCM_RIGHTS) << 32 | SOL_SOCKET as u64 {
            for index in 0..((len - HEADER_LEN) / 4).min(DESCRIPTORS_MAX) {
                let number = UserPtr(message.control).offset(at + HEADER_LEN + 4 * index);
                if let Ok(fd) = number.and_then(|number| number.read::<u32>())
                    && let Entry::Socket(socket) = table.get(fd as usize)
                {
                    returning::hand_over(call.thread, socket, fd as usize);
                }
            }
        }
        at += len.next_multiple_of(8);
    }
}

/// sendfile(2) to a ring: Linux reads the file into memory of the vkernel's, a piece at a time.
pub fn sendfile(call: &Call) -> Result {
    let [out, input, offset_at, count, ..] = call.args;
    let Some((target, _pin)) = target(call, out, 0) else {
        return forward(call);
    };
    if lifecycle::link(target.socket, target.fd).is_none() {
        // Counted, and so in pieces: what is sent now may be the last that Linux carries.
        return returning::counted(&target, || forward(call));
    }
    let is_file = pegasus_host::file::stat(input).is_ok_and(|stat| stat.mode & S_IFMT == S_IFREG);
    if !is_file {
        // From a pipe, or from what Linux refuses.
        returning::keep_kernel(call.thread, target.socket, target.fd);
        return forward(call);
    }
    let mut offset = match offset_at {
        0 => None,
        at => Some(UserPtr(at).read::<u64>()?),
    };
    let mut done = 0;
    let mut piece = [0; 4096];
    while done < count {
        let want = piece.len().min(count - done);
        let buffer = piece.as_mut_ptr() as usize;
        let read = match offset {
            None => forward_as(nr::READ, &[input, buffer, want, 0, 0, 0]),
            Some(at) => forward_as(nr::PREAD64, &[input, buffer, want, at as usize, 0, 0]),
        };
        let len = match read {
            Ok(0) => break,
            Ok(len) => len,
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        };
        let sent = send::send_own(&target, &piece[..len]);
        let moved = *sent.as_ref().unwrap_or(&0);
        done += moved;
        if let Some(at) = &mut offset {
            *at += moved as u64;
        } else if moved < len {
            // What was read and not sent is to be read again.
            let back = moved as isize - len as isize;
            let _ = forward_as(nr::LSEEK, &[input, back as usize, 1, 0, 0, 0]);
        }
        match sent {
            Err(errno) if done == 0 => return Err(errno),
            Ok(moved) if moved == len => {}
            _ => break,
        }
    }
    if let Some(at) = offset {
        UserPtr(offset_at).write(&at)?;
    }
    Ok(done)
}

/// splice(2): between a pipe and a socket, in Linux.
pub fn splice(call: &Call) -> Result {
    let [from, _, to, ..] = call.args;
    if let Some(socket) = socket_of(call, from) {
        returning::hand_over(call.thread, socket, from & 0xffff_ffff);
    }
    if let Some(socket) = socket_of(call, to) {
        returning::keep_kernel(call.thread, socket, to & 0xffff_ffff);
    }
    forward(call)
}
