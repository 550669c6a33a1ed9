//! The pools of [`pegasus_contract::socket`]: records at fixed places in the shared heap, named by index.
//!
//! Free records are a stack of indices below a count of changes, so that a task that is killed at any instruction leaves
//! the pool whole (it may lose the one record it was taking).
//!
//! Unsafe here: it makes references out of addresses. Every record is atomics only, for which any bytes are a value.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use pegasus_contract::layout::{
    BUCKET_LEN_BYTES, BUFFER_LEN, BUFFERS_BASE, BUFFERS_MAX, CONNECTION_LEN, CONNECTIONS_BASE,
    CONNECTIONS_MAX, DIRECTORY_BASE, DIRECTORY_BUCKETS, ITEM_LEN, ITEMS_BASE, ITEMS_MAX,
    POOLS_BASE, SET_LEN, SETS_BASE, SETS_MAX, SOCKET_LEN, SOCKETS_BASE, SOCKETS_MAX,
};
use pegasus_contract::socket::{
    Bucket, ConnectionRecord, INLINE_LEN, ItemRecord, PoolHead, PoolsHeader, SetRecord,
    SocketRecord,
};
use pegasus_sync::Stores;

/// The head of all pools.
pub fn header() -> &'static PoolsHeader {
    // SAFETY: part of the heap, which is mapped before the image is entered.
    unsafe { &*(POOLS_BASE as *const PoolsHeader) }
}

/// A kind of record.
pub trait Pooled: Sized + 'static {
    const BASE: usize;
    const LEN: usize;
    const MAX: usize;
    fn head() -> &'static PoolHead;
    fn next_free(&self) -> &AtomicU32;

    /// The record with this index, if there can be one.
    fn at(index: u32) -> Option<&'static Self> {
        let address = Self::BASE + index as usize * Self::LEN;
        // SAFETY: within the pool, and all bytes there are a value of the record.
        ((index as usize) < Self::MAX).then(|| unsafe { &*(address as *const Self) })
    }

    /// The index of a record of the pool.
    fn index(&self) -> u32 {
        ((&raw const *self as usize - Self::BASE) / Self::LEN) as u32
    }

    /// A record nobody uses, as its last user left it or all zero. `None`: all are in use.
    fn claim() -> Option<&'static Self> {
        let next = |index| Self::at(index).map(|record| record.next_free().load(Ordering::Relaxed));
        let record = Self::at(claim_index(Self::head(), Self::MAX, next)?)?;
        Some(record)
    }

    /// Gives a record back.
    fn release(&self) {
        release_index(Self::head(), self.index(), self.next_free());
    }
}

const INDEX_MASK: u64 = 0xffff_ffff;

fn claim_index(head: &PoolHead, max: usize, next: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    let mut free = head.free.load(Ordering::Acquire);
    while let Some(index) = ((free & INDEX_MASK) as u32).checked_sub(1) {
        let after = u64::from(next(index)?) | ((free & !INDEX_MASK).wrapping_add(INDEX_MASK + 1));
        match head
            .free
            .compare_exchange_weak(free, after, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => {
                head.used.fetch_add(1, Ordering::Relaxed);
                return Some(index);
            }
            Err(now) => free = now,
        }
    }
    let fresh = head
        .fresh
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |fresh| {
            ((fresh as usize) < max).then_some(fresh + 1)
        })
        .ok()?;
    head.used.fetch_add(1, Ordering::Relaxed);
    Some(fresh)
}

fn release_index(head: &PoolHead, index: u32, next: &AtomicU32) {
    let mut free = head.free.load(Ordering::Acquire);
    loop {
        next.store((free & INDEX_MASK) as u32, Ordering::Relaxed);
        let after = u64::from(index + 1) | ((free & !INDEX_MASK).wrapping_add(INDEX_MASK + 1));
        match head
            .free
            .compare_exchange_weak(free, after, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => break,
            Err(now) => free = now,
        }
    }
    head.used.fetch_sub(1, Ordering::Relaxed);
}

macro_rules! pooled {
    ($($kind:ty: $base:expr, $len:expr, $max:expr, $head:ident;)*) => {$(
        impl Pooled for $kind {
            const BASE: usize = $base;
            const LEN: usize = $len;
            const MAX: usize = $max;
            fn head() -> &'static PoolHead {
                &header().$head
            }
            fn next_free(&self) -> &AtomicU32 {
                &self.next_free
            }
        }
    )*};
}

pooled! {
    SocketRecord: SOCKETS_BASE, SOCKET_LEN, SOCKETS_MAX, sockets;
    ConnectionRecord: CONNECTIONS_BASE, CONNECTION_LEN, CONNECTIONS_MAX, connections;
    ItemRecord: ITEMS_BASE, ITEM_LEN, ITEMS_MAX, items;
    SetRecord: SETS_BASE, SET_LEN, SETS_MAX, sets;
}

/// The bucket for a hash.
pub fn bucket(hash: u64) -> &'static Bucket {
    let address = DIRECTORY_BASE + hash as usize % DIRECTORY_BUCKETS * BUCKET_LEN_BYTES;
    // SAFETY: within the directory; a bucket is atomics.
    unsafe { &*(address as *const Bucket) }
}

/// The stores of one direction of a connection.
pub struct DirectionStores<'a>(pub &'a [AtomicU64; INLINE_LEN / 8]);

impl Stores for DirectionStores<'_> {
    const BUFFER_LEN: usize = BUFFER_LEN;

    fn inline(&self) -> (*mut u8, usize) {
        ((&raw const *self.0).cast_mut().cast(), INLINE_LEN)
    }

    fn claim_buffer(&self) -> Option<u32> {
        let links = &header().buffer_links;
        claim_index(&header().buffers, BUFFERS_MAX, |index| {
            Some(links.get(index as usize)?.load(Ordering::Relaxed))
        })
    }

    fn release_buffer(&self, number: u32) {
        if let Some(link) = header().buffer_links.get(number as usize) {
            release_index(&header().buffers, number, link);
        }
    }

    fn buffer(&self, number: u32) -> Option<*mut u8> {
        ((number as usize) < BUFFERS_MAX)
            .then_some((BUFFERS_BASE + number as usize * BUFFER_LEN) as *mut u8)
    }
}
