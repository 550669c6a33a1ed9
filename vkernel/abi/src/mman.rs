//! mmap(2), mremap(2), madvise(2) and mlock(2) constants.

pub const PAGE_LEN: usize = 4096;

pub const PROT_NONE: usize = 0;
pub const PROT_READ: usize = 1;
pub const PROT_WRITE: usize = 2;
pub const PROT_EXEC: usize = 4;

pub const MAP_SHARED: usize = 0x01;
pub const MAP_PRIVATE: usize = 0x02;
pub const MAP_TYPE: usize = 0x0f;
pub const MAP_FIXED: usize = 0x10;
pub const MAP_ANONYMOUS: usize = 0x20;
pub const MAP_32BIT: usize = 0x40;
pub const MAP_GROWSDOWN: usize = 0x100;
pub const MAP_LOCKED: usize = 0x2000;
pub const MAP_NORESERVE: usize = 0x4000;
pub const MAP_STACK: usize = 0x2_0000;
pub const MAP_HUGETLB: usize = 0x4_0000;
pub const MAP_FIXED_NOREPLACE: usize = 0x10_0000;
/// Shift and mask of the huge page size in mmap's flags (log2, 0 = the default size).
pub const MAP_HUGE_SHIFT: usize = 26;
pub const MAP_HUGE_MASK: usize = 0x3f;

pub const MREMAP_MAYMOVE: usize = 1;
pub const MREMAP_FIXED: usize = 2;
pub const MREMAP_DONTUNMAP: usize = 4;

pub const MADV_DONTNEED: usize = 4;
pub const MADV_REMOVE: usize = 9;
pub const MADV_DONTFORK: usize = 10;
pub const MADV_DOFORK: usize = 11;

pub const MCL_CURRENT: usize = 1;
pub const MCL_FUTURE: usize = 2;
pub const MCL_ONFAULT: usize = 4;
pub const MLOCK_ONFAULT: usize = 1;

pub const SHM_RDONLY: usize = 0o10000;
pub const SHM_RND: usize = 0o20000;
pub const SHM_REMAP: usize = 0o40000;
pub const IPC_STAT: usize = 2;

/// Rounds up to a whole page; `None` on overflow.
pub const fn page_up(len: usize) -> Option<usize> {
    match len.checked_add(PAGE_LEN - 1) {
        Some(sum) => Some(sum & !(PAGE_LEN - 1)),
        None => None,
    }
}

pub const fn page_down(address: usize) -> usize {
    address & !(PAGE_LEN - 1)
}

pub const fn is_page_aligned(address: usize) -> bool {
    address & (PAGE_LEN - 1) == 0
}
