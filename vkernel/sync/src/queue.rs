//! The members of a set that may be ready: many put them in, whoever looks takes all of them at once.
//!
//! A stack of records in a pool, named by index. A member is in at most one place: `queued` says whether it is in the
//! queue, or with somebody who has taken it and not looked at it yet. Because it is only ever emptied as a whole, an old first
//! member that has come back since is no different from one that has stayed.
//!
//! Who puts a member in has changed something before. Who takes one clears `queued` first and then looks: either it sees the
//! change, or the other finds `queued` clear and puts the member in again.

use crate::atomic::{AtomicU32, AtomicU64, Ordering, constructor, full_fence_after_rmw};

/// A member's part. Zero is a member that is not in the queue.
#[derive(Debug)]
#[repr(C)]
pub struct Link {
    /// 1 while in the queue.
    queued: AtomicU32,
    /// Index + 1 of the next one.
    next: AtomicU32,
}

/// Index + 1 of the member put in last, or 0.
#[derive(Debug)]
#[repr(transparent)]
pub struct Queue(AtomicU64);

/// What was in a queue. To be looked at to the end, or to be [put back](Taken::put_back).
#[derive(Debug)]
#[must_use]
pub struct Taken {
    next: u64,
    /// No queue is longer: a chain that an enemy has closed to a ring ends too.
    left: usize,
}

impl Link {
    constructor! {
        pub fn new() -> Self {
            Self {
                queued: AtomicU32::new(0),
                next: AtomicU32::new(0),
            }
        }
    }

    pub fn is_queued(&self) -> bool {
        self.queued.load(Ordering::Acquire) != 0
    }

    /// Marks a member that has left its set, so that it is never put in again. Gives whether it was in no queue: else who takes
    /// it from there finds it.
    pub fn retire(&self) -> bool {
        self.queued.swap(1, Ordering::SeqCst) == 0
    }

    /// As new. The member may be in no queue, and nobody may be putting it in.
    pub fn reset(&self) {
        self.queued.store(0, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
    }
}

impl Queue {
    constructor! {
        pub fn new() -> Self {
            Self(AtomicU64::new(0))
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// Puts a member in, unless it is there. Gives whether it did.
    pub fn put(&self, index: u32, link: &Link) -> bool {
        let put = link.queued.swap(1, Ordering::AcqRel) == 0;
        if put {
            self.push(index, link);
        }
        // So that the caller may look next who sleeps.
        full_fence_after_rmw();
        put
    }

    /// [`Queue::put`] for who has made a full fence since the change. One that is in the queue already is only read: its cache line need
    /// not come over from whoever waits for it.
    pub fn put_after_fence(&self, index: u32, link: &Link) -> bool {
        // Who has it in hand, and has not cleared this yet, looks after that: and the fence was before.
        if link.queued.load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.put(index, link)
    }

    fn push(&self, index: u32, link: &Link) {
        let mut first = self.0.load(Ordering::Relaxed);
        loop {
            link.next.store(first as u32, Ordering::Relaxed);
            let exchanged = self.0.compare_exchange(
                first,
                u64::from(index) + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match exchanged {
                Ok(_) => return,
                Err(present) => first = present,
            }
        }
    }

    /// Takes all, the one that was put in first to be looked at first. `members_max`: how many there can be.
    pub fn take<'a>(&self, members_max: usize, link_of: impl Fn(u32) -> Option<&'a Link>) -> Taken {
        let mut newest_first = Taken {
            next: self.0.swap(0, Ordering::AcqRel),
            left: members_max,
        };
        // All are marked as queued: nobody else touches their links.
        let mut next = 0;
        while let Some((index, link)) = newest_first.step(&link_of) {
            link.next.store(next, Ordering::Relaxed);
            next = index + 1;
        }
        Taken {
            next: u64::from(next),
            left: members_max,
        }
    }
}

impl Taken {
    /// The next member's index. From here on it may be put in again: the caller is to look whether it is ready.
    pub fn next<'a>(&mut self, link_of: impl FnOnce(u32) -> Option<&'a Link>) -> Option<u32> {
        let (index, link) = self.step(link_of)?;
        link.queued.swap(0, Ordering::SeqCst);
        full_fence_after_rmw();
        Some(index)
    }

    /// Puts what has not been looked at into the queue again. Gives whether there was anything.
    pub fn put_back<'a>(
        mut self,
        queue: &Queue,
        link_of: impl Fn(u32) -> Option<&'a Link>,
    ) -> bool {
        let mut any = false;
        while let Some((index, link)) = self.step(&link_of) {
            queue.push(index, link);
            any = true;
        }
        any
    }

    /// Goes on to the next one. Its own `next` is read before anybody can put it in again.
    fn step<'a>(
        &mut self,
        link_of: impl FnOnce(u32) -> Option<&'a Link>,
    ) -> Option<(u32, &'a Link)> {
        self.left = self.left.checked_sub(1)?;
        let index = u32::try_from(self.next.checked_sub(1)?).ok()?;
        let link = link_of(index)?;
        self.next = u64::from(link.next.load(Ordering::Relaxed));
        Some((index, link))
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::new()
    }
}
