//! One end of a connection: its ring to write, its ring to read, and in which of Linux's stream and the ring the next byte lies.
#![allow(unsafe_code)]

use crate::socket::pools::{DirectionStores, Pooled};
use core::sync::atomic::Ordering;
use pegasus_arch::area::{CACHE_LINE_LEN, prefetch_read, prefetch_write};
use pegasus_contract::socket::{
    ConnectionRecord, EndRecord, EndState, NEVER_LINKED, Returning, SocketRecord,
};
use pegasus_sync::{Corrupt, Ring, Stretch};

/// An end of a connection.
#[derive(Clone, Copy)]
pub struct Link {
    pub connection: &'static ConnectionRecord,
    pub side: usize,
}

/// Where the next byte to be received is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In Linux's stream: at most so many bytes, then the ring; `None`: the peer still sends through Linux.
    Kernel(Option<u64>),
    Ring,
    /// In Linux's stream again, behind so many wake-up bytes.
    KernelAgain {
        kicks: u64,
    },
}

/// In [`ConnectionRecord::in_use`]: one end has it, the other is being asked.
pub const PENDING: u32 = 1;
/// Both ends have it.
pub const IN_USE: u32 = 2;

/// The link word's lower half, if it names a connection.
pub fn connection_of(link: u64) -> Option<&'static ConnectionRecord> {
    let number = link as u32;
    if number == 0 || number == NEVER_LINKED {
        return None;
    }
    ConnectionRecord::at(number - 1)
}

impl Link {
    /// The connection that `socket` is an end of.
    pub fn of(socket: &SocketRecord) -> Option<Link> {
        let connection = connection_of(socket.link.load(Ordering::SeqCst))?;
        if connection.in_use.load(Ordering::SeqCst) != IN_USE {
            return None;
        }
        let side = (socket.side.load(Ordering::Relaxed) & 1) as usize;
        Some(Link { connection, side })
    }

    pub fn mine(&self) -> &'static EndRecord {
        &self.connection.ends[self.side]
    }

    pub fn theirs(&self) -> &'static EndRecord {
        &self.connection.ends[1 - self.side]
    }

    /// The ring that this end writes.
    pub fn outgoing(&self) -> (&'static Ring, DirectionStores<'static>) {
        self.ring(self.side)
    }

    /// The ring that this end reads.
    pub fn incoming(&self) -> (&'static Ring, DirectionStores<'static>) {
        self.ring(1 - self.side)
    }

    fn ring(&self, side: usize) -> (&'static Ring, DirectionStores<'static>) {
        let stores = DirectionStores(&self.connection.inline[side]);
        (&self.connection.rings[side], stores)
    }

    pub fn returning(&self) -> u32 {
        self.connection.returning.load(Ordering::SeqCst)
    }

    /// The peer is to take back what this end has not read, and has not yet.
    pub fn is_frozen(&self) -> bool {
        let returning = self.returning();
        returning == Returning::TakenBackFrom0 as u32 + self.side as u32
            && self.theirs().returned.load(Ordering::Acquire) == 0
    }

    /// Both ends go back to Linux, and this one has not yet.
    pub fn is_to_return(&self) -> bool {
        self.returning() != 0 && self.mine().returned.load(Ordering::Acquire) == 0
    }

    /// Whether the peer has said that it will write no more, or more than that.
    pub fn their_end(&self) -> u32 {
        self.theirs().ended.load(Ordering::Acquire)
    }

    pub fn they_are_closed(&self) -> bool {
        self.their_end() >= EndState::Closed as u32
    }

    /// Whether the peer has not read all that this end has sent.
    pub fn has_unread_at_peer(&self) -> bool {
        let sent = self.mine().switched.load(Ordering::Relaxed);
        let theirs = self.theirs();
        let peer = SocketRecord::at(theirs.socket.load(Ordering::Relaxed));
        let received = match peer {
            Some(peer) if theirs.released.load(Ordering::SeqCst) == 0 => &peer.kernel_received,
            _ => &theirs.kernel_received,
        };
        let received = received.load(Ordering::Relaxed);
        !self.outgoing().0.is_empty() || received < sent.saturating_sub(1)
    }

    /// Where the next byte to be received is. `received` is what this end has received through Linux.
    pub fn source(&self, received: u64) -> Source {
        let theirs = self.theirs();
        let returned = theirs.returned.load(Ordering::Acquire);
        let Some(switched) = theirs.switched.load(Ordering::Acquire).checked_sub(1) else {
            return match returned {
                0 => Source::Kernel(None),
                _ => Source::KernelAgain { kicks: 0 },
            };
        };
        if received < switched {
            return Source::Kernel(Some(switched - received));
        }
        match returned.checked_sub(1) {
            Some(returned) if self.incoming().0.read() >= returned => {
                let sent = theirs.kicks_sent.load(Ordering::Acquire);
                let taken = self.mine().kicks_taken.load(Ordering::Relaxed);
                Source::KernelAgain {
                    kicks: sent.saturating_sub(taken),
                }
            }
            _ => Source::Ring,
        }
    }

    /// Bytes in Linux's stream that are wake-ups and not yet taken.
    pub fn kicks_waiting(&self) -> u64 {
        let sent = self.theirs().kicks_sent.load(Ordering::Acquire);
        sent.saturating_sub(self.mine().kicks_taken.load(Ordering::Relaxed))
    }

    /// Writes up to `want` bytes of what `copy` gives.
    pub fn write(
        &self,
        want: usize,
        mut copy: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<usize, Corrupt> {
        let (ring, stores) = self.outgoing();
        ring.produce(&stores, want, |stretch| copy(bytes_mut(stretch)))
    }

    /// Reads up to `want` bytes; `copy` takes them.
    pub fn read(
        &self,
        want: usize,
        mut copy: impl FnMut(&[u8]) -> usize,
    ) -> Result<usize, Corrupt> {
        let (ring, stores) = self.incoming();
        ring.consume(&stores, want, |stretch| copy(bytes_mut(stretch)))
    }

    /// Reads without taking away, `skip` bytes further on.
    pub fn peek(
        &self,
        skip: usize,
        want: usize,
        mut copy: impl FnMut(&[u8]) -> usize,
    ) -> Result<usize, Corrupt> {
        let (ring, stores) = self.incoming();
        ring.peek(&stores, skip, want, |stretch| copy(bytes_mut(stretch)))
    }

    /// Copies bytes that this end has written and the peer has not read, `skip` bytes further on.
    pub fn peek_own(&self, skip: usize, to: &mut [u8]) -> Result<usize, Corrupt> {
        let (ring, stores) = self.outgoing();
        let mut done = 0;
        ring.peek(&stores, skip, to.len(), |stretch| {
            to[done..done + stretch.len].copy_from_slice(bytes_mut(stretch));
            done += stretch.len;
            stretch.len
        })
    }

    /// The next bytes are going to be read soon: their cache lines may come over from the peer meanwhile.
    pub fn prefetch_incoming(&self) {
        let (ring, stores) = self.incoming();
        if let Some(address) = ring.next_to_read(&stores) {
            prefetch_read(address as usize);
            prefetch_read(address as usize + CACHE_LINE_LEN);
        }
    }

    /// An answer is going to be written soon.
    pub fn prefetch_outgoing(&self) {
        let (ring, stores) = self.outgoing();
        prefetch_write(ring as *const Ring as usize);
        if let Some(address) = ring.next_to_write(&stores) {
            prefetch_write(address as usize);
        }
    }

    /// How much the peer's ring can hold now.
    pub fn incoming_capacity(&self) -> usize {
        if self.incoming().0.has_buffer() {
            pegasus_contract::layout::BUFFER_LEN
        } else {
            pegasus_contract::socket::INLINE_LEN
        }
    }

    /// Whether a writer would find a fair amount of room (Linux: a third of the send buffer).
    pub fn is_roomy(&self) -> bool {
        let (ring, stores) = self.outgoing();
        let least = if ring.has_buffer() {
            pegasus_contract::layout::BUFFER_LEN / 4
        } else {
            pegasus_contract::socket::INLINE_LEN / 4
        };
        // A corrupt ring is for the next writer to find.
        ring.room(&stores).map_or(true, |room| room >= least)
            || (!ring.has_buffer() && has_free_buffers())
    }
}

fn has_free_buffers() -> bool {
    let used = crate::socket::pools::header()
        .buffers
        .used
        .load(Ordering::Relaxed);
    (used as usize) < pegasus_contract::layout::BUFFERS_MAX
}

fn bytes_mut<'a>(stretch: Stretch) -> &'a mut [u8] {
    // SAFETY: the ring gives out stretches within its stores only, to the one task that holds the claim of that side. A
    // hostile peer may write there meanwhile: the bytes are copied, never interpreted.
    unsafe { core::slice::from_raw_parts_mut(stretch.address, stretch.len) }
}
