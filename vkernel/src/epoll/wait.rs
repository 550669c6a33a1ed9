//! epoll_wait(2) and its kin, for sets that have TCP sockets in them.

use crate::deadline::Deadline;
use crate::entry::Call;
use crate::epoll::control::{Reported, convert, reported, restore, wake_sleeper};
use crate::epoll::set::{self, Queued, enqueue, has_queued};
use crate::schedule::away::is_away;
use crate::signal::{KEPT, was_let_in};
use crate::socket::connection::{Link, Source};
use crate::socket::descriptors::{Entry, Table};
use crate::socket::pools::Pooled;
use crate::socket::receive::note_kernel_events;
use crate::socket::wait::{self, cycles};
use crate::socket::{lifecycle, readiness, wake};
use crate::syscall::table::forward_as;
use crate::task::Thread;
use crate::usermem::UserPtr;
use core::sync::atomic::{Ordering, fence};
use pegasus_abi::poll::{
    EPOLLET, EPOLLONESHOT, EpollEvent, POLLERR, POLLHUP, POLLOUT, POLLWRNORM, Timespec,
};
use pegasus_abi::signal::SigSet;
use pegasus_abi::{Errno, Result, nr};
use pegasus_contract::socket::{ItemRecord, ItemUse, SetRecord, SocketRecord, socket_flags};

/// A busy set looks at Linux's set at least this often, in cycles: 25 to 50 µs.
pub const LOOK_AT_KERNEL_CYCLES: u64 = 100_000;
/// The same while a worker runs the thread, which comes home to look: a millisecond or two.
const LOOK_AT_KERNEL_CYCLES_AWAY: u64 = 4_000_000;
/// In [`Wait::items`]: a descriptor of Linux's alone.
const NO_ITEM: u32 = u32::MAX;
/// Most events that one call gives.
const BATCH_MAX: usize = 64;

/// One wait.
struct Wait<'a> {
    thread: &'static Thread,
    set: &'static SetRecord,
    set_fd: usize,
    events_at: usize,
    events_max: usize,
    timeout: Option<Timespec>,
    /// Only counted once it matters.
    deadline: Option<Deadline>,
    is_immediate: bool,
    /// The timeout is finer than milliseconds.
    is_fine: bool,
    mask: Option<&'a SigSet>,
    given: usize,
    /// The item behind each event given: one is not given twice.
    items: [u32; BATCH_MAX],
    /// An item that was given, by which a neighbour can be woken.
    last: Option<&'static ItemRecord>,
    has_faulted: bool,
}

/// The wait of `call` on `set`. `timeout`: `None` for ever. `mask`: the one to wait with.
pub fn epoll_wait(
    call: &Call,
    set: &'static SetRecord,
    timeout: Option<Timespec>,
    mask: Option<&SigSet>,
) -> Result {
    const EVENTS_MAX: usize = i32::MAX as usize / size_of::<EpollEvent>();
    let [set_fd, events_at, events_max, ..] = call.args;
    let events_max = events_max as i32;
    if events_max <= 0 || events_max as usize > EVENTS_MAX {
        return Err(Errno::EINVAL);
    }
    let _pin = set::Pin::new(call.thread, set);
    let mut wait = Wait {
        thread: call.thread,
        set,
        set_fd: set_fd & 0xffff_ffff,
        events_at,
        events_max: (events_max as usize).min(BATCH_MAX),
        timeout,
        deadline: None,
        is_immediate: timeout.is_some_and(|timeout| timeout.sec == 0 && timeout.nsec == 0),
        is_fine: call.nr == nr::EPOLL_PWAIT2,
        mask,
        given: 0,
        items: [NO_ITEM; BATCH_MAX],
        last: None,
        has_faulted: false,
    };
    wait.run()
}

impl Wait<'_> {
    fn run(&mut self) -> Result {
        loop {
            // Before the look: what is ready goes first.
            let has_signal = self.thread.has_pending();
            self.collect();
            if self.is_time_to_look(has_signal) {
                self.look_at_kernel()?;
            }
            if self.given > 0 || self.has_faulted {
                return self.finish();
            }
            if self.is_immediate {
                return Ok(0);
            }
            if has_signal {
                return Err(Errno::ERESTARTNOHAND);
            }
            let set = self.set;
            let has_rings = set.in_use.load(Ordering::Relaxed) == 2;
            let begin = cycles();
            if has_rings && wait::look(self.thread, self.deadline(), || has_queued(set)) {
                continue;
            }
            if let Some(result) = self.sleep(has_rings.then_some(begin)) {
                return result;
            }
        }
    }

    fn deadline(&mut self) -> Deadline {
        let timeout = self.timeout;
        *self.deadline.get_or_insert_with(|| match timeout {
            None => Deadline::NEVER,
            Some(time) => Deadline::after(
                (time.sec as u64)
                    .saturating_mul(1_000_000_000)
                    .saturating_add(time.nsec as u64),
            ),
        })
    }

    fn finish(&mut self) -> Result {
        // Like Linux, which wakes the next waiter while its ready list is not empty.
        if let Some(item) = self.last
            && has_queued(self.set)
            && self.set.sleepers.load(Ordering::SeqCst) != 0
        {
            wake_sleeper(self.set_fd, self.set, item);
        }
        if self.given == 0 {
            return Err(Errno::EFAULT);
        }
        Ok(self.given)
    }

    fn has_room(&self) -> bool {
        self.given < self.events_max && !self.has_faulted
    }

    fn give(&mut self, events: u32, data: u64, item: u32) {
        let at = self.events_at + self.given * size_of::<EpollEvent>();
        self.items[self.given] = item;
        match UserPtr(at).write(&EpollEvent { events, data }) {
            Ok(()) => self.given += 1,
            Err(_) => self.has_faulted = true,
        }
    }

    /// Gives what is ready of the queue.
    fn collect(&mut self) {
        // Another thread may have taken the queue, and be about to put back what it has no room for.
        let may_have_some = has_queued(self.set) || self.set.claim.is_taken();
        if !may_have_some || !self.has_room() {
            return;
        }
        let held = set::claim(self.set, self.thread);
        let given_before = self.given;
        // Queued again behind those that there was no room for: nobody starves.
        let mut again = [0; BATCH_MAX];
        let mut again_len = 0;
        let mut queued = Queued::take(self.set);
        while self.has_room()
            && let Some(item) = queued.next()
        {
            if self.items[..given_before].contains(&item.index()) {
                again[again_len] = item.index();
                again_len += 1;
                continue;
            }
            let Some(events) = self.evaluate(item).filter(|&events| events != 0) else {
                continue;
            };
            let wanted = item.events.load(Ordering::Relaxed);
            if wanted & EPOLLONESHOT != 0 {
                item.item_use
                    .store(ItemUse::Spent as u32, Ordering::Relaxed);
            } else if wanted & EPOLLET == 0 {
                again[again_len] = item.index();
                again_len += 1;
            }
            self.give(events, item.data.load(Ordering::Relaxed), item.index());
            self.last = Some(item);
        }
        queued.put_back(self.set);
        for item in again[..again_len]
            .iter()
            .filter_map(|&item| ItemRecord::at(item))
        {
            enqueue(self.set, item);
        }
        drop(held);
        if self.set.watched.load(Ordering::Relaxed) != 0
            && let Some(item) = self.last
            && again_len > 0
        {
            // Who watches this set from outside shall see that it is still ready.
            wake_sleeper(self.set_fd, self.set, item);
        }
    }

    /// The events of an item that the program wants. `None`: Linux's to tell.
    fn evaluate(&self, item: &'static ItemRecord) -> Option<u32> {
        evaluate(self.thread, self.set, self.set_fd, item)
    }

    fn is_time_to_look(&self, has_signal: bool) -> bool {
        // Whoever asks and does not wait is told all there is: what it has changed itself it knows of. It cannot have changed anything
        // without a call.
        let is_last_chance =
            self.given == 0 && (self.is_immediate || has_signal) && !self.is_up_to_date();
        let looked_at = self.set.looked_at.load(Ordering::Relaxed);
        let has_rings = self.set.in_use.load(Ordering::Relaxed) == 2;
        let cycles_max = if is_away(self.thread) {
            LOOK_AT_KERNEL_CYCLES_AWAY
        } else {
            LOOK_AT_KERNEL_CYCLES
        };
        let is_long_ago = cycles().wrapping_sub(looked_at) > cycles_max || !has_rings;
        // Whoever watches this set from outside shall not be told of it again.
        let is_watched = self.set.watched.load(Ordering::Relaxed) != 0;
        let is_due = is_long_ago && (self.given > 0 || self.is_immediate);
        self.has_room() && (is_watched || is_last_chance || is_due)
    }

    /// Nobody in the process has asked Linux for anything since the caller has looked at Linux's set.
    fn is_up_to_date(&self) -> bool {
        let (set, calls) = self.thread.last_look.get();
        set == &raw const *self.set as usize && calls == self.thread.process().calls_of_linux()
    }

    fn note_look(&self) {
        self.set.looked_at.store(cycles(), Ordering::Relaxed);
        let calls = self.thread.process().calls_of_linux();
        let set = &raw const *self.set as usize;
        self.thread.last_look.set((set, calls));
    }

    fn look_at_kernel(&mut self) -> Result<()> {
        // Before: what comes meanwhile is for the next look.
        self.note_look();
        let mut events = [EpollEvent::default(); BATCH_MAX];
        let room = self.events_max - self.given;
        let len = pegasus_host::socket::ready_in_set(self.set_fd, &mut events[..room])?;
        self.take_from_kernel(&events[..len]);
        Ok(())
    }

    /// Gives what Linux has reported, and what that makes ready.
    fn take_from_kernel(&mut self, events: &[EpollEvent]) {
        for event in events {
            let (bits, data) = (event.events, event.data);
            match reported(self.set, data) {
                Reported::Other => self.give(bits, data, NO_ITEM),
                Reported::Gone => {}
                Reported::Item(item) if self.is_ring(item, bits) => {}
                Reported::Item(item) if self.items[..self.given].contains(&item.index()) => {}
                Reported::Item(item) => self.give_of_kernel(item, data, bits),
            }
        }
        self.collect();
    }

    /// Gives what Linux has reported of an item, under `data`.
    fn give_of_kernel(&mut self, item: &'static ItemRecord, data: u64, bits: u32) {
        let wanted = item.events.load(Ordering::Relaxed);
        item.told.store(1, Ordering::Relaxed);
        if wanted & EPOLLONESHOT == 0 {
            return self.give(bits, item.data.load(Ordering::Relaxed), item.index());
        }
        let _held = set::claim(self.set, self.thread);
        // Another thread may have told of it, or may just have asked anew.
        let is_armed = item.item_use.load(Ordering::Relaxed) == ItemUse::Armed as u32;
        if is_armed && matches!(reported(self.set, data), Reported::Item(_)) {
            // Else it would be told again by the ring, if the connection gets one now.
            item.item_use
                .store(ItemUse::Spent as u32, Ordering::Relaxed);
            self.give(bits, item.data.load(Ordering::Relaxed), item.index());
        }
    }

    /// Whether an item that Linux has reported is for [`evaluate`] to judge; then it is queued, if that is news.
    fn is_ring(&self, item: &'static ItemRecord, bits: u32) -> bool {
        let Some(socket) = socket_of(item) else {
            return false;
        };
        let is_converted = item.converted.load(Ordering::Relaxed) != 0;
        let is_retired = socket.flags.load(Ordering::Relaxed) & socket_flags::RETIRED != 0;
        match Link::of(socket) {
            Some(link) if is_converted => {
                let fd = item.fd.load(Ordering::Relaxed) as usize;
                let is_news = note_kernel_events(socket, &link, fd, bits);
                let received = socket.kernel_received.load(Ordering::Relaxed);
                // What is in the ring its writer has put on the queue.
                let is_ring = link.source(received) == Source::Ring;
                wake::quiet_if_ring(self.thread, socket, &link, fd);
                if is_news || !is_ring {
                    enqueue(self.set, item);
                }
                true
            }
            Some(link) if !is_retired => {
                // News of Linux's, to be told: so converted before it is judged.
                let fd = item.fd.load(Ordering::Relaxed) as usize;
                note_kernel_events(socket, &link, fd, bits);
                let _held = set::claim(self.set, self.thread);
                convert(self.set_fd, self.set, item);
                enqueue(self.set, item);
                true
            }
            _ => false,
        }
    }

    /// Sleeps in Linux. `Some`: the call is over.
    fn sleep(&mut self, waits_since: Option<u64>) -> Option<Result> {
        self.set.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if has_queued(self.set) {
            self.set.sleepers.fetch_sub(1, Ordering::SeqCst);
            return None;
        }
        let mut events = [EpollEvent::default(); BATCH_MAX];
        // A set without rings comes back only when the wait is over.
        let left = match &mut self.deadline {
            Some(deadline) => {
                deadline.settle();
                deadline.left()
            }
            None => self.timeout,
        };
        let done = self.wait_in_kernel(&mut events, left);
        self.set.sleepers.fetch_sub(1, Ordering::SeqCst);
        self.set.looked_at.store(cycles(), Ordering::Relaxed);
        if let Some(begin) = waits_since {
            wait::learn(self.thread, begin);
        }
        match done {
            Ok(0) => {
                self.collect();
                let is_over =
                    self.given > 0 || self.deadline.is_none_or(|deadline| deadline.is_over());
                is_over.then_some(Ok(self.given))
            }
            Ok(len) => {
                self.take_from_kernel(&events[..len]);
                // Linux would report again what has been given.
                (self.given > 0 || self.has_faulted).then(|| self.finish())
            }
            // Not made at all.
            Err(Errno::ERESTARTSYS) => None,
            Err(Errno::EINTR) => {
                // Linux looked once more before it gave up, and so does this; but a signal that only the mask let in
                // has to be seen to have ended the wait.
                if !was_let_in(self.thread, self.mask) {
                    self.collect();
                    if self.given > 0 || self.has_faulted {
                        return Some(self.finish());
                    }
                }
                if let Some(mask) = self.mask
                    && self.thread.stash().valid
                {
                    self.thread.note_waiting_mask(*mask);
                }
                Some(Err(Errno::ERESTARTNOHAND))
            }
            Err(errno) => Some(Err(errno)),
        }
    }

    fn wait_in_kernel(&self, events: &mut [EpollEvent], left: Option<Timespec>) -> Result {
        // The program's own call where it can be: a policy may know epoll_pwait2(2) only if the program does.
        let (nr, timeout) = if self.is_fine {
            let at = left.as_ref().map_or(0, |left| &raw const *left as usize);
            (nr::EPOLL_PWAIT2, at)
        } else {
            (nr::EPOLL_PWAIT, left.map_or(usize::MAX, milliseconds_up))
        };
        let mask = self.mask.map(|mask| mask & !KEPT);
        let mask_at = mask.as_ref().map_or(0, |mask| &raw const *mask as usize);
        let args = [
            self.set_fd,
            events.as_mut_ptr() as usize,
            self.events_max,
            timeout,
            mask_at,
            size_of::<SigSet>(),
        ];
        forward_as(nr, &args)
    }
}

/// Not to come back before the time.
fn milliseconds_up(time: Timespec) -> usize {
    let ms = time.sec.saturating_mul(1000) + (time.nsec + 999_999) / 1_000_000;
    ms.clamp(0, i64::from(i32::MAX)) as usize
}

fn socket_of(item: &ItemRecord) -> Option<&'static SocketRecord> {
    SocketRecord::at(item.socket.load(Ordering::Relaxed).checked_sub(1)?)
}

/// The events of an item that the program wants. `None`: Linux's to tell.
pub fn evaluate(
    thread: &Thread,
    set: &'static SetRecord,
    set_fd: usize,
    item: &'static ItemRecord,
) -> Option<u32> {
    let socket = socket_of(item)?;
    let fd = item.fd.load(Ordering::Relaxed) as usize;
    // The number may have become another one's, while a copy of it keeps the membership.
    match Table::of(thread.process()).get(fd) {
        Entry::Socket(present) if core::ptr::eq(present, socket) => {}
        _ => return None,
    }
    let wanted = item.events.load(Ordering::Relaxed);
    let link = lifecycle::link(socket, fd);
    let events = link.and_then(|link| {
        if item.converted.load(Ordering::Relaxed) == 0 {
            convert(set_fd, set, item);
            let was_told = item.told.load(Ordering::Relaxed) != 0;
            if wanted & EPOLLET != 0
                && was_told
                && link.incoming().0.is_empty()
                && link.their_end() == 0
            {
                // Of all there is to tell.
                return Some(0);
            }
        }
        if item.item_use.load(Ordering::Relaxed) != ItemUse::Armed as u32 {
            return Some(0);
        }
        let wants_room = wanted & (POLLOUT | POLLWRNORM) != 0;
        readiness::events(thread, socket, &link, fd, wants_room)
    });
    if events.is_none() && item.converted.load(Ordering::Relaxed) != 0 {
        restore(set_fd, set, item, thread);
    }
    Some(events? & (wanted | POLLERR | POLLHUP))
}

/// Whether an epoll_wait(2) on the set would give something that Linux's set does not know of.
pub fn is_ready(thread: &Thread, set: &'static SetRecord, set_fd: usize) -> bool {
    let _held = set::claim(set, thread);
    let mut is_ready = false;
    for item in Queued::take(set) {
        if evaluate(thread, set, set_fd, item).is_some_and(|events| events != 0) {
            is_ready = true;
            enqueue(set, item);
            if set.sleepers.load(Ordering::SeqCst) != 0 {
                // It may have gone to sleep while the queue was empty.
                wake_sleeper(set_fd, set, item);
            }
        }
    }
    is_ready
}
