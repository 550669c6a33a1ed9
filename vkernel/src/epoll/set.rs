//! Sets, their items, and the queue of items that may be ready.

use crate::socket::lifecycle::{Held, Leave, take_as};
use crate::socket::pools::Pooled;
use crate::socket::wake::items_of;
use crate::task::Thread;
use core::sync::atomic::{AtomicU32, Ordering};
use pegasus_abi::poll::EPOLLET;
use pegasus_contract::socket::{ItemRecord, SetRecord, SocketRecord};
use pegasus_sync::{Link, Taken};

/// An item of a set may have become ready. Tells whether somebody sleeps on the set, whom the caller has to wake. The caller has made
/// a full fence since the change.
pub fn note_ready(item: &ItemRecord) -> bool {
    let Some(set) = SetRecord::at(item.set.load(Ordering::Relaxed)) else {
        return false;
    };
    if item.member.load(Ordering::SeqCst) == 0 {
        return false;
    }
    set.queue.put_after_fence(item.index(), &item.link);
    is_slept_on(set)
}

/// Whether somebody sleeps on Linux's set, or may.
pub fn is_slept_on(set: &SetRecord) -> bool {
    set.sleepers.load(Ordering::SeqCst) != 0 || set.watched.load(Ordering::Relaxed) != 0
}

/// Something about a socket has changed that its own process knows and its peer does not.
pub fn note_all_ready(socket: &SocketRecord) {
    let Some(socket) = SocketRecord::at(socket.index()) else {
        return;
    };
    let _held = take_as(&socket.items_claim, Thread::current().claimant());
    for item in items_of(socket) {
        if let Some(set) = SetRecord::at(item.set.load(Ordering::Relaxed)) {
            enqueue(set, item);
        }
    }
}

/// A call has seen that there is something to read, of which the writer may not have come to tell the socket's sets: those that
/// tell by level do from here on, as Linux's would. By edge the writer's word is what counts.
pub fn note_seen(socket: &'static SocketRecord) {
    let is_untold = |item: &&ItemRecord| {
        item.events.load(Ordering::Relaxed) & EPOLLET == 0 && !item.link.is_queued()
    };
    if !items_of(socket).any(|item| is_untold(&item)) {
        return;
    }
    let _held = take_as(&socket.items_claim, Thread::current().claimant());
    for item in items_of(socket).filter(is_untold) {
        if let Some(set) = SetRecord::at(item.set.load(Ordering::Relaxed)) {
            enqueue(set, item);
        }
    }
}

/// Puts an item on its set's queue, unless it is there.
pub fn enqueue(set: &SetRecord, item: &ItemRecord) {
    set.queue.put(item.index(), &item.link);
}

/// Whether something is queued.
pub fn has_queued(set: &SetRecord) -> bool {
    !set.queue.is_empty()
}

fn link_of(index: u32) -> Option<&'static Link> {
    ItemRecord::at(index).map(|item| &item.link)
}

/// Items taken from a set's queue, oldest first.
pub struct Queued(Taken);

impl Queued {
    /// Takes the whole queue. The caller holds the set's claim.
    pub fn take(set: &SetRecord) -> Queued {
        Queued(set.queue.take(ItemRecord::MAX, link_of))
    }

    /// Puts back what has not been looked at.
    pub fn put_back(self, set: &SetRecord) {
        self.0.put_back(&set.queue, link_of);
    }
}

impl Iterator for Queued {
    type Item = &'static ItemRecord;

    /// The next member, which may be queued again from here on. One that has left its set meanwhile is freed.
    fn next(&mut self) -> Option<&'static ItemRecord> {
        loop {
            let item = ItemRecord::at(self.0.next(link_of)?)?;
            if item.member.load(Ordering::SeqCst) != 0 {
                return Some(item);
            }
            release(item, true);
        }
    }
}

/// Adds an item to the lists of its set and socket. The caller holds the set's claim.
pub fn add(
    set: &'static SetRecord,
    item: &'static ItemRecord,
    socket: Option<&'static SocketRecord>,
    holder: u32,
) {
    item.set.store(set.index(), Ordering::Relaxed);
    let first = set.items.load(Ordering::Relaxed);
    item.next_of_set.store(first, Ordering::Relaxed);
    item.member.store(1, Ordering::SeqCst);
    set.items.store(item.index() + 1, Ordering::Relaxed);
    set.items_len.fetch_add(1, Ordering::Relaxed);
    let Some(socket) = socket else { return };
    let _held = take_as(&socket.items_claim, holder);
    let first = socket.items.load(Ordering::Relaxed);
    item.next_of_socket.store(first, Ordering::Relaxed);
    socket.items.store(item.index() + 1, Ordering::SeqCst);
}

/// The member of a set that stands for descriptor `fd` of `socket` (`None`: not a TCP socket).
pub fn find(
    set: &SetRecord,
    fd: usize,
    socket: Option<&'static SocketRecord>,
) -> Option<&'static ItemRecord> {
    let is_it = |item: &&ItemRecord| {
        item.set.load(Ordering::Relaxed) == set.index()
            && item.fd.load(Ordering::Relaxed) as usize == fd
            && item.member.load(Ordering::Relaxed) != 0
    };
    match socket {
        Some(socket) => items_of(socket).find(is_it),
        None => members(set)
            .filter(|item| item.socket.load(Ordering::Relaxed) == 0)
            .find(|item| is_it(item)),
    }
}

/// The items of a set.
pub fn members(set: &SetRecord) -> impl Iterator<Item = &'static ItemRecord> {
    let mut next = set.items.load(Ordering::SeqCst);
    core::iter::from_fn(move || {
        let item = ItemRecord::at(next.checked_sub(1)?)?;
        next = item.next_of_set.load(Ordering::SeqCst);
        Some(item)
    })
    .take(ItemRecord::MAX)
}

/// Takes an item out of a list whose links are given by `next`.
fn unlink(
    first: &AtomicU32,
    item: &ItemRecord,
    next: impl Fn(&'static ItemRecord) -> &'static AtomicU32,
) {
    let number = item.index() + 1;
    let Some(this) = ItemRecord::at(item.index()) else {
        return;
    };
    let after = next(this).load(Ordering::SeqCst);
    if first
        .compare_exchange(number, after, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
    {
        return;
    }
    let mut at = first.load(Ordering::SeqCst);
    for _ in 0..ItemRecord::MAX {
        let Some(before) = at.checked_sub(1).and_then(ItemRecord::at) else {
            return;
        };
        at = next(before).load(Ordering::SeqCst);
        if at == number {
            next(before).store(after, Ordering::SeqCst);
            return;
        }
    }
}

fn leave_socket(item: &'static ItemRecord, holder: u32) {
    let number = item.socket.load(Ordering::Relaxed);
    if let Some(socket) = number.checked_sub(1).and_then(SocketRecord::at) {
        let _held = take_as(&socket.items_claim, holder);
        unlink(&socket.items, item, |item| &item.next_of_socket);
    }
}

fn leave_set(set: &SetRecord, item: &'static ItemRecord) {
    unlink(&set.items, item, |item| &item.next_of_set);
    set.items_len.fetch_sub(1, Ordering::Relaxed);
    item.member.store(0, Ordering::SeqCst);
}

pub fn release(item: &'static ItemRecord, is_certain: bool) {
    // One that is queued is freed by who takes it from there.
    if is_certain && item.link.retire() {
        item.release();
    }
}

/// A socket is gone: its memberships are. Linux has ended its own.
pub fn forget_socket(socket: &'static SocketRecord, is_certain: bool, holder: u32) {
    while let Some(item) = items_of(socket).next() {
        let Some(set) = SetRecord::at(item.set.load(Ordering::Relaxed)) else {
            return;
        };
        let _held = take_as(&set.claim, holder);
        // Its set may have been closed at the same time.
        if item.member.load(Ordering::SeqCst) != 0 {
            leave_set(set, item);
            leave_socket(item, holder);
            release(item, is_certain);
        }
    }
}

/// Takes the set's claim for the calling thread.
pub fn claim(set: &'static SetRecord, thread: &Thread) -> Held {
    take_as(&set.claim, thread.claimant())
}

/// A set for a descriptor of the calling process.
pub fn create() -> Option<&'static SetRecord> {
    let set = SetRecord::claim()?;
    for word in [
        &set.sleepers,
        &set.descriptors,
        &set.pins,
        &set.items,
        &set.items_len,
        &set.watched,
        &set.inherited,
    ] {
        word.store(0, Ordering::Relaxed);
    }
    set.looked_at.store(0, Ordering::Relaxed);
    set.claim.give_back();
    set.tag.store(new_tag(), Ordering::Relaxed);
    set.in_use.store(1, Ordering::Release);
    Some(set)
}

/// Data that no program is likely to have given.
fn new_tag() -> u32 {
    let mut bytes = [0; 4];
    pegasus_host::process::random(&mut bytes);
    u32::from_ne_bytes(bytes) | 1 << 31
}

/// The last descriptor of a set is closed, and with it Linux's set.
pub fn destroy(set: &'static SetRecord, leave: Leave) {
    let holder = leave.holder;
    if set.in_use.swap(0, Ordering::SeqCst) == 0 {
        return;
    }
    let held = take_as(&set.claim, holder);
    let mut is_certain = true;
    while let Some(item) = members(set).next() {
        let certain = detach(set, item, holder);
        is_certain &= certain;
        release(item, certain);
    }
    // Those that have left the set are freed on the way.
    Queued::take(set).for_each(drop);
    drop(held);
    if is_certain && (leave.pins_are_dead || set.pins.load(Ordering::SeqCst) == 0) {
        set.release();
    }
}

/// Keeps a set from being used again while a call uses it.
pub struct Pin(Option<&'static SetRecord>);

impl Pin {
    pub fn new(thread: &Thread, set: &'static SetRecord) -> Pin {
        if thread.process().has_had_one_thread() {
            return Pin(None);
        }
        set.pins.fetch_add(1, Ordering::SeqCst);
        Pin(Some(set))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(set) = self.0
            && set.pins.fetch_sub(1, Ordering::SeqCst) == 1
            && set.in_use.load(Ordering::SeqCst) == 0
        {
            set.release();
        }
    }
}

/// Takes an item out of both lists and waits until no peer looks at it. Tells whether that is certain.
pub fn detach(set: &SetRecord, item: &'static ItemRecord, holder: u32) -> bool {
    leave_set(set, item);
    leave_socket(item, holder);
    let number = item.socket.load(Ordering::Relaxed);
    let link = number
        .checked_sub(1)
        .and_then(SocketRecord::at)
        .and_then(crate::socket::connection::Link::of);
    link.is_none_or(|link| crate::socket::wake::wait_until_unnoticed(&link))
}
