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

use crate::atomic::{AtomicU32, AtomicU64, Ordering, constructor};

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
const SMALL_WRITES_MAX: u32 = if cfg!(loom) { 1 } else { 64 };

/// So often a task that is neither side tries to see both sides at one moment.
const LOOKS_MAX: usize = 8;

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
    constructor! {
        pub fn new() -> Self {
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
    }

    /// Makes the ring empty, as new. Neither side may be using it.
    pub fn reset(&self) {
        self.tail.store(0, Ordering::Relaxed);
        self.buffer_from.store(0, Ordering::Relaxed);
        self.buffer.store(0, Ordering::Relaxed);
        self.small_writes.store(0, Ordering::Relaxed);
        self.head.store(0, Ordering::Relaxed);
    }

    /// Bytes that the consumer can read, as far as the ring can be believed: for showing, and for deciding to look. Any
    /// task may ask.
    pub fn len(&self) -> usize {
        let mut head = self.head.load(Ordering::Acquire);
        for _ in 1..LOOKS_MAX {
            let tail = self.tail.load(Ordering::Acquire);
            let head_after = self.head.load(Ordering::Acquire);
            if head == head_after {
                return tail.saturating_sub(head) as usize;
            }
            head = head_after;
        }
        self.tail.load(Ordering::Acquire).saturating_sub(head) as usize
    }

    /// Whether there is nothing to read. Any task may ask: "yes" was so at one moment during the call.
    pub fn is_empty(&self) -> bool {
        // In this order: a tail that is no further than an older head was not ahead of the head either.
        let head = self.head.load(Ordering::Acquire);
        self.tail.load(Ordering::Acquire) == head
    }

    /// Bytes ever written.
    pub fn written(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// Bytes ever read.
    pub fn read(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Bytes that the producer could write now without another buffer. Any task may ask; one that is not the producer
    /// may get 1 while the ring changes all the time.
    pub fn room<S: Stores>(&self, stores: &S) -> Result<usize, Corrupt> {
        let mut written = self.written_part();
        for _ in 0..LOOKS_MAX {
            let head = self.head.load(Ordering::Acquire);
            let written_after = self.written_part();
            if written == written_after {
                let (tail, attached) = written;
                return room_between(stores, head, tail, attached);
            }
            written = written_after;
        }
        Ok(1)
    }

    /// What the producer decides: the tail, and the buffer.
    fn written_part(&self) -> (u64, Option<(u32, u64)>) {
        let tail = self.tail.load(Ordering::Acquire);
        (tail, self.attached())
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
        if want == 0 {
            return Ok(0);
        }
        let mut done = 0;
        self.choose_store(stores, want)?;
        // No ring takes more at once: an enemy who moves the head along must not keep us here.
        let want = want.min(S::BUFFER_LEN.max(stores.inline().1));
        let mut tail = self.tail.load(Ordering::Relaxed);
        while done < want {
            let head = self.head.load(Ordering::Acquire);
            let room = room_between(stores, head, tail, self.attached())?;
            let Some(stretch) = self.stretch(stores, tail, room.min(want - done))? else {
                break;
            };
            let copied = copy(stretch).min(stretch.len);
            tail = tail.wrapping_add(copied as u64);
            done += copied;
            if copied < stretch.len {
                break;
            }
        }
        if done > 0 {
            self.tail.store(tail, Ordering::Release);
        }
        Ok(done)
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
            if tail - head > inline_len as u64 {
                return Err(Corrupt);
            }
            let needed = (tail - head).saturating_add(want as u64);
            if needed > inline_len as u64
                && let Some(number) = stores.claim_buffer()
            {
                self.buffer_from.store(tail, Ordering::Release);
                self.buffer.store(number + 1, Ordering::Release);
            }
            return Ok(());
        };
        if head == tail {
            // From the start of the buffer again: what is read soon after it is written stays in the cache.
            self.buffer_from.store(tail, Ordering::Release);
        }
        if head != tail || want > inline_len / 2 {
            self.small_writes.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let small = self.small_writes.load(Ordering::Relaxed).saturating_add(1);
        self.small_writes.store(small, Ordering::Relaxed);
        if small >= SMALL_WRITES_MAX && stores.buffer(number).is_some() {
            self.small_writes.store(0, Ordering::Relaxed);
            // An exchange, so that no number is given back twice, whoever else writes here.
            let exchanged =
                self.buffer
                    .compare_exchange(number + 1, 0, Ordering::AcqRel, Ordering::Relaxed);
            if exchanged.is_ok() {
                stores.release_buffer(number);
            }
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
                (
                    base,
                    len,
                    offset,
                    len_max.min(before.min(len as u64) as usize),
                )
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
        let (head, len) = self.readable(stores)?;
        let done = self.copy_out(stores, head, want.min(len), copy)?;
        if done > 0 {
            self.head.store(head + done as u64, Ordering::Release);
        }
        Ok(done)
    }

    /// [`Ring::consume`], leaving the bytes where they are, and beginning `skip` bytes further on.
    pub fn peek<S: Stores>(
        &self,
        stores: &S,
        skip: usize,
        want: usize,
        copy: impl FnMut(Stretch) -> usize,
    ) -> Result<usize, Corrupt> {
        let (head, len) = self.readable(stores)?;
        let skip = skip.min(len);
        self.copy_out(stores, head + skip as u64, want.min(len - skip), copy)
    }

    /// Where the consumer reads next. Within a store, whatever the ring says, but only a guess for anybody else.
    pub fn next_to_read<S: Stores>(&self, stores: &S) -> Option<*mut u8> {
        self.place(stores, self.head.load(Ordering::Relaxed))
    }

    /// Where the producer writes next, if nothing changes before.
    pub fn next_to_write<S: Stores>(&self, stores: &S) -> Option<*mut u8> {
        self.place(stores, self.tail.load(Ordering::Relaxed))
    }

    fn place<S: Stores>(&self, stores: &S, position: u64) -> Option<*mut u8> {
        let stretch = self.stretch(stores, position, 1).ok()??;
        Some(stretch.address)
    }

    /// Consumer: `len` readable bytes from `position` on.
    fn copy_out<S: Stores>(
        &self,
        stores: &S,
        position: u64,
        len: usize,
        mut copy: impl FnMut(Stretch) -> usize,
    ) -> Result<usize, Corrupt> {
        let mut done = 0;
        while done < len {
            let from = position + done as u64;
            let Some(stretch) = self.stretch(stores, from, len - done)? else {
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

/// Bytes that can be written at `tail`.
fn room_between<S: Stores>(
    stores: &S,
    head: u64,
    tail: u64,
    attached: Option<(u32, u64)>,
) -> Result<usize, Corrupt> {
    let (len, used) = match attached {
        Some((_, from)) => (S::BUFFER_LEN, tail.wrapping_sub(head.max(from))),
        None => (stores.inline().1, tail.wrapping_sub(head)),
    };
    if head > tail || used > len as u64 {
        return Err(Corrupt);
    }
    Ok(len - used as usize)
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}
