//! Mappings at fixed addresses.

use nix::errno::Errno;
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

pub const PAGE_LEN: usize = 4096;

/// Private memory at a fixed address that nothing else occupied.
#[derive(Debug)]
pub struct FixedMapping {
    start: NonNull<libc::c_void>,
    len: usize,
}

impl FixedMapping {
    /// Maps the pages of `range`, readable and writable, filled with zeros.
    pub fn private(range: Range<usize>) -> Result<Self, Errno> {
        let start = range.start - range.start % PAGE_LEN;
        let len = range
            .end
            .checked_sub(start)
            .ok_or(Errno::EINVAL)?
            .next_multiple_of(PAGE_LEN);
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        let (address, len) = nonzero(start, len)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
        let mapped = unsafe { mmap_anonymous(Some(address), len, access, flags) }?;
        Ok(FixedMapping {
            start: at(mapped, address, len)?,
            len: len.get(),
        })
    }

    /// Copies `bytes` to `address`, which must lie within the mapping.
    pub fn write(&mut self, address: usize, bytes: &[u8]) -> Result<(), Errno> {
        let offset = address
            .checked_sub(self.start.as_ptr() as usize)
            .ok_or(Errno::EFAULT)?;
        if offset
            .checked_add(bytes.len())
            .is_none_or(|end| end > self.len)
        {
            return Err(Errno::EFAULT);
        }
        // SAFETY: the target lies within the mapping, which is private, writable, and borrowed.
        unsafe {
            let target = self.start.as_ptr().cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
        Ok(())
    }

    /// Gives the mapping its final access and leaves it to whoever uses the addresses.
    pub fn finish(self, access: ProtFlags) -> Result<(), Errno> {
        // SAFETY: no reference into the mapping exists.
        unsafe { mprotect(self.start, self.len, access) }
    }
}

/// Maps a whole file, shared, at a fixed address; left out of core dumps.
pub fn map_shared(file: &File, address: usize, len: usize) -> Result<(), Errno> {
    let (address, len) = nonzero(address, len)?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED_NOREPLACE | MapFlags::MAP_NORESERVE;
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping.
    let mapped = unsafe { mmap(Some(address), len, access, flags, file, 0) }?;
    let start = at(mapped, address, len)?;
    // SAFETY: advice about a mapping that exists.
    unsafe { madvise(start, len.get(), MmapAdvise::MADV_DONTDUMP) }
}

fn nonzero(address: usize, len: usize) -> Result<(NonZeroUsize, NonZeroUsize), Errno> {
    NonZeroUsize::new(address)
        .zip(NonZeroUsize::new(len))
        .ok_or(Errno::EINVAL)
}

/// Kernels before 4.17 take MAP_FIXED_NOREPLACE for a hint only.
fn at(
    mapped: NonNull<libc::c_void>,
    wanted: NonZeroUsize,
    len: NonZeroUsize,
) -> Result<NonNull<libc::c_void>, Errno> {
    if mapped.as_ptr() as usize == wanted.get() {
        return Ok(mapped);
    }
    // SAFETY: just mapped, and nothing refers to it.
    unsafe { munmap(mapped, len.get()) }?;
    Err(Errno::EEXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: usize = 0x1234_5000_0000;

    #[test]
    fn a_mapping_is_made_once_and_written_within_its_bounds() {
        let mut mapping = FixedMapping::private(FREE + 0x10..FREE + 0x20).unwrap();
        assert_eq!(
            FixedMapping::private(FREE..FREE + 1).unwrap_err(),
            Errno::EEXIST
        );
        mapping.write(FREE + 0x10, b"0123456789abcdef").unwrap();
        mapping.write(FREE + PAGE_LEN - 1, b"x").unwrap();
        assert_eq!(
            mapping.write(FREE + PAGE_LEN - 1, b"xy"),
            Err(Errno::EFAULT)
        );
        assert_eq!(mapping.write(FREE - 1, b"x"), Err(Errno::EFAULT));
        mapping.finish(ProtFlags::PROT_READ).unwrap();
    }
}
