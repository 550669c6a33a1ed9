//! Waking the other end of a connection, whose tasks sleep in the kernel until a *kick* arrives: a byte through the
//! kernel's socket.
//!
//! ```text
//! who changes something            who waits
//!   changes it                       sleepers += 1, fence
//!   notifying += 1, fence            until there is something:
//!   does anybody sleep for it?         quiet
//!   pending.swap(1) was 0? kick        sleep until a kick has arrived
//!   notifying −= 1                   sleepers −= 1
//! ```
//!
//! A kick stays until it is taken, and wakes all who sleep on the end. So taking one is the delicate part: the
//! task that takes it may go away after it has dealt with half of what there is, and cannot wake the others itself.
//! *Quiet* therefore counts the kicks that have arrived, then clears `pending`, then looks, and takes
//! what it has counted only if there is nothing that anybody sleeps for; else it leaves one. Then it holds that a task
//! sleeps while there is something for it only if a kick has arrived, or somebody is about to send one.
//!
//! Only being killed breaks this: between the change and the kick. The next one to announce something mends it
//! (`notifying` shows that the pending kick cannot be relied on).

use crate::atomic::{AtomicU32, Ordering, add_and_fence, constructor, full_fence_after_rmw};

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Bytes to read, or their end.
    pub bytes: bool,
    /// Room to write.
    pub room: bool,
}

/// One end's sleepers. The peer reads them, and sets `pending`.
#[derive(Debug)]
#[repr(C)]
pub struct Bell {
    /// Tasks that sleep, or are about to, until there are bytes.
    for_bytes: AtomicU32,
    /// Tasks that sleep, or are about to, until there is room.
    for_room: AtomicU32,
    /// Since this was cleared the peer has sent a kick, or is about to.
    pending: AtomicU32,
}

/// What the kernel knows of an end's kicks.
pub trait Kicks {
    /// How many have arrived and have not been taken. The kernel must be asked: a sender that was killed may have counted wrong.
    fn arrived(&self) -> usize;
    /// Takes so many. Does not wait.
    fn take(&self, number: usize);
}

impl Bell {
    constructor! {
        pub fn new() -> Self {
            Self {
                for_bytes: AtomicU32::new(0),
                for_room: AtomicU32::new(0),
                pending: AtomicU32::new(0),
            }
        }
    }

    /// As new. Nobody may be using it.
    pub fn reset(&self) {
        self.for_bytes.store(0, Ordering::Relaxed);
        self.for_room.store(0, Ordering::Relaxed);
        self.pending.store(0, Ordering::Relaxed);
    }

    /// For who has just made `change`, of which this end may have to know. `notifying` counts those of the caller's end
    /// who are here. `others` does what must come after the change and before the kick (puts members into queues), and
    /// gives whether somebody else sleeps whom the same kick wakes.
    pub fn announce(
        &self,
        notifying: &AtomicU32,
        change: Wanted,
        others: impl FnOnce() -> bool,
        kick: impl FnOnce(),
    ) {
        add_and_fence(notifying, 1);
        self.announce_noticed(notifying, change, others, kick);
        notifying.fetch_sub(1, Ordering::Release);
    }

    /// [`Bell::announce`] for who counts in `notifying` already, and has made `change` before.
    pub fn announce_noticed(
        &self,
        notifying: &AtomicU32,
        change: Wanted,
        others: impl FnOnce() -> bool,
        kick: impl FnOnce(),
    ) {
        let others = others();
        let wanted = self.wanted();
        if others || change.bytes && wanted.bytes || change.room && wanted.room {
            let was_pending = self.pending.swap(1, Ordering::AcqRel) != 0;
            // Whoever set it may have been killed since. If not, it is one kick too many.
            if !was_pending || notifying.load(Ordering::Relaxed) > 1 {
                kick();
            }
        }
    }

    /// Whether a kick has been sent, or is about to be, since the last [`Bell::quiet`].
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// From here on nobody kicks, but who is about to.
    pub fn silence(&self) {
        self.pending.store(1, Ordering::SeqCst);
    }

    /// What is slept for.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            bytes: self.for_bytes.load(Ordering::Relaxed) != 0,
            room: self.for_room.load(Ordering::Relaxed) != 0,
        }
    }

    /// From here on every change of what is `wanted` is announced: to be followed by a look, then by the sleep.
    pub fn enter(&self, wanted: Wanted) {
        if wanted.bytes {
            add_and_fence(&self.for_bytes, 1);
        }
        if wanted.room {
            add_and_fence(&self.for_room, 1);
        }
    }

    /// After the sleep.
    pub fn leave(&self, wanted: Wanted) {
        if wanted.bytes {
            self.for_bytes.fetch_sub(1, Ordering::Release);
        }
        if wanted.room {
            self.for_room.fetch_sub(1, Ordering::Release);
        }
    }

    /// Makes the next change kick again, and takes the kicks that have arrived, as far as nobody needs them.
    /// `is_there` gives whether there is any of what is wanted by anybody. One task at a time: under the claim of the end's
    /// consumer.
    pub fn quiet(&self, kicks: &impl Kicks, is_there: impl FnOnce(Wanted) -> bool) {
        let arrived = kicks.arrived();
        // A kick that is sent for a later change has not been counted; an earlier change is seen by the look.
        self.pending.swap(0, Ordering::SeqCst);
        full_fence_after_rmw();
        let number = if is_there(self.wanted()) {
            arrived.saturating_sub(1)
        } else {
            arrived
        };
        if number > 0 {
            kicks.take(number);
        }
    }

    /// Waits until there is what is `wanted`: `is_there`. `quiet` takes the claim and calls [`Bell::quiet`]; `sleep` sleeps until a
    /// kick has arrived, and gives false for giving up. Gives whether it is there.
    pub fn wait(
        &self,
        wanted: Wanted,
        mut is_there: impl FnMut() -> bool,
        mut quiet: impl FnMut(),
        mut sleep: impl FnMut() -> bool,
    ) -> bool {
        self.enter(wanted);
        let mut found = is_there();
        let mut kicked = self.pending.load(Ordering::Relaxed) != 0;
        while !found {
            if kicked {
                quiet();
                found = is_there();
                kicked = false;
            } else if sleep() {
                found = is_there();
                kicked = true;
            } else {
                break;
            }
        }
        self.leave(wanted);
        found
    }
}

impl Default for Bell {
    fn default() -> Self {
        Self::new()
    }
}
