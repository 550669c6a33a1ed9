//! Mappings: mmap(2) and its relatives.

use crate::raw::{call, call1, call2, call3, call5};
use pegasus_abi::errno::Result;
use pegasus_abi::nr;

/// mmap(2).
///
/// # Safety
/// With `MAP_FIXED`, nothing Rust relies on may be mapped in the range.
pub unsafe fn mmap(
    address: usize,
    len: usize,
    prot: usize,
    flags: usize,
    fd: usize,
    offset: usize,
) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call(nr::MMAP, [address, len, prot, flags, fd, offset]) }
}

/// munmap(2).
///
/// # Safety
/// Nothing Rust relies on may be mapped in the range.
pub unsafe fn munmap(address: usize, len: usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call2(nr::MUNMAP, address, len) }
}

/// mprotect(2).
///
/// # Safety
/// Nothing Rust relies on may lose an access it needs.
pub unsafe fn mprotect(address: usize, len: usize, prot: usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call3(nr::MPROTECT, address, len, prot) }
}

/// mremap(2).
///
/// # Safety
/// Neither the old nor the new range may hold anything Rust relies on.
pub unsafe fn mremap(
    old: usize,
    old_len: usize,
    new_len: usize,
    flags: usize,
    new: usize,
) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call5(nr::MREMAP, old, old_len, new_len, flags, new) }
}

/// madvise(2).
///
/// # Safety
/// Advice that changes contents (`MADV_DONTNEED`, `MADV_REMOVE`) only on memory nothing relies on.
pub unsafe fn madvise(address: usize, len: usize, advice: usize) -> Result {
    // SAFETY: the caller's promise.
    unsafe { call3(nr::MADVISE, address, len, advice) }
}

/// mlock2(2).
pub fn mlock2(address: usize, len: usize, flags: usize) -> Result {
    // SAFETY: locking changes no contents and no protection.
    unsafe { call3(nr::MLOCK2, address, len, flags) }
}

/// munlock(2).
pub fn munlock(address: usize, len: usize) -> Result {
    // SAFETY: as for `mlock2`.
    unsafe { call2(nr::MUNLOCK, address, len) }
}

/// Tells every CPU that runs this address space to drop prefetched instructions; registers the
/// address space on first use. membarrier(2), `PRIVATE_EXPEDITED_SYNC_CORE`.
pub fn sync_core() -> Result {
    const SYNC_CORE: usize = 1 << 5;
    const REGISTER_SYNC_CORE: usize = 1 << 6;
    // SAFETY: membarrier touches no memory.
    unsafe {
        match call1(nr::MEMBARRIER, SYNC_CORE) {
            Err(pegasus_abi::Errno::EPERM) => {
                call1(nr::MEMBARRIER, REGISTER_SYNC_CORE)?;
                call1(nr::MEMBARRIER, SYNC_CORE)
            }
            other => other,
        }
    }
}
