//! mmap(2) and its relatives: placed and checked by [`crate::mm::Space`].
#![allow(unsafe_code)]

use crate::entry::Call;
use crate::mm::SpaceInner;
use crate::syscall::table::{forward, forward_as};
use crate::task::Process;
use core::ops::Range;
use pegasus_abi::mman::IPC_STAT;
use pegasus_abi::mman::{
    MAP_32BIT, MAP_FIXED, MAP_LOCKED, MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT,
    MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE, PAGE_LEN, SHM_REMAP, SHM_RND, is_page_aligned,
    page_down, page_up,
};
use pegasus_abi::prctl::{RLIM_INFINITY, RLIMIT_MEMLOCK};
use pegasus_abi::{Errno, Result, nr};
use pegasus_contract::layout::{VKERNEL_BASE, VKERNEL_END};
use pegasus_host::memory;

pub fn mmap(call: &Call) -> Result {
    let [address, len, prot, flags, fd, offset] = call.args;
    let process = call.thread.process();
    if flags & MAP_FIXED != 0
        && let Some(end) = address.checked_add(len)
    {
        process.rewriter.forget(address..end);
    }
    let mut space = process.space.lock();
    if flags & MAP_32BIT != 0 {
        space.claim_low_window(process.record_index());
    }
    check_address_limit(process, &space, len)?;
    space.map(address, len, prot, flags, fd, offset)
}

/// ENOMEM if `more` bytes would exceed RLIMIT_AS.
fn check_address_limit(process: &Process, space: &SpaceInner, more: usize) -> Result<()> {
    let limit = process.address_limit.lock().soft;
    if limit == RLIM_INFINITY {
        return Ok(());
    }
    let total = space.occupied().total_len().saturating_add(more) as u64;
    if total > limit {
        Err(Errno::ENOMEM)
    } else {
        Ok(())
    }
}

pub fn munmap(call: &Call) -> Result {
    let [address, len, ..] = call.args;
    let process = call.thread.process();
    if let Some(end) = address.checked_add(len) {
        process.rewriter.forget(address..end);
    }
    process.space.lock().unmap(address, len)
}

pub fn mprotect(call: &Call) -> Result {
    protect(call, nr::MPROTECT)
}

pub fn pkey_mprotect(call: &Call) -> Result {
    protect(call, nr::PKEY_MPROTECT)
}

fn protect(call: &Call, number: usize) -> Result {
    let [address, len, prot, ..] = call.args;
    let mut space = call.thread.process().space.lock();
    let range = own_range(&space, address, len)?;
    let done = forward_as(number, &call.args)?;
    space.note_protected(range, prot);
    Ok(done)
}

/// The pages of a range that must be the container's. ENOMEM as for unmapped pages.
fn own_range(space: &SpaceInner, address: usize, len: usize) -> Result<Range<usize>> {
    if !is_page_aligned(address) {
        return Err(Errno::EINVAL);
    }
    let end = page_up(len)
        .and_then(|len| address.checked_add(len))
        .ok_or(Errno::ENOMEM)?;
    let range = address..end;
    if range.is_empty() || space.allows(&range) {
        Ok(range)
    } else {
        Err(Errno::ENOMEM)
    }
}

pub fn madvise(call: &Call) -> Result {
    let [address, len, ..] = call.args;
    let end = page_up(len)
        .and_then(|len| address.checked_add(len))
        .ok_or(Errno::EINVAL)?;
    if address < VKERNEL_END && end > VKERNEL_BASE {
        return Err(Errno::ENOMEM);
    }
    own_range(&call.thread.process().space.lock(), address, len)?;
    forward(call)
}

pub fn remap_file_pages(call: &Call) -> Result {
    let [address, len, ..] = call.args;
    let space = call.thread.process().space.lock();
    own_range(&space, page_down(address), len).map_err(|_| Errno::EINVAL)?;
    forward(call)
}

pub fn mremap(call: &Call) -> Result {
    let [old, old_len, new_len, flags, new, _] = call.args;
    let known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    if flags & !known != 0 || !is_page_aligned(old) || new_len == 0 {
        return Err(Errno::EINVAL);
    }
    let process = call.thread.process();
    process.rewriter.forget(old..old.saturating_add(old_len));
    if flags & MREMAP_FIXED != 0 {
        process.rewriter.forget(new..new.saturating_add(new_len));
    }
    let mut space = process.space.lock();
    let (old_len, new_len) = match (page_up(old_len), page_up(new_len)) {
        (Some(old_len), Some(new_len)) => (old_len, new_len),
        _ => return Err(Errno::EINVAL),
    };
    let source = own_range(&space, old, old_len.max(PAGE_LEN)).map_err(|_| Errno::EFAULT)?;
    let source = source.start..source.start + old_len;
    check_address_limit(process, &space, new_len.saturating_sub(old_len))?;
    if flags & MREMAP_FIXED != 0 {
        own_range(&space, new, new_len).map_err(|_| Errno::EINVAL)?;
        // SAFETY: both ranges are the container's own.
        let at = unsafe { memory::mremap(old, old_len, new_len, flags, new)? };
        moved(&mut space, source, at..at + new_len, flags);
        return Ok(at);
    }
    if flags & MREMAP_DONTUNMAP == 0 && old_len != 0 {
        let grown = source.start..source.start.checked_add(new_len).ok_or(Errno::ENOMEM)?;
        let shrinks = new_len <= old_len;
        let tail = source.end.min(grown.end)..grown.end.max(source.end);
        if shrinks || (space.allows(&grown) && !space.is_taken(&tail)) {
            // SAFETY: the range is the container's own; without MAYMOVE it stays in place.
            match unsafe { memory::mremap(old, old_len, new_len, 0, 0) } {
                Ok(at) if shrinks => {
                    space.note_unmapped(tail);
                    return Ok(at);
                }
                Ok(at) => {
                    space.note_mapped(tail, false);
                    return Ok(at);
                }
                Err(Errno::ENOMEM) if flags & MREMAP_MAYMOVE != 0 => {}
                Err(error) => return Err(error),
            }
        }
    }
    if flags & MREMAP_MAYMOVE == 0 {
        return Err(Errno::ENOMEM);
    }
    let place = space.pick(new_len, 0)?;
    // SAFETY: the target is free; the source is the container's own.
    let at = unsafe { memory::mremap(old, old_len, new_len, flags | MREMAP_FIXED, place)? };
    moved(&mut space, source, at..at + new_len, flags);
    Ok(at)
}

fn moved(space: &mut SpaceInner, source: Range<usize>, target: Range<usize>, flags: usize) {
    if flags & MREMAP_DONTUNMAP == 0 {
        space.note_unmapped(source);
    }
    space.note_mapped(target, false);
}

pub fn brk(call: &Call) -> Result {
    let process = call.thread.process();
    let mut space = process.space.lock();
    let grows = call.args[0].saturating_sub(space.brk);
    if check_address_limit(process, &space, grows).is_err() {
        return Ok(space.brk);
    }
    Ok(space.set_brk(call.args[0]))
}

/// mlockall(2) without locking what is not the container's.
pub fn mlockall(call: &Call) -> Result {
    let flags = call.args[0];
    let known = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
    if flags & !known != 0 || flags & (MCL_CURRENT | MCL_FUTURE) == 0 {
        return Err(Errno::EINVAL);
    }
    let mut space = call.thread.process().space.lock();
    if flags & MCL_CURRENT != 0 {
        check_lock_limit(&space)?;
        let on_fault = if flags & MCL_ONFAULT != 0 {
            MLOCK_ONFAULT
        } else {
            0
        };
        for range in space.occupied().iter() {
            match memory::mlock2(range.start, range.len(), on_fault) {
                // A hole or an inaccessible page: Linux locks what it can.
                Ok(_) | Err(Errno::ENOMEM) => {}
                Err(error) => return Err(error),
            }
        }
    }
    space.future_flags = if flags & MCL_FUTURE != 0 {
        MAP_LOCKED
    } else {
        0
    };
    Ok(0)
}

/// ENOMEM if all that is mapped exceeds RLIMIT_MEMLOCK. A limit of 0 is left to mlock2(2), which says EPERM.
fn check_lock_limit(space: &SpaceInner) -> Result<()> {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let limit = pegasus_host::process::limit(0, RLIMIT_MEMLOCK)?.soft;
    let is_exceeded = limit != 0 && space.occupied().total_len() as u64 > limit;
    let capable = || {
        pegasus_host::process::capabilities().is_ok_and(|sets| sets.effective & CAP_IPC_LOCK != 0)
    };
    if is_exceeded && !capable() {
        Err(Errno::ENOMEM)
    } else {
        Ok(())
    }
}

pub fn munlockall(call: &Call) -> Result {
    let mut space = call.thread.process().space.lock();
    space.future_flags = 0;
    for range in space.mapped().iter() {
        let _ = memory::munlock(range.start, range.len());
    }
    Ok(0)
}

/// Offset of `shm_segsz` in `struct shmid64_ds`, and that structure's length.
const SEGMENT_LEN_OFFSET: usize = 48;
const SEGMENT_INFO_LEN: usize = 112;

pub fn shmat(call: &Call) -> Result {
    let [id, address, flags, ..] = call.args;
    let mut info = [0u8; SEGMENT_INFO_LEN];
    // SAFETY: the kernel fills `info`, which is as long as it needs.
    unsafe { pegasus_host::raw::call3(nr::SHMCTL, id, IPC_STAT, info.as_mut_ptr() as usize)? };
    let mut word = [0; 8];
    word.copy_from_slice(&info[SEGMENT_LEN_OFFSET..SEGMENT_LEN_OFFSET + 8]);
    let len = page_up(u64::from_le_bytes(word) as usize).ok_or(Errno::ENOMEM)?;
    let mut space = call.thread.process().space.lock();
    let place = if address == 0 {
        if flags & SHM_REMAP != 0 {
            return Err(Errno::EINVAL);
        }
        space.pick(len, 0)?
    } else {
        let place = if flags & SHM_RND != 0 {
            page_down(address)
        } else {
            address
        };
        own_range(&space, place, len).map_err(|_| Errno::EINVAL)?;
        place
    };
    let at = forward_as(nr::SHMAT, &[id, place, flags, 0, 0, 0])?;
    space.note_segment(at, len);
    Ok(at)
}

pub fn shmdt(call: &Call) -> Result {
    let address = call.args[0];
    let mut space = call.thread.process().space.lock();
    own_range(&space, page_down(address), PAGE_LEN).map_err(|_| Errno::EINVAL)?;
    let done = forward(call)?;
    space.take_segment(address);
    Ok(done)
}
