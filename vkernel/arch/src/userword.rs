//! Reading and changing one aligned word of container memory at once, as futex(2) must.
//!
//! Like [`crate::usercopy`], with other instructions that may fault.

use core::arch::global_asm;

global_asm!(
    ".pushsection .text.userword, \"ax\", @progbits",
    // extern "C" fn(address) -> value or -1
    ".globl pegasus_word_load",
    "pegasus_word_load:",
    "    mov eax, [rdi]",
    "    ret",
    // extern "C" fn(address, expected, new) -> what was there or -1
    ".globl pegasus_word_exchange",
    "pegasus_word_exchange:",
    "    mov eax, esi",
    ".globl pegasus_word_exchange_access",
    "pegasus_word_exchange_access:",
    "    lock cmpxchg [rdi], edx",
    "    mov eax, eax",
    "    ret",
    ".globl pegasus_word_fault",
    "pegasus_word_fault:",
    "    mov rax, -1",
    "    ret",
    ".popsection",
);

unsafe extern "C" {
    fn pegasus_word_load(address: usize) -> u64;
    fn pegasus_word_exchange(address: usize, expected: u32, new: u32) -> u64;
    static pegasus_word_exchange_access: u8;
    static pegasus_word_fault: u8;
}

/// Reads the word at `address`. `None` after a fault.
///
/// # Safety
/// The word must be aligned and lie outside the vkernel's range.
pub unsafe fn load(address: usize) -> Option<u32> {
    // SAFETY: a fault ends the call.
    u32::try_from(unsafe { pegasus_word_load(address) }).ok()
}

/// Replaces the word at `address` by `new` if it is `expected`. Gives what was there; `None` after a fault.
///
/// # Safety
/// As for [`load`]; and nothing of Rust's lies there.
pub unsafe fn compare_exchange(address: usize, expected: u32, new: u32) -> Option<u32> {
    // SAFETY: a fault ends the call.
    u32::try_from(unsafe { pegasus_word_exchange(address, expected, new) }).ok()
}

/// For a fault at `rip`: where to continue if it is one of these instructions.
pub(crate) fn resume_after_fault(rip: usize) -> Option<usize> {
    let load = pegasus_word_load as *const () as usize;
    let exchange = &raw const pegasus_word_exchange_access as usize;
    (rip == load || rip == exchange).then_some(&raw const pegasus_word_fault as usize)
}
