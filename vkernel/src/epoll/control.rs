//! epoll_ctl(2).

use crate::entry::Call;
use crate::epoll::set::{self, add, enqueue, find};
use crate::epoll::wait::evaluate;
use crate::socket::connection::Link;
use crate::socket::descriptors::{Entry, Table};
use crate::socket::pools::Pooled;
use crate::socket::{lifecycle, returning, wake};
use crate::syscall::table::{forward, forward_as, note_forwarded};
use crate::task::Thread;
use crate::usermem::UserPtr;
use core::sync::atomic::Ordering;
use pegasus_abi::poll::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT,
    EPOLLWAKEUP, EpollEvent, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP,
};
use pegasus_abi::{Errno, Result};
use pegasus_contract::socket::{ItemRecord, ItemUse, SetRecord, SocketRecord, socket_flags};

/// What may stand beside EPOLLEXCLUSIVE (`EPOLLEXCLUSIVE_OK_BITS`).
const EXCLUSIVE_BITS: u32 =
    POLLIN | POLLOUT | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;

/// In [`ItemRecord::converted`]: Linux's registration is [`FOR_RINGS`].
const REGISTERED_FOR_RINGS: u32 = 1;
/// It is the program's own, which does as well.
const REGISTERED_AS_WANTED: u32 = 2;

/// What Linux watches a ring's socket for: wake-up bytes, and the peer's end.
const FOR_RINGS: u32 = POLLIN | POLLRDHUP | EPOLLET;

/// One epoll_ctl(2).
struct Request<'a> {
    call: &'a Call,
    set_fd: usize,
    operation: usize,
    fd: usize,
    event_at: usize,
}

/// epoll_create(2). A thread may wait on the set before there is a socket in it.
pub fn epoll_create(call: &Call) -> Result {
    let fd = forward(call)?;
    let table = Table::of(call.thread.process());
    if table.has_room_for(fd)
        && !call.thread.process().keeps_kernel_sockets()
        && let Some(set) = set::create()
    {
        table.set(fd, Entry::Set(set));
    }
    Ok(fd)
}

pub fn epoll_ctl(call: &Call) -> Result {
    // Linux may have something to tell of the member.
    note_forwarded();
    let [set_fd, operation, fd, event_at, ..] = call.args;
    let request = Request {
        call,
        set_fd: set_fd & 0xffff_ffff,
        operation: operation & 0xffff_ffff,
        fd: fd & 0xffff_ffff,
        event_at,
    };
    let table = Table::of(call.thread.process());
    let socket = match table.get(request.fd) {
        Entry::Socket(socket) if may_be_linked(socket) => Some(socket),
        Entry::Set(inner) => {
            inner.watched.store(1, Ordering::SeqCst);
            None
        }
        _ => None,
    };
    match table.get(request.set_fd) {
        Entry::Set(set) => change(&request, set, socket),
        // Not made before the vkernel's eyes: the socket stays Linux's.
        _ => {
            if let Some(socket) = socket {
                returning::keep_kernel(call.thread, socket, request.fd);
            }
            forward(call)
        }
    }
}

fn may_be_linked(socket: &SocketRecord) -> bool {
    let flags = socket.flags.load(Ordering::Relaxed);
    let has_items = socket.items.load(Ordering::Relaxed) != 0;
    flags & socket_flags::LISTENING == 0 || has_items
}

fn change(
    request: &Request,
    set: &'static SetRecord,
    socket: Option<&'static SocketRecord>,
) -> Result {
    let event = if request.operation == EPOLL_CTL_DEL {
        EpollEvent::default()
    } else {
        UserPtr(request.event_at).read()?
    };
    let _pin = set::Pin::new(request.call.thread, set);
    let held = set::claim(set, request.call.thread);
    let found = find(set, request.fd, socket);
    let is_parked =
        |item: &&ItemRecord| item.item_use.load(Ordering::Relaxed) == ItemUse::Parked as u32;
    let parked = found.filter(is_parked);
    let item = found.filter(|item| !is_parked(item));
    let data = event.data;
    let is_ours = data >> 32 == u64::from(set.tag.load(Ordering::Relaxed));
    match (request.operation, item) {
        (EPOLL_CTL_ADD, None) if parked.is_some_and(|_| is_plain(&event)) => {
            let item = parked.ok_or(Errno::ENOENT)?;
            store_request(item, &event);
            make_ready(request, set, item);
            Ok(0)
        }
        (EPOLL_CTL_MOD | EPOLL_CTL_DEL, None) if parked.is_some() => Err(Errno::ENOENT),
        (EPOLL_CTL_DEL, Some(item)) if can_be_parked(item) => {
            item.item_use
                .store(ItemUse::Parked as u32, Ordering::Relaxed);
            Ok(0)
        }
        (EPOLL_CTL_ADD, None) if socket.is_some() || is_ours => {
            if let Some(item) = parked {
                forget_parked(request.set_fd, set, item, request.call.thread);
            }
            add_item(request, set, socket, &event)
        }
        (EPOLL_CTL_MOD, Some(item)) => change_item(request, set, item, &event),
        (EPOLL_CTL_MOD, None) if is_ours => Err(Errno::ENOENT),
        (EPOLL_CTL_DEL, Some(item)) => {
            let done = forward(request.call);
            if done.is_ok() {
                let holder = request.call.thread.claimant();
                let is_certain = set::detach(set, item, holder);
                set::release(item, is_certain);
            }
            done
        }
        // A descriptor of Linux's alone; or Linux knows best what is wrong.
        _ => {
            drop(held);
            forward(request.call)
        }
    }
}

/// Whether Linux's registration for rings does for what the program asks.
fn is_plain(event: &EpollEvent) -> bool {
    event.events & EPOLLEXCLUSIVE == 0
}

/// One that Linux watches for wake-up bytes only, whatever the program wants.
fn can_be_parked(item: &ItemRecord) -> bool {
    let wanted = item.events.load(Ordering::Relaxed);
    item.converted.load(Ordering::Relaxed) == REGISTERED_FOR_RINGS && wanted & EPOLLEXCLUSIVE == 0
}

/// Bits of an item's number in the data of its registration; above them is the use of the record.
const NUMBER_BITS: u32 = ItemRecord::MAX.ilog2();
const _: () = assert!(ItemRecord::MAX.is_power_of_two());

/// The data of Linux's registration of an item.
pub fn data_of(set: &SetRecord, item: &ItemRecord) -> u64 {
    let uses = item.uses.load(Ordering::Relaxed);
    let number = uses << NUMBER_BITS | item.index();
    u64::from(set.tag.load(Ordering::Relaxed)) << 32 | u64::from(number)
}

/// Whom Linux's data stands for.
pub enum Reported {
    Item(&'static ItemRecord),
    /// An item that has left the set since Linux spoke of it.
    Gone,
    /// A member that the vkernel does not know: the data is the program's own.
    Other,
}

/// Whom Linux's data stands for.
pub fn reported(set: &SetRecord, data: u64) -> Reported {
    if data >> 32 != u64::from(set.tag.load(Ordering::Relaxed)) {
        return Reported::Other;
    }
    let index = data as u32 & ((1 << NUMBER_BITS) - 1);
    let is_it = |item: &&ItemRecord| {
        item.set.load(Ordering::Relaxed) == set.index()
            && item.member.load(Ordering::SeqCst) != 0
            && data_of(set, item) == data
    };
    ItemRecord::at(index)
        .filter(is_it)
        .map_or(Reported::Gone, Reported::Item)
}

fn store_request(item: &ItemRecord, event: &EpollEvent) {
    item.events.store(event.events, Ordering::Relaxed);
    item.data.store(event.data, Ordering::Relaxed);
    item.told.store(0, Ordering::Relaxed);
    item.item_use
        .store(ItemUse::Armed as u32, Ordering::Relaxed);
}

fn add_item(
    request: &Request,
    set: &'static SetRecord,
    socket: Option<&'static SocketRecord>,
    event: &EpollEvent,
) -> Result {
    if event.events & EPOLLEXCLUSIVE != 0 && event.events & !EXCLUSIVE_BITS != 0 {
        return Err(Errno::EINVAL);
    }
    let item = ItemRecord::claim().ok_or(Errno::ENOMEM)?;
    let number = socket.map_or(0, |socket| socket.index() + 1);
    item.socket.store(number, Ordering::Relaxed);
    item.fd.store(request.fd as u32, Ordering::Relaxed);
    item.converted.store(0, Ordering::Relaxed);
    item.uses.fetch_add(1, Ordering::Relaxed);
    item.link.reset();
    store_request(item, event);
    let link = socket.and_then(|socket| {
        let link = lifecycle::link(socket, request.fd)?;
        Some((socket, link))
    });
    if let Some((socket, link)) = &link {
        // A wake-up byte of old would be reported as news.
        wake::quiet_if_ring(request.call.thread, socket, link, request.fd);
        item.converted
            .store(REGISTERED_FOR_RINGS, Ordering::Relaxed);
        set.in_use.store(2, Ordering::Relaxed);
    }
    // Known before Linux can speak of it.
    let holder = request.call.thread.claimant();
    add(set, item, socket, holder);
    let registered = EpollEvent {
        events: match link {
            // Linux has no EPOLLRDHUP with EPOLLEXCLUSIVE; the peer's end is readable as well.
            Some(_) if event.events & EPOLLEXCLUSIVE != 0 => {
                FOR_RINGS & !POLLRDHUP | EPOLLEXCLUSIVE
            }
            Some(_) => FOR_RINGS,
            None => event.events,
        },
        data: data_of(set, item),
    };
    let done = control(request.set_fd, EPOLL_CTL_ADD, request.fd, &registered);
    if done.is_err() {
        let is_certain = set::detach(set, item, holder);
        set::release(item, is_certain);
        return done;
    }
    // A peer that has linked the two meanwhile has not seen the item, and Linux's set does not see the ring.
    let is_linked = || socket.and_then(Link::of).is_some();
    if link.is_some() || is_linked() {
        make_ready(request, set, item);
    }
    done
}

fn change_item(
    request: &Request,
    set: &'static SetRecord,
    item: &'static ItemRecord,
    event: &EpollEvent,
) -> Result {
    let exclusive = (item.events.load(Ordering::Relaxed) | event.events) & EPOLLEXCLUSIVE;
    if exclusive != 0 {
        return Err(Errno::EINVAL);
    }
    if item.converted.load(Ordering::Relaxed) == 0 {
        // What another thread has in hand of Linux's is old from here on: Linux looks anew.
        item.uses.fetch_add(1, Ordering::Relaxed);
        let registered = EpollEvent {
            events: event.events,
            data: data_of(set, item),
        };
        let done = control(request.set_fd, EPOLL_CTL_MOD, request.fd, &registered);
        if done.is_err() {
            item.uses.fetch_sub(1, Ordering::Relaxed);
            return done;
        }
    }
    store_request(item, event);
    make_ready(request, set, item);
    Ok(0)
}

/// Queues an item, and wakes somebody who sleeps on the set.
fn make_ready(request: &Request, set: &'static SetRecord, item: &'static ItemRecord) {
    let set_fd = request.set_fd;
    // First: who goes to sleep after the look at the sleepers finds it queued.
    enqueue(set, item);
    // Nobody shall be woken for nothing, least of all who watches the set from outside.
    if set::is_slept_on(set)
        && evaluate(request.call.thread, set, set_fd, item).is_some_and(|events| events != 0)
    {
        wake_sleeper(set_fd, set, item);
    }
}

/// Lets Linux report `item` once more: a socket can be written, so asking for that is answered at once.
pub fn wake_sleeper(set_fd: usize, set: &SetRecord, item: &ItemRecord) {
    if item.converted.load(Ordering::Relaxed) == 0 {
        return;
    }
    let event = EpollEvent {
        events: FOR_RINGS | POLLOUT,
        data: data_of(set, item),
    };
    let fd = item.fd.load(Ordering::Relaxed) as usize;
    let _ = pegasus_host::socket::control_set(set_fd, EPOLL_CTL_MOD, fd, &event);
}

/// From now on Linux watches the item's socket for wake-up bytes only.
pub fn convert(set_fd: usize, set: &SetRecord, item: &ItemRecord) {
    let wanted = item.events.load(Ordering::Relaxed);
    let others = EPOLLONESHOT | EPOLLEXCLUSIVE;
    if wanted & (POLLIN | EPOLLET | others) == POLLIN | EPOLLET {
        // As good: and a change would make Linux report once more what it has reported.
        item.converted
            .store(REGISTERED_AS_WANTED, Ordering::Relaxed);
        set.in_use.store(2, Ordering::Relaxed);
        return;
    }
    let event = EpollEvent {
        events: FOR_RINGS,
        data: data_of(set, item),
    };
    if register(set_fd, item, &event) {
        item.converted
            .store(REGISTERED_FOR_RINGS, Ordering::Relaxed);
        set.in_use.store(2, Ordering::Relaxed);
    }
}

/// From now on Linux watches the item's socket for what the program wants.
pub fn restore(set_fd: usize, set: &SetRecord, item: &'static ItemRecord, thread: &Thread) {
    let item_use = item.item_use.load(Ordering::Relaxed);
    if item_use == ItemUse::Parked as u32 {
        // Linux would tell of its end for ever.
        forget_parked(set_fd, set, item, thread);
        return;
    }
    let spent = item_use == ItemUse::Spent as u32;
    let wanted = item.events.load(Ordering::Relaxed);
    let event = EpollEvent {
        // Errors are always reported; by edge, so that nobody is woken for them for ever.
        events: if spent { EPOLLET } else { wanted },
        data: data_of(set, item),
    };
    if register(set_fd, item, &event) {
        item.converted.store(0, Ordering::Relaxed);
    }
}

/// Takes an item out of Linux's set as well that the program has taken out.
fn forget_parked(set_fd: usize, set: &SetRecord, item: &'static ItemRecord, thread: &Thread) {
    let fd = item.fd.load(Ordering::Relaxed) as usize;
    let none = EpollEvent::default();
    let _ = pegasus_host::socket::control_set(set_fd, EPOLL_CTL_DEL, fd, &none);
    let is_certain = set::detach(set, item, thread.claimant());
    set::release(item, is_certain);
}

/// Changes Linux's registration. An exclusive one can only be made anew.
fn register(set_fd: usize, item: &ItemRecord, event: &EpollEvent) -> bool {
    use pegasus_host::socket::control_set;
    let fd = item.fd.load(Ordering::Relaxed) as usize;
    if item.events.load(Ordering::Relaxed) & EPOLLEXCLUSIVE == 0 {
        return control_set(set_fd, EPOLL_CTL_MOD, fd, event).is_ok();
    }
    let _ = control_set(set_fd, EPOLL_CTL_DEL, fd, event);
    let event = EpollEvent {
        events: event.events & !POLLRDHUP | EPOLLEXCLUSIVE,
        ..*event
    };
    control_set(set_fd, EPOLL_CTL_ADD, fd, &event).is_ok()
}

fn control(set_fd: usize, operation: usize, fd: usize, event: &EpollEvent) -> Result {
    let args = [set_fd, operation, fd, &raw const *event as usize, 0, 0];
    forward_as(pegasus_abi::nr::EPOLL_CTL, &args)
}
