//! futex(2) within a process: the queues of those who wait.
//!
//! Linux keeps private futexes (FUTEX_PRIVATE_FLAG) and others apart even on the same word, and makes none of its own wake-ups
//! (`clear_child_tid`, robust lists) private. So the private ones can be served here, and the rest be left to Linux.
//!
//! All who share memory share one [`Table`]: the threads of a process, and its borrowers.
//!
//! **No wake-up is lost.** Who waits counts itself in its bucket, with a full barrier, and only then reads the word, under the
//! bucket's lock. Who wakes has changed the word, passes a full barrier, and only then reads the count. So either the waiter sees
//! the new value and does not wait, or the waker sees the count and takes the lock, which it gets when the waiter is in the queue.
//!
//! **What Linux does better.** Some calls make Linux wait on private futexes itself (futex_waitv(2), futex_wait(2)), and a seccomp
//! filter of the program's may have a say in each call. Then the table is *retired*: all who wait are sent on to Linux, which
//! from now on has all waiters.
//!
//! **Locks.** A bucket's is a leaf; of two, the one with the lower number is taken first. A borrower that is killed in one of these
//! short sections leaves it locked, like [`crate::mm::Space`].
#![allow(unsafe_code)]

mod patience;
mod queue;

pub use patience::Patience;
pub use queue::{Key, Release, Waiter};

use crate::heap::Arena;
use crate::task::Thread;
use crate::usermem::UserPtr;
use core::alloc::Layout;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, fence};
use pegasus_abi::{Errno, Result};
use pegasus_sync::{Lock, LockGuard};
use queue::Queue;

const BUCKETS_LEN_LOG2: u32 = 8;
const BUCKETS_LEN: usize = 1 << BUCKETS_LEN_LOG2;
/// So many sleepers are woken after the lock has been given back; more of them, while it is held.
const SLEEPERS_LEN: usize = 32;

/// Those who wait for one of many addresses. A cache line of its own.
#[repr(align(64))]
struct Bucket {
    /// How many are in the queue, or about to be.
    waiters: AtomicU32,
    queue: Lock<Queue>,
}

impl Bucket {
    const fn new() -> Self {
        Self {
            waiters: AtomicU32::new(0),
            queue: Lock::new(Queue::new()),
        }
    }
}

type Buckets = [Bucket; BUCKETS_LEN];

fn number_of(address: usize) -> usize {
    // Words lie next to each other, and at the same place in many pages: Knuth's multiplicative hash spreads both.
    let spread = (address as u64 >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (spread >> (u64::BITS - BUCKETS_LEN_LOG2)) as usize
}

/// Words of waiters that sleep in Linux.
struct Sleepers {
    words: [usize; SLEEPERS_LEN],
    len: usize,
}

impl Sleepers {
    fn new() -> Self {
        Self {
            words: [0; SLEEPERS_LEN],
            len: 0,
        }
    }

    fn add(&mut self, word: Option<usize>) {
        let Some(word) = word else { return };
        if self.len == SLEEPERS_LEN {
            self.wake();
        }
        self.words[self.len] = word;
        self.len += 1;
    }

    fn wake(&mut self) {
        for &word in &self.words[..self.len] {
            pegasus_host::futex::wake_private(word);
        }
        self.len = 0;
    }
}

/// How far a requeue(2) goes.
pub struct Move {
    pub from: UserPtr,
    pub to: UserPtr,
    pub wake_max: usize,
    pub move_max: usize,
    /// What the word at `from` must hold.
    pub expected: Option<u32>,
}

/// The second half of a FUTEX_WAKE_OP.
pub struct Second<'a> {
    pub word: UserPtr,
    /// Changes the word; tells whether its waiters are to be woken.
    pub change: &'a dyn Fn() -> Result<bool>,
    pub wake_max: usize,
}

/// All waiters of those who share memory.
pub struct Table {
    /// Made when somebody waits for the first time. Null before.
    buckets: AtomicPtr<Buckets>,
    /// Linux has all waiters.
    is_retired: AtomicBool,
    /// A borrower has waited here.
    has_had_borrower: AtomicBool,
    /// How many look, and have not gone to sleep yet; see [`Patience::look`].
    pub lookers: AtomicU32,
}

impl Table {
    pub const fn new() -> Self {
        Self {
            buckets: AtomicPtr::new(core::ptr::null_mut()),
            is_retired: AtomicBool::new(false),
            has_had_borrower: AtomicBool::new(false),
            lookers: AtomicU32::new(0),
        }
    }

    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::SeqCst)
    }

    fn buckets(&self) -> Option<&'static Buckets> {
        // SAFETY: null, or made by `make_buckets` and never given back.
        unsafe { self.buckets.load(Ordering::SeqCst).as_ref() }
    }

    /// The buckets; made in `arena` if there are none yet. `None`: the arena is full.
    fn make_buckets(&self, arena: &'static Arena) -> Option<&'static Buckets> {
        if let Some(buckets) = self.buckets() {
            return Some(buckets);
        }
        let layout = Layout::new::<Buckets>();
        let place = arena.allocate(layout).cast::<Buckets>();
        if place.is_null() {
            return None;
        }
        for number in 0..BUCKETS_LEN {
            // SAFETY: freshly allocated for so many.
            unsafe { place.cast::<Bucket>().add(number).write(Bucket::new()) };
        }
        let null = core::ptr::null_mut();
        let done = self
            .buckets
            .compare_exchange(null, place, Ordering::SeqCst, Ordering::SeqCst);
        if done.is_err() {
            // SAFETY: allocated above; another thread was faster, and nobody knows of these.
            unsafe { crate::heap::release(place.cast(), layout) };
        }
        self.buckets()
    }

    /// Puts the caller into the queue of `key` if the word there is `expected`, else EAGAIN. `Ok(false)`: Linux has all waiters.
    pub fn enter(&self, thread: &'static Thread, key: Key, expected: u32) -> Result<bool> {
        let process = thread.process();
        let Some(buckets) = self.make_buckets(process.arena) else {
            self.retire();
            return Ok(false);
        };
        if process.is_borrower() {
            self.has_had_borrower.store(true, Ordering::Relaxed);
        }
        let number = number_of(key.address);
        let bucket = &buckets[number];
        bucket.waiters.fetch_add(1, Ordering::SeqCst);
        let mut queue = bucket.queue.lock();
        let found = if self.is_retired() {
            Ok(false)
        } else {
            // The caller has read it before: hardly a fault that takes long.
            match UserPtr(key.address).load_word() {
                Ok(value) if value == expected => Ok(true),
                Ok(_) => Err(Errno::EAGAIN),
                Err(errno) => Err(errno),
            }
        };
        if found == Ok(true) {
            let waiter = &thread.waiter;
            waiter.prepare(key, &raw const *process as usize);
            waiter.set_bucket(number);
            queue.push(waiter);
        } else {
            bucket.waiters.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    /// Takes the caller out of its queue, unless somebody else has.
    pub fn give_up(&self, thread: &'static Thread) -> Option<Release> {
        let waiter = &thread.waiter;
        let buckets = self.buckets()?;
        loop {
            let number = waiter.bucket();
            let mut queue = buckets[number].queue.lock();
            if let Some(how) = waiter.released() {
                return Some(how);
            }
            // Else it has been moved in between.
            if waiter.bucket() == number {
                queue.remove(waiter);
                buckets[number].waiters.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
        }
    }

    /// Wakes up to `wake_max`; gives how many. `None`: Linux has them.
    pub fn wake(&self, key: Key, wake_max: usize) -> Option<usize> {
        fence(Ordering::SeqCst);
        if self.is_retired() {
            return None;
        }
        let Some(buckets) = self.buckets() else {
            return Some(0);
        };
        let bucket = &buckets[number_of(key.address)];
        if bucket.waiters.load(Ordering::SeqCst) == 0 {
            return Some(0);
        }
        let mut sleepers = Sleepers::new();
        let mut queue = bucket.queue.lock();
        let woken = wake_in(bucket, &mut queue, key, wake_max, &mut sleepers);
        drop(queue);
        sleepers.wake();
        Some(woken)
    }

    /// Wakes the first waiters of one address and moves the next ones to another; gives how many. `Ok(None)`: Linux has them.
    pub fn requeue(&self, thread: &Thread, wanted: &Move) -> Result<Option<usize>> {
        let Some(buckets) = self.make_buckets(thread.process().arena) else {
            self.retire();
            return Ok(None);
        };
        let (from, to) = (number_of(wanted.from.0), number_of(wanted.to.0));
        let mut sleepers = Sleepers::new();
        let mut pair = Pair::lock(buckets, from, to);
        if self.is_retired() {
            return Ok(None);
        }
        if let Some(expected) = wanted.expected
            && wanted.from.load_word()? != expected
        {
            return Err(Errno::EAGAIN);
        }
        let key = Key {
            address: wanted.from.0,
            bitset: !0,
        };
        let (queue, mut other) = pair.split();
        let woken = if wanted.wake_max == 0 {
            0
        } else {
            wake_in(&buckets[from], queue, key, wanted.wake_max, &mut sleepers)
        };
        let mut moved = 0;
        let waiters = queue.iter().filter(|waiter| waiter.heeds(key));
        for waiter in waiters.take(wanted.move_max) {
            moved += 1;
            if wanted.from == wanted.to {
                continue;
            }
            queue.remove(waiter);
            waiter.set_address(wanted.to.0);
            buckets[to].waiters.fetch_add(1, Ordering::SeqCst);
            waiter.set_bucket(to);
            match &mut other {
                Some(other) => other.push(waiter),
                None => queue.push(waiter),
            }
            buckets[from].waiters.fetch_sub(1, Ordering::Relaxed);
        }
        drop(pair);
        sleepers.wake();
        Ok(Some(woken + moved))
    }

    /// Changes the second word, wakes waiters of the first, and perhaps of the second; gives how many. `Ok(None)`: Linux has them.
    pub fn wake_and_change(
        &self,
        thread: &Thread,
        first: Key,
        wake_max: usize,
        second: &Second<'_>,
    ) -> Result<Option<usize>> {
        let Some(buckets) = self.make_buckets(thread.process().arena) else {
            self.retire();
            return Ok(None);
        };
        let key = Key {
            address: second.word.0,
            bitset: !0,
        };
        let (one, two) = (number_of(first.address), number_of(key.address));
        let mut sleepers = Sleepers::new();
        let mut pair = Pair::lock(buckets, one, two);
        if self.is_retired() {
            return Ok(None);
        }
        let wakes_second = (second.change)()?;
        let (queue, other) = pair.split();
        let mut woken = wake_in(&buckets[one], queue, first, wake_max, &mut sleepers);
        if wakes_second {
            let queue = other.unwrap_or(queue);
            woken += wake_in(&buckets[two], queue, key, second.wake_max, &mut sleepers);
        }
        drop(pair);
        sleepers.wake();
        Ok(Some(woken))
    }

    /// From now on Linux has all waiters: those that are here go there.
    pub fn retire(&self) {
        // Who enters looks at this under its bucket's lock: before it is swept here, or it stays out.
        self.is_retired.store(true, Ordering::SeqCst);
        self.sweep(|_| true);
    }

    /// `process`, which has borrowed this memory, is gone, and perhaps was killed while it waited.
    pub fn forget(&self, process: &crate::task::Process) {
        if self.has_had_borrower.load(Ordering::Relaxed) {
            let owner = &raw const *process as usize;
            self.sweep(|waiter| waiter.is_of(owner));
        }
    }

    /// A new program begins: nobody waits.
    pub fn reset(&self, is_retired: bool) {
        self.sweep(|_| true);
        self.is_retired.store(is_retired, Ordering::SeqCst);
    }

    /// Sends away everybody for whom `is_meant`.
    fn sweep(&self, is_meant: impl Fn(&Waiter) -> bool) {
        let Some(buckets) = self.buckets() else {
            return;
        };
        for bucket in buckets {
            let mut sleepers = Sleepers::new();
            let mut queue = bucket.queue.lock();
            for waiter in queue.iter().filter(|waiter| is_meant(waiter)) {
                queue.remove(waiter);
                bucket.waiters.fetch_sub(1, Ordering::Relaxed);
                sleepers.add(waiter.release(Release::SentAway));
            }
            drop(queue);
            sleepers.wake();
        }
    }
}

/// Takes the first waiters that heed `key` out of the queue and wakes them: one at least, as Linux does whatever `wake_max` is.
fn wake_in(
    bucket: &Bucket,
    queue: &mut Queue,
    key: Key,
    wake_max: usize,
    sleepers: &mut Sleepers,
) -> usize {
    let mut woken = 0;
    for waiter in queue.iter() {
        if !waiter.heeds(key) {
            continue;
        }
        queue.remove(waiter);
        bucket.waiters.fetch_sub(1, Ordering::Relaxed);
        sleepers.add(waiter.release(Release::Woken));
        woken += 1;
        if woken >= wake_max {
            break;
        }
    }
    woken
}

/// Two queues under lock, or one twice.
struct Pair {
    low: LockGuard<'static, Queue>,
    high: Option<LockGuard<'static, Queue>>,
    is_swapped: bool,
}

impl Pair {
    fn lock(buckets: &'static Buckets, one: usize, two: usize) -> Pair {
        let low = buckets[one.min(two)].queue.lock();
        let high = (one != two).then(|| buckets[one.max(two)].queue.lock());
        Pair {
            low,
            high,
            is_swapped: one > two,
        }
    }

    /// The queue of the first, and that of the second unless it is the same.
    fn split(&mut self) -> (&mut Queue, Option<&mut Queue>) {
        let low: &mut Queue = &mut self.low;
        match self.high.as_deref_mut() {
            None => (low, None),
            Some(high) if self.is_swapped => (high, Some(low)),
            Some(high) => (low, Some(high)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS_LEN, number_of};
    use alloc::vec;

    #[test]
    fn neighbours_and_equal_offsets_in_pages_are_spread() {
        for step in [4, 8, 64, 4096, 8 << 20] {
            let mut counts = vec![0; BUCKETS_LEN];
            (0..1024).for_each(|at| counts[number_of(0x7f00_0000_1000 + at * step)] += 1);
            let most = counts.iter().copied().max();
            assert!(most <= Some(16), "step {step}: {most:?} in one bucket");
        }
    }
}
