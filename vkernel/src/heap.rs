//! Arenas: the memory of the vkernel itself, in the shared heap.
//!
//! Each process record has an arena of its own, and everything a process allocates lies there. So
//! a task that is killed in the middle of an allocation stops nobody outside its process, and what it
//! held is given back with the arena, whole. The image's global allocator calls [`allocate`] and [`release`], which use the
//! arena of the calling thread.
//!
//! Unsafe here: it makes memory out of addresses.
#![allow(unsafe_code)]

use crate::task::Thread;
use core::alloc::Layout;
use core::sync::atomic::{AtomicUsize, Ordering};
use pegasus_abi::Result;
use pegasus_abi::mman::{
    MADV_REMOVE, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, PROT_READ,
    PROT_WRITE,
};
use pegasus_contract::layout::{
    ARENA_BASE, ARENA_LEN, PRIVATE_ARENA_BASE, PRIVATE_ARENA_LEN, arena_base,
};
use pegasus_contract::record::ProcessRecord;
use pegasus_host::memory;
use pegasus_sync::Lock;
use talc::{ErrOnOom, Span, Talc};

/// The head of an arena; the rest of it is what [`Talc`] hands out.
pub struct Arena {
    memory: Lock<Talc<ErrOnOom>>,
    /// End of the highest allocation so far.
    extent: AtomicUsize,
}

/// So much of an arena is kept when its record is used again: giving pages back and faulting them in anew costs more than
/// all else that a `fork` does here.
const WARM_LEN: usize = 512 << 10;

/// Room kept for [`Arena`] itself.
const HEAD_LEN: usize = 4096;
const _: () = assert!(size_of::<Arena>() <= HEAD_LEN);

impl Arena {
    /// Makes the arena of process record `index` anew. The record must be the caller's: nobody else uses
    /// that range.
    pub fn create(index: usize) -> &'static Arena {
        let base = arena_base(index);
        Self::cool_down(base);
        Self::create_at(base, ARENA_LEN)
    }

    /// Makes an arena in private memory for a child of this arena's process, which shall have it all to itself: it is
    /// made before `fork`, and given back in the parent ([`Arena::unmap_private`]) after it. `slot` is the process's.
    pub fn create_private(&self, slot: usize) -> Result<&'static Arena> {
        let pair = PRIVATE_ARENA_BASE + 2 * slot * PRIVATE_ARENA_LEN;
        let base = if self.base() == pair {
            pair + PRIVATE_ARENA_LEN
        } else {
            pair
        };
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
        // SAFETY: NOREPLACE: nothing mapped is touched.
        unsafe {
            memory::mmap(
                base,
                PRIVATE_ARENA_LEN,
                PROT_READ | PROT_WRITE,
                flags,
                usize::MAX,
                0,
            )?;
        }
        Ok(Self::create_at(base, PRIVATE_ARENA_LEN))
    }

    /// Takes the parent's copy of a child's private arena away.
    ///
    /// # Safety
    /// Made by [`Arena::create_private`] in this process; nothing in it may be used any more.
    pub unsafe fn unmap_private(&'static self) {
        // SAFETY: the caller's promise.
        let _ = unsafe { memory::munmap(self.base(), PRIVATE_ARENA_LEN) };
    }

    fn base(&self) -> usize {
        &raw const *self as usize
    }

    fn create_at(base: usize, len: usize) -> &'static Arena {
        let arena = base as *mut Arena;
        // SAFETY: `base` is mapped, page aligned and unused.
        unsafe {
            arena.write(Arena {
                memory: Lock::new(Talc::new(ErrOnOom)),
                extent: AtomicUsize::new(base),
            });
            let span = Span::new((base + HEAD_LEN) as *mut u8, (base + len) as *mut u8);
            let _ = (*arena).memory.lock().claim(span);
            &*arena
        }
    }

    /// Gives back what the last process there has used beyond [`WARM_LEN`].
    fn cool_down(base: usize) {
        // SAFETY: mapped; zero if no process has had this arena yet, else what it left, which is only compared.
        let extent = unsafe { &(*(base as *const Arena)).extent }.load(Ordering::Relaxed);
        if extent > base + WARM_LEN {
            // SAFETY: the range belongs to this record alone. Removed pages read as zero; on failure they are merely reused.
            let _ = unsafe {
                pegasus_host::memory::madvise(base + WARM_LEN, ARENA_LEN - WARM_LEN, MADV_REMOVE)
            };
        }
    }

    /// Memory for `layout`, or null when the arena is full.
    pub fn allocate(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the global allocator never asks for zero bytes, nor do callers here.
        let memory = unsafe { self.memory.lock().malloc(layout) }
            .map_or(core::ptr::null_mut(), core::ptr::NonNull::as_ptr);
        let end = memory as usize + layout.size();
        if end > self.extent.load(Ordering::Relaxed) {
            self.extent.fetch_max(end, Ordering::Relaxed);
        }
        memory
    }

    /// A record of zeroes in the arena, or `None` when it is full.
    pub fn place_record(&self) -> Option<&'static ProcessRecord> {
        let place = self.allocate(Layout::new::<ProcessRecord>());
        if place.is_null() {
            return None;
        }
        // SAFETY: freshly allocated; a record is nothing but atomic integers, of which zero is a value.
        unsafe {
            place.write_bytes(0, size_of::<ProcessRecord>());
            Some(&*place.cast::<ProcessRecord>())
        }
    }

    /// Moves `value` into the arena, for as long as the arena lives.
    pub fn place<T>(&self, value: T) -> &'static T {
        let place = self.allocate(Layout::new::<T>()).cast::<T>();
        assert!(
            !place.is_null(),
            "a new arena has room for its first objects"
        );
        // SAFETY: freshly allocated for exactly this type.
        unsafe {
            place.write(value);
            &*place
        }
    }
}

/// The global allocator's `alloc`.
pub fn allocate(layout: Layout) -> *mut u8 {
    Thread::current().arena().allocate(layout)
}

/// The global allocator's `dealloc`.
///
/// # Safety
/// `memory` came from [`allocate`] with the same layout. It may belong to another arena of the same
/// container (a child frees nothing of its parent's, but a `vfork` child shares its parent's arena).
pub unsafe fn release(memory: *mut u8, layout: Layout) {
    let (first, len) = if memory as usize >= PRIVATE_ARENA_BASE {
        (PRIVATE_ARENA_BASE, PRIVATE_ARENA_LEN)
    } else {
        (ARENA_BASE, ARENA_LEN)
    };
    let arena = (first + (memory as usize - first) / len * len) as *const Arena;
    // SAFETY: the memory lies in the arena whose head this is.
    unsafe {
        if let Some(memory) = core::ptr::NonNull::new(memory) {
            (*arena).memory.lock().free(memory, layout);
        }
    }
}
