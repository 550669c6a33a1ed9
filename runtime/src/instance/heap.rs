//! The vkernel's shared heap: one sparse memory file at a fixed address.

use crate::sys::memory;
use nix::errno::Errno;
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use pegasus_contract::layout::{HEAP_BASE, HEAP_LEN};
use std::fs::File;

#[derive(Debug, thiserror::Error)]
pub enum HeapError {
    #[error("cannot create the memory file of the vkernel's heap")]
    Create(#[source] Errno),
    #[error("cannot give the vkernel's heap its length")]
    Resize(#[source] std::io::Error),
    #[error("cannot map the vkernel's heap at its fixed address; is address space limited?")]
    Map(#[source] Errno),
}

/// Maps a new, empty heap into this process. Its pages exist once they are touched; processes cloned
/// from this one share it. No descriptor of it stays open.
pub fn map() -> Result<(), HeapError> {
    let file = File::from(create().map_err(HeapError::Create)?);
    file.set_len(HEAP_LEN as u64).map_err(HeapError::Resize)?;
    memory::map_shared(&file, HEAP_BASE, HEAP_LEN).map_err(HeapError::Map)
}

fn create() -> Result<std::os::fd::OwnedFd, Errno> {
    const MFD_NOEXEC_SEAL: u32 = 0x8;
    let flags = MemFdCreateFlag::MFD_CLOEXEC;
    // Kernels before 6.3 do not know MFD_NOEXEC_SEAL.
    match memfd_create(
        c"pegasus-heap",
        flags | MemFdCreateFlag::from_bits_retain(MFD_NOEXEC_SEAL),
    ) {
        Err(Errno::EINVAL) => memfd_create(c"pegasus-heap", flags),
        other => other,
    }
}
