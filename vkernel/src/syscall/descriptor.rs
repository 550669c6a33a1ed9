//! close(2), dup(2), fcntl(2), close_range(2): the vkernel's table follows Linux's.

use crate::entry::Call;
use crate::socket::descriptors::{Entry, Table};
use crate::socket::returning;
use crate::syscall::net::option::set_nonblocking;
use crate::syscall::table::forward;
use pegasus_abi::clone::CLONE_FILES;
use pegasus_abi::fcntl::{
    CLOSE_RANGE_CLOEXEC, CLOSE_RANGE_UNSHARE, F_DUPFD, F_DUPFD_CLOEXEC, F_SETFL, O_CLOEXEC,
    O_NONBLOCK,
};
use pegasus_abi::{Errno, Result, nr};

fn table(call: &Call) -> Table {
    Table::of(call.thread.process())
}

pub fn close(call: &Call) -> Result {
    // Before Linux does, which may give the number out again at once.
    table(call).clear(call.args[0]);
    forward(call)
}

pub fn close_range(call: &Call) -> Result {
    let [first, last, flags, ..] = call.args;
    let (first, last) = (first & 0xffff_ffff, last & 0xffff_ffff);
    let flags = flags & 0xffff_ffff;
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        unshare_descriptors(call);
    }
    let known = CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE;
    if flags & !known != 0 || first > last || flags & CLOSE_RANGE_CLOEXEC != 0 {
        return forward(call);
    }
    let table = table(call);
    for (fd, _) in table.entries() {
        if (first..=last).contains(&fd) {
            table.clear(fd);
        }
    }
    forward(call)
}

/// A thread is about to have a table of Linux's to itself, of which the vkernel knows nothing.
fn unshare_descriptors(call: &Call) {
    if !call.thread.process().has_had_one_thread() {
        returning::keep_all(call.thread);
    }
}

pub fn unshare(call: &Call) -> Result {
    if call.args[0] as u64 & CLONE_FILES != 0 {
        unshare_descriptors(call);
    }
    forward(call)
}

pub fn dup(call: &Call) -> Result {
    let entry = table(call).get(call.args[0]);
    duplicated(call, entry)
}

/// Linux makes a copy of what `entry` stands for.
fn duplicated(call: &Call, entry: Entry) -> Result {
    let fd = forward(call)?;
    if !matches!(entry, Entry::None) {
        table(call).set(fd, entry);
    }
    Ok(fd)
}

/// dup2(2) and dup3(2). Other threads see the new number change hands here first: a call on it that comes in between acts
/// as if it had come before, or after.
pub fn dup2(call: &Call) -> Result {
    let [old, new, ..] = call.args;
    let table = table(call);
    let entry = table.get(old);
    let new = new & 0xffff_ffff;
    let is_wrong = call.nr == nr::DUP3 && call.args[2] & 0xffff_ffff & !O_CLOEXEC != 0;
    let is_nothing = matches!((entry, table.get(new)), (Entry::None, Entry::None));
    let is_open = || pegasus_host::file::descriptor_flags(old).is_ok();
    if old & 0xffff_ffff == new || is_wrong || is_nothing || !is_open() {
        return forward(call);
    }
    if matches!(entry, Entry::None) {
        table.clear(new);
    } else {
        table.set(new, entry);
    }
    let done = forward(call);
    if done.is_err() && done != Err(Errno::ERESTARTSYS) {
        table.clear(new);
    }
    done
}

pub fn fcntl(call: &Call) -> Result {
    let [fd, command, value, ..] = call.args;
    let entry = table(call).get(fd);
    match command & 0xffff_ffff {
        F_DUPFD | F_DUPFD_CLOEXEC => duplicated(call, entry),
        F_SETFL => {
            let done = forward(call)?;
            if let Entry::Socket(socket) = entry {
                set_nonblocking(socket, value & O_NONBLOCK != 0);
            }
            Ok(done)
        }
        _ => forward(call),
    }
}
