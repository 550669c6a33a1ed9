//! Copying to and from container memory.
//!
//! A container's pointer is an allegation: the copy below may fault at its one memory instruction, and
//! the vkernel's SIGSEGV/SIGBUS handler then continues at [`resume_after_fault`].

use crate::userword;
use core::arch::global_asm;

global_asm!(
    ".pushsection .text.usercopy, \"ax\", @progbits",
    ".globl pegasus_copy",
    "pegasus_copy:",
    "    mov rcx, rdx",
    ".globl pegasus_copy_access",
    "pegasus_copy_access:",
    "    rep movsb",
    ".globl pegasus_copy_stop",
    "pegasus_copy_stop:",
    "    mov rax, rcx",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn pegasus_copy(to: *mut u8, from: *const u8, len: usize) -> usize;
    static pegasus_copy_access: u8;
    static pegasus_copy_stop: u8;
}

/// Copies out of container memory; gives the number of bytes not copied because of a fault.
///
/// # Safety
/// `from..from + len` must lie outside the vkernel's range.
pub unsafe fn from_user(to: &mut [u8], from: usize) -> usize {
    // SAFETY: `to` is live and exclusive; a fault on `from` ends the copy.
    unsafe { pegasus_copy(to.as_mut_ptr(), from as *const u8, to.len()) }
}

/// Copies into container memory; gives the number of bytes not copied because of a fault.
///
/// # Safety
/// `to..to + from.len()` must lie outside the vkernel's range.
pub unsafe fn to_user(to: usize, from: &[u8]) -> usize {
    // SAFETY: `from` is live; a fault on `to` ends the copy; nothing of Rust's lies there.
    unsafe { pegasus_copy(to as *mut u8, from.as_ptr(), from.len()) }
}

/// For a fault at `rip`: where to continue if it is the copy instruction, or one of [`userword`]'s.
pub fn resume_after_fault(rip: usize) -> Option<usize> {
    (rip == &raw const pegasus_copy_access as usize)
        .then_some(&raw const pegasus_copy_stop as usize)
        .or_else(|| userword::resume_after_fault(rip))
}

/// Types that are only bytes: every bit pattern is a value, and there is no padding to leak.
///
/// # Safety
/// The implementor must be `repr(C)` (or a primitive) without padding, references or invalid values.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($kind:ty),* $(,)?) => {$(
        // SAFETY: integers, or `repr(C)` structures of integers whose padding is a named field.
        unsafe impl Plain for $kind {}
    )*};
}

plain!(
    u8,
    u32,
    u64,
    usize,
    [u64; 2],
    pegasus_abi::signal::SigAction,
    pegasus_abi::signal::SigInfo,
    pegasus_abi::signal::StackT,
    pegasus_abi::signal::UContext,
    pegasus_abi::signal::SigFrame,
    pegasus_abi::clone::CloneArgs,
    pegasus_abi::prctl::Rlimit,
    u16,
    i32,
    pegasus_abi::socket::IoVec,
    pegasus_abi::socket::MsgHdr,
    pegasus_abi::socket::MMsgHdr,
    pegasus_abi::poll::PollFd,
    pegasus_abi::poll::EpollEvent,
    pegasus_abi::poll::Timespec,
);

/// The bytes of a plain value.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `T` has no padding, and the slice covers exactly the value.
    unsafe { core::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
}

/// The bytes of a plain value, for writing.
pub fn bytes_of_mut<T: Plain>(value: &mut T) -> &mut [u8] {
    // SAFETY: as for `bytes_of`, and every bit pattern is a value of `T`.
    unsafe { core::slice::from_raw_parts_mut((&raw mut *value).cast(), size_of::<T>()) }
}
