//! Records of the shared heap, made of bytes that were copied out of it.

use pegasus_contract::socket::{EndRecord, PoolHead, SocketRecord};
use pegasus_sync::Ring;

/// Types for which any bytes are a value.
///
/// # Safety
/// Every bit pattern must be valid, and no value may own anything or be an address.
pub unsafe trait Plain: Sized {}

// SAFETY: nothing but atomic and plain integers.
unsafe impl Plain for PoolHead {}
// SAFETY: nothing but atomic and plain integers; a claim is an atomic integer.
unsafe impl Plain for SocketRecord {}
// SAFETY: nothing but atomic integers.
unsafe impl Plain for EndRecord {}
// SAFETY: nothing but atomic and plain integers; positions and numbers, no addresses.
unsafe impl Plain for Ring {}

/// The value at the start of `bytes`; `None` if they are too few.
pub fn value<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: the slice has the size of a `T`, for which any bytes do; the read needs no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn too_few_bytes_are_no_value() {
        assert!(value::<Ring>(&[0; size_of::<Ring>() - 1]).is_none());
        assert!(value::<Ring>(&[0xff; size_of::<Ring>()]).is_some());
    }

    #[test]
    fn a_value_needs_no_alignment() {
        let mut bytes = [0; 1 + size_of::<PoolHead>()];
        bytes[1 + std::mem::offset_of!(PoolHead, fresh)] = 7;
        let head: PoolHead = value(&bytes[1..]).unwrap();
        assert_eq!(head.fresh.load(Ordering::Relaxed), 7);
    }
}
