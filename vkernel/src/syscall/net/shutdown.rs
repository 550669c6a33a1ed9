//! shutdown(2).
//!
//! Linux's connection stays open for wake-up bytes until the socket is closed; that this end writes no more is said in memory.

use crate::entry::Call;
use crate::socket::{lifecycle, wake};
use crate::syscall::net::target;
use crate::syscall::table::forward;
use core::sync::atomic::Ordering;
use pegasus_abi::socket::{SHUT_RD, SHUT_RDWR, SHUT_WR};
use pegasus_abi::{Errno, Result};
use pegasus_contract::socket::{EndState, socket_flags};

pub fn shutdown(call: &Call) -> Result {
    let [fd, how, ..] = call.args;
    let how = how & 0xffff_ffff;
    let Some((target, _pin)) = target(call, fd, 0) else {
        return forward(call);
    };
    let Some(link) = lifecycle::link(target.socket, target.fd) else {
        // Linux's half-close must not come between bytes of a ring: from here on it stays Linux's.
        crate::socket::directory::give_up(target.socket);
        return match lifecycle::link(target.socket, target.fd) {
            None => forward(call),
            Some(_) => shutdown(call),
        };
    };
    if how > SHUT_RDWR {
        return Err(Errno::EINVAL);
    }
    let socket = target.socket;
    let flags = socket.flags.load(Ordering::SeqCst);
    let peer_ended = link.their_end() != EndState::Open as u32;
    if flags & socket_flags::WRITE_SHUT != 0 && peer_ended {
        // Both halves have ended: TCP_CLOSE, or TIME_WAIT.
        return Err(Errno::ENOTCONN);
    }
    if how != SHUT_RD {
        let _held = lifecycle::take(&socket.send_claim, call.thread);
        if link.returning() != 0 {
            crate::socket::send::return_mine(socket, &link, target.fd);
        }
        socket
            .flags
            .fetch_or(socket_flags::WRITE_SHUT, Ordering::SeqCst);
        let _ = link.mine().ended.compare_exchange(
            EndState::Open as u32,
            EndState::Finished as u32,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        if link.mine().returned.load(Ordering::SeqCst) != 0 {
            let _ = pegasus_host::socket::shut_down(target.fd, SHUT_WR);
        }
        wake::peer(&link, target.fd, wake::EITHER);
    }
    if how != SHUT_WR {
        socket
            .flags
            .fetch_or(socket_flags::READ_SHUT, Ordering::SeqCst);
        // Wakes this end's own sleepers; the peer sees nothing of it.
        let _ = pegasus_host::socket::shut_down(target.fd, SHUT_RD);
    }
    crate::epoll::set::note_all_ready(socket);
    Ok(0)
}
