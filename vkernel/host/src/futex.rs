//! futex(2), process-shared where nothing else is said: every lock of the vkernel lies in memory that several processes map.

use crate::raw::call_here;
use core::sync::atomic::AtomicU32;
use pegasus_abi::futex::{FUTEX_PRIVATE_FLAG, FUTEX_WAIT, FUTEX_WAKE};
use pegasus_abi::nr;

/// Sleeps while `word` holds `expected`; returns on wake-up, on a signal, or at once.
pub fn wait(word: &AtomicU32, expected: u32) {
    // SAFETY: the kernel only reads `word`.
    let _ = unsafe {
        call_here(
            nr::FUTEX,
            [
                word.as_ptr() as usize,
                FUTEX_WAIT as usize,
                expected as usize,
                0,
                0,
                0,
            ],
        )
    };
}

/// [`wait`] for at most `timeout_ns` nanoseconds.
pub fn wait_for(word: &AtomicU32, expected: u32, timeout_ns: u64) {
    let timeout = [timeout_ns / 1_000_000_000, timeout_ns % 1_000_000_000];
    // SAFETY: the kernel only reads `word` and `timeout`.
    let _ = unsafe {
        call_here(
            nr::FUTEX,
            [
                word.as_ptr() as usize,
                FUTEX_WAIT as usize,
                expected as usize,
                timeout.as_ptr() as usize,
                0,
                0,
            ],
        )
    };
}

/// Wakes up to `count` waiters.
pub fn wake(word: &AtomicU32, count: u32) {
    // SAFETY: the kernel only uses the address as a key.
    let _ = unsafe {
        call_here(
            nr::FUTEX,
            [
                word.as_ptr() as usize,
                FUTEX_WAKE as usize,
                count as usize,
                0,
                0,
                0,
            ],
        )
    };
}

/// Wakes a task that waits, with FUTEX_PRIVATE_FLAG, for the word at `address` in memory that it shares with the caller. The word
/// itself is not touched: it may be gone.
pub fn wake_private(address: usize) {
    // SAFETY: the kernel only uses the address as a key.
    let _ = unsafe {
        call_here(
            nr::FUTEX,
            [
                address,
                (FUTEX_WAKE | FUTEX_PRIVATE_FLAG) as usize,
                1,
                0,
                0,
                0,
            ],
        )
    };
}
