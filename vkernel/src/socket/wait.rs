//! Waiting for a socket: first by looking again and again, then asleep in Linux.
//!
//! Looking costs a peer on another CPU nothing and answers in a tenth of a microsecond; a sleep and its wake-up
//! cost tens. How long a thread looks follows how long its last waits took: a thread whose peer needs long goes to sleep
//! at once. On a single CPU nobody can answer while this task looks, so it lets others run instead.

use crate::deadline::Deadline;
use crate::schedule::away::{self, is_away};
use crate::socket::connection::{Link, Source};
use crate::socket::receive::note_kernel_events;
use crate::socket::{lifecycle, wake};
use crate::syscall::table::forward_as;
use crate::task::Thread;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use pegasus_abi::poll::{POLLNVAL, POLLRDHUP, PollFd, Timespec};
use pegasus_abi::{Errno, nr};
use pegasus_contract::socket::{SocketRecord, SocketState, socket_flags};

/// The longest that a thread looks before it sleeps, in cycles of the time-stamp counter: 25 to 50 µs.
pub const LOOK_CYCLES_MAX: u64 = 100_000;
const LOOK_CYCLES_USUAL: u64 = 25_000;
const LOOK_CYCLES_MIN: u64 = 1_000;
/// Every so many waits a thread looks for the longest time whatever it has learnt: of two that sleep, each finds the other
/// slow for ever.
const WAITS_PER_TRIAL: u32 = 8;
/// How often a thread that has one CPU lets others run before it sleeps.
const YIELDS_MAX: u32 = 8;
/// A wait that ends asleep was a short one if it took less: some 100 µs.
const SHORT_CYCLES: u64 = 250_000;
/// How many waits a thread trusts what it knows of its CPUs.
const WAITS_PER_LOOK_AT_CPUS: u32 = 4096;

/// What a thread has learnt about its waits.
pub struct Patience {
    longest_cycles: u64,
    look_cycles: Cell<u64>,
    waits: Cell<u32>,
    has_one_cpu: Cell<bool>,
}

impl Patience {
    /// `longest_cycles`: never to look for longer.
    pub const fn new(longest_cycles: u64) -> Self {
        Self {
            longest_cycles,
            look_cycles: Cell::new(LOOK_CYCLES_MAX),
            waits: Cell::new(0),
            has_one_cpu: Cell::new(false),
        }
    }

    fn begin(&self) {
        let waits = self.waits.get();
        if waits.is_multiple_of(WAITS_PER_LOOK_AT_CPUS) {
            self.has_one_cpu
                .set(pegasus_host::schedule::usable_cpus() == 1);
        }
        self.waits.set(waits.wrapping_add(1));
    }

    fn look_cycles(&self) -> u64 {
        if self.waits.get().is_multiple_of(WAITS_PER_TRIAL) {
            self.longest_cycles
        } else {
            self.look_cycles.get()
        }
    }

    /// A wait is over after so long: could it have been spent looking? Looking is worth a few times what the last answer took,
    /// and not more: what is wasted is taken from the peer, if the CPUs are busy.
    pub fn learn(&self, waited_cycles: u64) {
        let cycles = if waited_cycles < self.longest_cycles {
            (4 * waited_cycles).clamp(LOOK_CYCLES_USUAL, self.longest_cycles)
        } else {
            (self.look_cycles.get() / 4 * 3).max(LOOK_CYCLES_MIN)
        };
        self.look_cycles.set(cycles);
    }
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Something may have changed.
    Again,
    TimedOut,
    /// There is a signal to deliver.
    Interrupted,
    /// The descriptor has been closed.
    Closed,
}

pub fn cycles() -> u64 {
    pegasus_arch::area::cycles()
}

/// Looks until `is_ready`, for as long as it seems worth while. Tells whether it is.
pub fn look(
    thread: &'static Thread,
    deadline: Deadline,
    mut is_ready: impl FnMut() -> bool,
) -> bool {
    if is_away(thread) {
        return away::look(thread, deadline, is_ready);
    }
    let patience = &thread.patience;
    patience.begin();
    let wants_to_go = patience.has_one_cpu.get() || away::has_crowd(thread);
    if wants_to_go && away::try_to_go(thread, deadline) {
        return away::look(thread, deadline, is_ready);
    }
    let is_ready = || {
        let is_ready = is_ready();
        if is_ready {
            away::note_short_wait(thread);
        }
        is_ready
    };
    if patience.has_one_cpu.get() {
        return let_others_run(thread, is_ready);
    }
    let is_over = look_on(thread, patience, is_ready);
    if !is_over {
        away::note_company(thread);
    }
    is_over
}

/// [`look`] on the home task, for what Linux has to do next.
pub fn look_at_home(
    thread: &'static Thread,
    patience: &Patience,
    is_ready: impl FnMut() -> bool,
) -> bool {
    if is_away(thread) {
        return false;
    }
    patience.begin();
    if patience.has_one_cpu.get() {
        let_others_run(thread, is_ready)
    } else {
        look_on(thread, patience, is_ready)
    }
}

/// Looks now and then, and lets others have the CPU meanwhile.
fn let_others_run(thread: &Thread, mut is_ready: impl FnMut() -> bool) -> bool {
    for _ in 0..YIELDS_MAX {
        pegasus_host::process::yield_now();
        if is_ready() || thread.has_pending() {
            return true;
        }
    }
    false
}

/// Looks again and again.
fn look_on(thread: &Thread, patience: &Patience, mut is_ready: impl FnMut() -> bool) -> bool {
    let begin = cycles();
    let look_cycles = patience.look_cycles();
    loop {
        for _ in 0..32 {
            if is_ready() {
                patience.learn(cycles().wrapping_sub(begin));
                return true;
            }
            core::hint::spin_loop();
        }
        if thread.has_pending() {
            return true;
        }
        if cycles().wrapping_sub(begin) > look_cycles {
            return false;
        }
    }
}

/// Notes how long a wait took that ended asleep.
pub fn learn(thread: &Thread, begin_cycles: u64) {
    let waited_cycles = cycles().wrapping_sub(begin_cycles);
    if waited_cycles < SHORT_CYCLES {
        away::note_short_wait(thread);
    }
    thread.patience.learn(waited_cycles);
}

/// Sleeps in poll(2), interruptibly. `None` for `left`: without limit.
pub fn poll(fds: &mut [PollFd], left: Option<Timespec>) -> pegasus_abi::Result {
    let timeout = left.as_ref().map_or(0, |left| &raw const *left as usize);
    let args = [fds.as_mut_ptr() as usize, fds.len(), timeout, 0, 8, 0];
    forward_as(nr::PPOLL, &args)
}

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    Bytes,
    Room,
}

/// A task's wait for a socket. `link` is the connection as the task knows it.
pub struct Wait<'a> {
    pub thread: &'static Thread,
    pub socket: &'static SocketRecord,
    pub link: Option<&'a Link>,
    pub fd: usize,
    pub what: For,
}

impl Wait<'_> {
    /// Over a ring; or as good as that, because a member is at the other end, or has been just now on this port.
    fn is_worth_a_look(&self) -> bool {
        let state = self.socket.state.load(Ordering::Relaxed);
        self.link.is_some() || self.what == For::Bytes && state == SocketState::Searching as u32
    }

    /// Looks for as long as it seems worth while. Tells whether to try again at once.
    pub fn look(&self, deadline: Deadline, is_ready: impl FnMut() -> bool) -> bool {
        if !self.is_worth_a_look() || self.thread.has_pending() {
            return false;
        }
        if self.link.is_some() {
            return look(self.thread, deadline, is_ready);
        }
        look_at_home(self.thread, &self.thread.patience, is_ready)
    }

    /// Sleeps until `is_ready`, or until something makes it worth to look again. The task has looked since `begin`.
    pub fn sleep_until(
        &self,
        deadline: Deadline,
        begin: u64,
        mut is_ready: impl FnMut() -> bool,
    ) -> Outcome {
        let socket = self.socket;
        let wanted = match self.what {
            For::Bytes => wake::BYTES,
            For::Room => wake::ROOM,
        };
        socket.bell.enter(wanted);
        let has_looked = self.is_worth_a_look();
        let outcome = if is_ready() || has_been_linked(socket, self.link) {
            Outcome::Again
        } else {
            self.sleep(deadline)
        };
        socket.bell.leave(wanted);
        if has_looked {
            learn(self.thread, begin);
        }
        outcome
    }

    fn sleep(&self, deadline: Deadline) -> Outcome {
        let Wait {
            thread,
            socket,
            link,
            fd,
            what,
        } = *self;
        use pegasus_abi::poll::{POLLIN, POLLOUT};
        const PAUSE_NS: i64 = 1_000_000;
        const ROOM_PAUSE_NS: i64 = 10_000_000;
        let left = deadline.left();
        if left.is_some_and(|left| left.sec == 0 && left.nsec == 0) {
            return Outcome::TimedOut;
        }
        // A writer of a ring waits for a wake-up byte. With data before it in Linux's stream, or nobody to send one, it can only
        // look again soon; and from time to time in any case, for a shutdown(2) by a neighbour wakes nobody.
        let wants_room = what == For::Room && link.is_some();
        let is_deaf = wants_room && !absorb(thread, socket, link, fd);
        let events = match (what, link) {
            _ if is_deaf => 0,
            (For::Room, None) => POLLOUT,
            _ => POLLIN | POLLRDHUP,
        };
        let pause = if is_deaf { PAUSE_NS } else { ROOM_PAUSE_NS };
        let cut = wants_room && left.is_none_or(|left| left.sec > 0 || left.nsec > pause);
        let left = if cut {
            Some(Timespec {
                sec: 0,
                nsec: pause,
            })
        } else {
            left
        };
        let mut polled = [PollFd {
            fd: fd as i32,
            events: events as u16,
            revents: 0,
        }];
        let done = poll(&mut polled, left);
        let seen = u32::from(polled[0].revents);
        if seen & POLLNVAL != 0 {
            return Outcome::Closed;
        }
        if let Some(link) = link {
            note_kernel_events(socket, link, fd, seen);
        }
        match done {
            Ok(0) if !cut => Outcome::TimedOut,
            Err(Errno::EINTR | Errno::ERESTARTSYS) => Outcome::Interrupted,
            _ if thread.has_pending() => Outcome::Interrupted,
            _ => Outcome::Again,
        }
    }
}

pub fn has_been_linked(socket: &SocketRecord, link: Option<&Link>) -> bool {
    link.is_none() && Link::of(socket).is_some()
}

/// Takes wake-up bytes that may be there. Tells whether more of them would be noticed: not while data lies before them.
fn absorb(thread: &Thread, socket: &'static SocketRecord, link: Option<&Link>, fd: usize) -> bool {
    let Some(link) = link else { return true };
    let _held = lifecycle::take(&socket.receive_claim, thread);
    let is_ring = link.source(socket.kernel_received.load(Ordering::Relaxed)) == Source::Ring;
    let is_shut = socket.flags.load(Ordering::Relaxed) & socket_flags::READ_SHUT != 0;
    if is_ring {
        wake::quiet(socket, link, fd);
    }
    is_ring && !is_shut
}
