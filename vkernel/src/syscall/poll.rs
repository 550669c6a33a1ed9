//! poll(2), ppoll(2), select(2), pselect6(2): Linux's own, unless a socket with a ring is among the descriptors.

use crate::deadline::Deadline;
use crate::entry::Call;
use crate::epoll::set::note_seen;
use crate::signal::{KEPT, was_let_in};
use crate::socket::connection::Link;
use crate::socket::descriptors::{Entry, Table};
use crate::socket::receive::{look_now_and_then, note_kernel_events};
use crate::socket::wait;
use crate::socket::{lifecycle, readiness, wake};
use crate::syscall::table::{forward, forward_as};
use crate::task::Thread;
use crate::usermem::UserPtr;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use pegasus_abi::poll::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDHUP, POLLRDNORM, POLLWRNORM,
    PollFd, Timespec,
};
use pegasus_abi::signal::SigSet;
use pegasus_abi::{Errno, Result, nr};
use pegasus_contract::socket::{SetRecord, SocketRecord};
use pegasus_sync::Bell;

/// A descriptor of a poll that Linux alone cannot judge.
struct Known {
    at: usize,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Socket(&'static SocketRecord),
    Set(&'static SetRecord),
}

/// How long to wait, and with which mask.
struct Terms<'a> {
    deadline: Cell<Deadline>,
    is_immediate: bool,
    mask: Option<&'a SigSet>,
}

impl Terms<'_> {
    fn new(ns: Option<u64>) -> Self {
        Terms {
            deadline: Cell::new(match ns {
                None | Some(0) => Deadline::NEVER,
                Some(ns) => Deadline::after(ns),
            }),
            is_immediate: ns == Some(0),
            mask: None,
        }
    }

    /// See [`Deadline::settle`].
    fn settle(&self) {
        let mut deadline = self.deadline.get();
        deadline.settle();
        self.deadline.set(deadline);
    }
}

fn ns_of(time: &Timespec) -> Result<u64> {
    if time.sec < 0 || !(0..1_000_000_000).contains(&time.nsec) {
        return Err(Errno::EINVAL);
    }
    Ok((time.sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.nsec as u64))
}

/// Whether any of the caller's descriptors below `end` is known: most processes have none, and are not slowed down.
fn knows_any(call: &Call) -> bool {
    Table::of(call.thread.process()).entries().next().is_some()
}

fn known_of(thread: &Thread, fds: &[PollFd]) -> Vec<Known> {
    let table = Table::of(thread.process());
    let known = |(at, poll): (usize, &PollFd)| {
        if poll.fd < 0 {
            return None;
        }
        let what = match table.get(poll.fd as usize) {
            Entry::Socket(socket) => What::Socket(socket),
            Entry::Set(set) => What::Set(set),
            Entry::None => return None,
        };
        Some(Known { at, what })
    };
    fds.iter().enumerate().filter_map(known).collect()
}

fn read_fds(at: usize, len: usize) -> Result<Vec<PollFd>> {
    let mut fds = Vec::with_capacity(len);
    for index in 0..len {
        fds.push(UserPtr(at).offset(index * size_of::<PollFd>())?.read()?);
    }
    Ok(fds)
}

pub fn poll(call: &Call) -> Result {
    let timeout_ms = call.args[2] as i32;
    let ns = (timeout_ms >= 0).then(|| timeout_ms as u64 * 1_000_000);
    poll_fds(call, None, || Ok(ns)).unwrap_or_else(|| forward(call))
}

/// ppoll(2), if it is not Linux's alone; `mask` is the container's.
pub fn ppoll(call: &Call, mask: Option<&SigSet>) -> Option<Result> {
    let [_, _, timeout_at, ..] = call.args;
    let ns = || match timeout_at {
        0 => Ok(None),
        at => Ok(Some(ns_of(&UserPtr(at).read()?)?)),
    };
    poll_fds(call, mask, ns)
}

fn note_mask(call: &Call, mask: Option<&SigSet>, done: Result) -> Result {
    if let Some(mask) = mask
        && done == Err(Errno::ERESTARTNOHAND)
        && call.thread.stash().valid
    {
        call.thread.note_waiting_mask(*mask);
    }
    done
}

fn poll_fds(
    call: &Call,
    mask: Option<&SigSet>,
    ns: impl FnOnce() -> Result<Option<u64>>,
) -> Option<Result> {
    let [fds_at, len, ..] = call.args;
    const FDS_MAX: usize = 1 << 20;
    let len = len & 0xffff_ffff;
    if len == 0 || len > FDS_MAX || !knows_any(call) {
        return None;
    }
    // Linux says what is wrong with the array.
    let mut fds = read_fds(fds_at, len).ok()?;
    let known = known_of(call.thread, &fds);
    if known.is_empty() {
        return None;
    }
    let done = ns().and_then(|ns| {
        let terms = Terms {
            mask,
            ..Terms::new(ns)
        };
        wait_for(call.thread, &mut fds, &known, &terms)
    });
    if done.is_ok() {
        for (index, poll) in fds.iter().enumerate() {
            let at = fds_at + index * size_of::<PollFd>() + core::mem::offset_of!(PollFd, revents);
            if let Err(errno) = UserPtr(at).write(&poll.revents) {
                return Some(Err(errno));
            }
        }
    }
    Some(note_mask(call, mask, done))
}

/// Fills in `revents`; gives the number of descriptors that have some.
fn wait_for(thread: &'static Thread, fds: &mut [PollFd], known: &[Known], terms: &Terms) -> Result {
    loop {
        // Before the look: what is ready goes first.
        let has_signal = thread.has_pending();
        let mut asked: Vec<PollFd> = fds.to_vec();
        let mut given = 0;
        let mut are_all_rings = known.len() == fds.len();
        for one in known {
            match events_of(thread, one, &fds[one.at]) {
                Some(events) => {
                    fds[one.at].revents = events as u16;
                    given += usize::from(events != 0);
                    // Only wake-up bytes and the peer's end are of interest there.
                    asked[one.at].events = (POLLIN | POLLRDHUP) as u16;
                }
                None => {
                    fds[one.at].revents = 0;
                    are_all_rings = false;
                }
            }
            asked[one.at].revents = 0;
        }
        if given > 0 || terms.is_immediate || has_signal {
            if !are_all_rings {
                pegasus_host::socket::poll_all_now(&mut asked)?;
            }
            let merged = merge(thread, fds, &asked, known);
            if merged > 0 || terms.is_immediate {
                return Ok(merged);
            }
            if has_signal {
                return Err(Errno::ERESTARTNOHAND);
            }
            // Another thread has taken it.
            continue;
        }
        let has_news = || {
            known
                .iter()
                .any(|one| events_of(thread, one, &fds[one.at]).is_some_and(|events| events != 0))
        };
        let begin = wait::cycles();
        if has_rings(known) && wait::look(thread, terms.deadline.get(), has_news) {
            continue;
        }
        terms.settle();
        let slept = sleep(&mut asked, known, terms, has_news);
        if has_rings(known) {
            wait::learn(thread, begin);
        }
        absorb(thread, &asked, known);
        match slept {
            // Not made at all.
            Err(Errno::ERESTARTSYS) => continue,
            // Linux looked once more before it gave up, and so does this; but a signal that only the mask let in has to be
            // seen to have ended the wait.
            Err(Errno::EINTR) if was_let_in(thread, terms.mask) => {
                return Err(Errno::ERESTARTNOHAND);
            }
            Err(Errno::EINTR) | Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        let merged = merge(thread, fds, &asked, known);
        if merged > 0 {
            return Ok(merged);
        }
        if slept == Err(Errno::EINTR) {
            return Err(Errno::ERESTARTNOHAND);
        }
        if terms.deadline.get().is_over() {
            return Ok(0);
        }
    }
}

fn has_rings(known: &[Known]) -> bool {
    known.iter().any(|one| match one.what {
        What::Socket(socket) => Link::of(socket).is_some(),
        What::Set(_) => false,
    })
}

/// The events of a known descriptor. `None`: Linux knows.
fn events_of(thread: &'static Thread, one: &Known, poll: &PollFd) -> Option<u32> {
    let (fd, wanted) = (poll.fd as usize, u32::from(poll.events));
    match one.what {
        What::Socket(socket) => {
            let link = lifecycle::link(socket, fd)?;
            look_now_and_then(thread, socket, &link, fd);
            let wants_room = wanted & (POLLOUT | POLLWRNORM) != 0;
            let events = readiness::events(thread, socket, &link, fd, wants_room)?;
            if events & !(POLLOUT | POLLWRNORM) != 0 {
                note_seen(socket);
            }
            Some(events & (wanted | POLLERR | POLLHUP))
        }
        What::Set(set) => {
            set.watched.store(1, Ordering::SeqCst);
            let is_ready = crate::epoll::wait::is_ready(thread, set, fd);
            is_ready.then_some(wanted & (POLLIN | POLLRDNORM))
        }
    }
}

/// Joins what Linux has said with what the rings say.
fn merge(thread: &'static Thread, fds: &mut [PollFd], asked: &[PollFd], known: &[Known]) -> usize {
    let mut next = known.iter().peekable();
    for (at, (poll, asked)) in fds.iter_mut().zip(asked).enumerate() {
        let one = next.next_if(|one| one.at == at);
        poll.revents = match one.and_then(|one| events_of(thread, one, poll)) {
            Some(events) => events as u16,
            None => asked.revents & (asked.events | (POLLERR | POLLHUP | POLLNVAL) as u16),
        };
    }
    fds.iter().filter(|poll| poll.revents != 0).count()
}

fn sleep(
    asked: &mut [PollFd],
    known: &[Known],
    terms: &Terms,
    has_news: impl Fn() -> bool,
) -> Result {
    for_each_bell(known, |bell| bell.enter(wake::EITHER));
    let done = if has_news() {
        Ok(0)
    } else {
        sleep_in_kernel(asked, terms)
    };
    for_each_bell(known, |bell| bell.leave(wake::EITHER));
    done
}

fn for_each_bell(known: &[Known], ring: impl Fn(&Bell)) {
    for one in known {
        if let What::Socket(socket) = one.what {
            ring(&socket.bell);
        }
    }
}

fn sleep_in_kernel(asked: &mut [PollFd], terms: &Terms) -> Result {
    let left = terms.deadline.get().left();
    let timeout = left.as_ref().map_or(0, |left| &raw const *left as usize);
    let mask = terms.mask.map(|mask| mask & !KEPT);
    let mask_at = mask.as_ref().map_or(0, |mask| &raw const *mask as usize);
    let args = [
        asked.as_mut_ptr() as usize,
        asked.len(),
        timeout,
        mask_at,
        size_of::<SigSet>(),
        0,
    ];
    forward_as(nr::PPOLL, &args)
}

/// Takes wake-up bytes, and notes the ends of peers.
fn absorb(thread: &'static Thread, asked: &[PollFd], known: &[Known]) {
    for one in known {
        let What::Socket(socket) = one.what else {
            continue;
        };
        let seen = u32::from(asked[one.at].revents);
        let Some(link) = Link::of(socket).filter(|_| seen != 0) else {
            continue;
        };
        note_kernel_events(socket, &link, asked[one.at].fd as usize, seen);
        wake::quiet_if_ring(thread, socket, &link, asked[one.at].fd as usize);
    }
}

/// The three sets of a select(2), a bit for each descriptor.
struct Sets {
    at: [usize; 3],
    words: [Vec<u64>; 3],
}

/// What each set means (`POLLIN_SET` … of Linux's fs/select.c): events asked for, events that count.
const SELECT_ASKED: [u32; 3] = [
    POLLIN | POLLRDNORM | POLLHUP | POLLERR,
    POLLOUT | POLLWRNORM | POLLERR,
    POLLPRI,
];

impl Sets {
    fn read(at: [usize; 3], len: usize) -> Result<Sets> {
        let read_one = |at: usize| -> Result<Vec<u64>> {
            let mut words = alloc::vec![0; len.div_ceil(64)];
            for (index, word) in words.iter_mut().enumerate().filter(|_| at != 0) {
                *word = UserPtr(at).offset(index * 8)?.read()?;
            }
            Ok(words)
        };
        Ok(Sets {
            at,
            words: [read_one(at[0])?, read_one(at[1])?, read_one(at[2])?],
        })
    }

    fn has(&self, set: usize, fd: usize) -> bool {
        self.words[set][fd / 64] & (1 << (fd % 64)) != 0
    }

    fn fds(&self, len: usize) -> Vec<PollFd> {
        (0..len)
            .filter_map(|fd| {
                let events = (0..3)
                    .filter(|&set| self.has(set, fd))
                    .fold(0, |events, set| events | SELECT_ASKED[set]);
                (events != 0).then_some(PollFd {
                    fd: fd as i32,
                    events: events as u16,
                    revents: 0,
                })
            })
            .collect()
    }

    /// Writes the sets of what is ready; gives how many bits are set.
    fn write(&self, fds: &[PollFd]) -> Result {
        let mut count = 0;
        for (set, counted) in SELECT_ASKED.into_iter().enumerate() {
            let mut words = alloc::vec![0u64; self.words[set].len()];
            for poll in fds {
                let fd = poll.fd as usize;
                if self.has(set, fd) && u32::from(poll.revents) & counted != 0 {
                    words[fd / 64] |= 1 << (fd % 64);
                    count += 1;
                }
            }
            for (index, word) in words.iter().enumerate().filter(|_| self.at[set] != 0) {
                UserPtr(self.at[set]).offset(index * 8)?.write(word)?;
            }
        }
        Ok(count)
    }
}

pub fn select(call: &Call) -> Result {
    let at = call.args[4];
    let ns = || -> Result<Option<u64>> {
        if at == 0 {
            return Ok(None);
        }
        // A timeval: microseconds.
        let time: Timespec = UserPtr(at).read()?;
        if time.sec < 0 || time.nsec < 0 {
            return Err(Errno::EINVAL);
        }
        Ok(Some(
            (time.sec as u64)
                .saturating_mul(1_000_000_000)
                .saturating_add(time.nsec as u64 * 1000),
        ))
    };
    select_fds(call, ns, at, 1000, None).unwrap_or_else(|| forward(call))
}

/// pselect6(2), if it is not Linux's alone; `mask` is the container's.
pub fn pselect6(call: &Call, mask: Option<&SigSet>) -> Option<Result> {
    let at = call.args[4];
    let ns = || match at {
        0 => Ok(None),
        at => Ok(Some(ns_of(&UserPtr(at).read()?)?)),
    };
    select_fds(call, ns, at, 1, mask)
}

/// `left_at`: where the time that is left is written, in units of `ns_per_unit` below the second.
fn select_fds(
    call: &Call,
    ns: impl FnOnce() -> Result<Option<u64>>,
    left_at: usize,
    ns_per_unit: i64,
    mask: Option<&SigSet>,
) -> Option<Result> {
    const FDS_MAX: usize = 1 << 20;
    let [len, read_at, write_at, except_at, ..] = call.args;
    let len = len as i32;
    if len <= 0 || len as usize > FDS_MAX || !knows_any(call) {
        return None;
    }
    let len = len as usize;
    let sets = Sets::read([read_at, write_at, except_at], len).ok()?;
    let mut fds = sets.fds(len);
    let known = known_of(call.thread, &fds);
    if known.is_empty() {
        return None;
    }
    let done = ns().and_then(|ns| {
        let terms = Terms {
            mask,
            ..Terms::new(ns)
        };
        let done = wait_for(call.thread, &mut fds, &known, &terms);
        if let Some(left) = terms.deadline.get().left() {
            let left = [left.sec, left.nsec / ns_per_unit];
            UserPtr(left_at).write(&left.map(|part| part as u64))?;
        }
        done?;
        if fds
            .iter()
            .any(|poll| u32::from(poll.revents) & POLLNVAL != 0)
        {
            return Err(Errno::EBADF);
        }
        sets.write(&fds)
    });
    Some(note_mask(call, mask, done))
}
