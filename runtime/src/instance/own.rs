//! An own instance: one container in an address space of its own, which is that of its first process.

use super::heap::{self, HeapError};
use super::image::{self, ImageError};
use crate::sys::vkernel::Vkernel;
use nix::errno::Errno;
use pegasus_contract::boot::InstanceKind;
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Heap(#[from] HeapError),
    #[error("cannot read the auxiliary vector from /proc/self/auxv")]
    Auxv(#[source] io::Error),
    #[error("the vkernel refused to start")]
    Init(#[source] Errno),
}

/// Puts a vkernel into this process. The container's first process, cloned from it later, inherits it.
pub fn prepare() -> Result<Vkernel, OwnError> {
    let auxv = auxiliary_vector().map_err(OwnError::Auxv)?;
    let vkernel = image::map()?;
    heap::map()?;
    vkernel
        .init(InstanceKind::Own, &auxv)
        .map_err(OwnError::Init)?;
    Ok(vkernel)
}

/// What the kernel told this process about the machine: (type, value) pairs.
pub fn auxiliary_vector() -> Result<Vec<[u64; 2]>, io::Error> {
    let bytes = std::fs::read("/proc/self/auxv")?;
    let (pairs, _) = bytes.as_chunks::<16>();
    let number = |half: &[u8]| {
        half.iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    };
    Ok(pairs
        .iter()
        .map(|pair| [number(&pair[..8]), number(&pair[8..])])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_auxiliary_vector_names_the_page_size() {
        const AT_PAGESZ: u64 = 6;
        let auxv = auxiliary_vector().unwrap();
        assert!(auxv.contains(&[AT_PAGESZ, 4096]));
    }
}
