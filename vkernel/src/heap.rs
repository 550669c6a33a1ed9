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
use pegasus_abi::mman::MADV_REMOVE;
use pegasus_contract::layout::{ARENA_LEN, arena_base};
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
        let arena = base as *mut Arena;
        // SAFETY: `base` is mapped, page aligned and unused.
        unsafe {
            arena.write(Arena {
                memory: Lock::new(Talc::new(ErrOnOom)),
                extent: AtomicUsize::new(base),
            });
            let span = Span::new((base + HEAD_LEN) as *mut u8, (base + ARENA_LEN) as *mut u8);
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
    let index = (memory as usize - arena_base(0)) / ARENA_LEN;
    let arena = arena_base(index) as *const Arena;
    // SAFETY: the memory lies in the arena whose head this is.
    unsafe {
        if let Some(memory) = core::ptr::NonNull::new(memory) {
            (*arena).memory.lock().free(memory, layout);
        }
    }
}
