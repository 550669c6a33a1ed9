//! A byte ring between one producer and one consumer that need not trust each other, in memory that both map.
//!
//! Positions count bytes since the ring was made and never wrap (2^64 bytes are centuries). Up to
//! [`Ring`]'s `buffer_from` a byte at position `p` lies in the small *inline* store, from there on in a *buffer*, if one is
//! attached. Only the producer attaches one (when the inline store is too small for what it has), and
//! only it takes one away again, at a moment when the ring is empty.
//!
//! ```text
//! head (consumer) ≤ tail (producer)     tail − head bytes are readable
//!          │             │
//!   …──────▼─────────────▼────────►  positions
//!       inline │ buffer
//!          buffer_from
//! ```
//!
//! Nothing here is a pointer: the ring may be mapped at different addresses. Every number read from it is checked as if an
//! enemy had written it: then an operation gives [`Corrupt`] and touches nothing outside the stores. Waking the other
//! side is not the ring's business.
//!
//! Invariants: `tail` is written by the producer only, after the bytes before it (Release); `head` by the
//! consumer only, after it has copied the bytes out (Release). `buffer` and `buffer_from` are written by the producer before
//! the `tail` that makes their first byte readable. Each side must be one task at a time: see [`Claim`](crate::Claim).

use crate::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is read from the ring cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

/// Where a ring's bytes lie.
pub trait Stores {
    /// Length of a buffer.
    const BUFFER_LEN: usize;
    /// The inline store.
    fn inline(&self) -> (*mut u8, usize);
    /// A free buffer's number, or `None` when there is none.
    fn claim_buffer(&self) -> Option<u32>;
    /// Gives a buffer back.
    fn release_buffer(&self, number: u32);
    /// Address of a buffer, `None` for a number that cannot be one.
    fn buffer(&self, number: u32) -> Option<*mut u8>;
}

/// After so many small writes in a row that found the ring empty, its buffer is given back.
const SMALL_WRITES_MAX: u32 = 64;

/// The shared part.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Ring {
    /// Written by the producer.
    tail: AtomicU64,
    /// Where the buffer takes over from the inline store.
    buffer_from: AtomicU64,
    /// Number of the attached buffer + 1, or 0.
    buffer: AtomicU32,
    small_writes: AtomicU32,
    _pad0: [u64; 5],
    /// Written by the consumer.
    head: AtomicU64,
    _pad1: [u64; 7],
}

/// A stretch of memory that belongs to one side for the length of a copy.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    pub address: *mut u8,
    pub len: usize,
}

impl Ring {
    pub const fn new() -> Self {
        Self {
            tail: AtomicU64::new(0),
            buffer_from: AtomicU64::new(0),
            buffer: AtomicU32::new(0),
            small_writes: AtomicU32::new(0),
            _pad0: [0; 5],
            head: AtomicU64::new(0),
            _pad1: [0; 7],
        }
    }

    /// Makes the ring empty, as new. Neither side may be using it.
    pub fn reset(&self) {
        self.tail.store(0, Ordering::Relaxed);
        self.buffer_from.store(0, Ordering::Relaxed);
        self.buffer.store(0, Ordering::Relaxed);
        self.small_writes.store(0, Ordering::Relaxed);
        self.head.store(0, Ordering::Relaxed);
    }

    /// Bytes that the consumer can read, as far as the ring can be believed: for showing, and for deciding to look.
    pub fn len(&self) -> usize {
        let head = self.head.load(Ordering::Acquire);
        self.tail.load(Ordering::Acquire).saturating_sub(head) as usize
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.tail.load(Ordering::Acquire) == self.head.load(Ordering::Acquire)
    }

    /// Bytes ever written.
    pub fn written(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// Bytes ever read.
    pub fn read(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Bytes that the producer could write now without another buffer.
    pub fn room<S: Stores>(&self, stores: &S) -> Result<usize, Corrupt> {
        let head = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Acquire);
        let (from, used) = match self.attached() {
            Some((_, from)) => (S::BUFFER_LEN, tail.wrapping_sub(head.max(from))),
            None => (stores.inline().1, tail.wrapping_sub(head)),
        };
        if head > tail || used > from as u64 {
            return Err(Corrupt);
        }
        Ok(from - used as usize)
    }

    /// Whether the ring has a buffer.
    pub fn has_buffer(&self) -> bool {
        self.buffer.load(Ordering::Acquire) != 0
    }

    fn attached(&self) -> Option<(u32, u64)> {
        let number = self.buffer.load(Ordering::Acquire).checked_sub(1)?;
        Some((number, self.buffer_from.load(Ordering::Acquire)))
    }

    /// Producer: writes up to `want` bytes, as far as there is room. `copy` fills a stretch and gives how many bytes it
    /// filled; fewer than asked ends the operation. Gives the number of bytes written.
    pub fn produce<S: Stores>(
        &self,
        stores: &S,
        want: usize,
        mut copy: impl FnMut(Stretch) -> usize,
    ) -> Result<usize, Corrupt> {
        let mut done = 0;
        self.choose_store(stores, want)?;
        let mut tail = self.tail.load(Ordering::Relaxed);
        while done < want {
            let room = self.room_at(stores, tail)?;
            let Some(stretch) = self.stretch(stores, tail, room.min(want - done))? else {
                break;
            };
            let copied = copy(stretch).min(stretch.len);
            tail += copied as u64;
            done += copied;
            if copied < stretch.len {
                break;
            }
        }
        self.tail.store(tail, Ordering::Release);
        Ok(done)
    }

    fn room_at<S: Stores>(&self, stores: &S, tail: u64) -> Result<usize, Corrupt> {
        let head = self.head.load(Ordering::Acquire);
        let (len, used) = match self.attached() {
            Some((_, from)) => (S::BUFFER_LEN, tail.wrapping_sub(head.max(from))),
            None => (stores.inline().1, tail.wrapping_sub(head)),
        };
        if head > tail || used > len as u64 {
            return Err(Corrupt);
        }
        Ok(len - used as usize)
    }

    /// Producer: attaches a buffer if `want` bytes do not fit, or gives one back that has not been needed for long.
    fn choose_store<S: Stores>(&self, stores: &S, want: usize) -> Result<(), Corrupt> {
        let tail = self.tail.load(Ordering::Relaxed);
        let head = self.head.load(Ordering::Acquire);
        let inline_len = stores.inline().1;
        if head > tail {
            return Err(Corrupt);
        }
        let Some((number, _)) = self.attached() else {
            let used = (tail - head) as usize;
            if used + want > inline_len
                && let Some(number) = stores.claim_buffer()
            {
                self.buffer_from.store(tail, Ordering::Release);
                self.buffer.store(number + 1, Ordering::Release);
            }
            return Ok(());
        };
        if head != tail || want > inline_len / 2 {
            self.small_writes.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let small = self.small_writes.load(Ordering::Relaxed) + 1;
        self.small_writes.store(small, Ordering::Relaxed);
        if small >= SMALL_WRITES_MAX && stores.buffer(number).is_some() {
            self.small_writes.store(0, Ordering::Relaxed);
            self.buffer.store(0, Ordering::Release);
            stores.release_buffer(number);
        }
        Ok(())
    }

    /// The memory from `position` on, `len_max` bytes at most and no further than it is contiguous. `None` for none.
    fn stretch<S: Stores>(
        &self,
        stores: &S,
        position: u64,
        len_max: usize,
    ) -> Result<Option<Stretch>, Corrupt> {
        if len_max == 0 {
            return Ok(None);
        }
        let (base, store_len, offset, len_max) = match self.attached() {
            Some((number, from)) if position >= from => {
                let base = stores.buffer(number).ok_or(Corrupt)?;
                let offset = (position - from) % S::BUFFER_LEN as u64;
                (base, S::BUFFER_LEN, offset as usize, len_max)
            }
            attached => {
                let (base, len) = stores.inline();
                let before = attached.map_or(u64::MAX, |(_, from)| from - position);
                let offset = (position % len as u64) as usize;
                (base, len, offset, len_max.min(before.min(len as u64) as usize))
            }
        };
        let len = len_max.min(store_len - offset);
        Ok(Some(Stretch {
            // Within the store: `offset` is less than its length.
            address: base.wrapping_add(offset),
            len,
        }))
    }

    /// Consumer: the readable bytes, after checking that there can be so many.
    fn readable<S: Stores>(&self, stores: &S) -> Result<(u64, usize), Corrupt> {
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Acquire);
        let len = tail.checked_sub(head).ok_or(Corrupt)?;
        if len > (S::BUFFER_LEN + stores.inline().1) as u64 {
            return Err(Corrupt);
        }
        Ok((head, len as usize))
    }

    /// Consumer: reads up to `want` bytes. `copy` empties a stretch and gives how many bytes it took; fewer than asked
    /// ends the operation. Gives the number of bytes read.
    pub fn consume<S: Stores>(
        &self,
        stores: &S,
        want: usize,
        copy: impl FnMut(Stretch) -> usize,
    ) -> Result<usize, Corrupt> {
        let done = self.peek(stores, 0, want, copy)?;
        let head = self.head.load(Ordering::Relaxed);
        self.head.store(head + done as u64, Ordering::Release);
        Ok(done)
    }

    /// [`Ring::consume`], leaving the bytes where they are, and beginning `skip` bytes further on.
    pub fn peek<S: Stores>(
        &self,
        stores: &S,
        skip: usize,
        want: usize,
        mut copy: impl FnMut(Stretch) -> usize,
    ) -> Result<usize, Corrupt> {
        let (head, len) = self.readable(stores)?;
        let want = want.min(len.saturating_sub(skip));
        let mut done = 0;
        while done < want {
            let position = head + (skip + done) as u64;
            let Some(stretch) = self.stretch(stores, position, want - done)? else {
                break;
            };
            let copied = copy(stretch).min(stretch.len);
            done += copied;
            if copied < stretch.len {
                break;
            }
        }
        Ok(done)
    }

    /// Gives the buffer back. Neither side may use the ring any more.
    pub fn dispose<S: Stores>(&self, stores: &S) {
        let number = self.buffer.swap(0, Ordering::AcqRel);
        if let Some(number) = number.checked_sub(1)
            && stores.buffer(number).is_some()
        {
            stores.release_buffer(number);
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}
