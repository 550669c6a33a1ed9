//! Pointers from containers.
//!
//! A pointer that a container passes is an allegation. [`UserPtr`] cannot be dereferenced: it is checked
//! against the vkernel's range and the neighbours', copied once, and a fault on the way is EFAULT.
#![allow(unsafe_code)]

use crate::task::{Process, instance_kind};
use alloc::vec::Vec;
use pegasus_abi::{Errno, Result};
use pegasus_arch::usercopy::{self, Plain, bytes_of, bytes_of_mut};
use pegasus_arch::userword;
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::layout::{
    SLOT_LEN, USER_END, VKERNEL_BASE, VKERNEL_END, is_in_slots, slot_base,
};

/// An address given by a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserPtr(pub usize);

impl UserPtr {
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The pointer `bytes` further on, or EFAULT past the end of the address space.
    pub fn offset(self, bytes: usize) -> Result<UserPtr> {
        self.0.checked_add(bytes).map(UserPtr).ok_or(Errno::EFAULT)
    }

    /// EFAULT unless the `len` bytes here lie in user space and outside the vkernel.
    fn check(self, len: usize) -> Result<()> {
        let end = self.0.checked_add(len).ok_or(Errno::EFAULT)?;
        let in_vkernel = self.0 < VKERNEL_END && end > VKERNEL_BASE;
        if end > USER_END || in_vkernel || len != 0 && end > self.reach() {
            Err(Errno::EFAULT)
        } else {
            Ok(())
        }
    }

    /// Where the memory ends, at the latest, that the container has here: before that of a neighbour. What is in no slot is nobody's,
    /// or for all (the vDSO).
    fn reach(self) -> usize {
        const LOW_WINDOW_END: usize = 1 << 32;
        if is_in_slots(self.0) {
            let slot = Process::current().slot();
            slot.map_or(USER_END, |slot| match slot_base(slot) {
                Some(base) if (base..base + SLOT_LEN).contains(&self.0) => base + SLOT_LEN,
                _ => self.0,
            })
        } else if self.0 < LOW_WINDOW_END && instance_kind() == InstanceKind::Shared {
            if Process::current().has_low_window() {
                LOW_WINDOW_END
            } else {
                self.0
            }
        } else {
            USER_END
        }
    }

    /// Copies `to.len()` bytes out of the container.
    pub fn read_bytes(self, to: &mut [u8]) -> Result<()> {
        self.check(to.len())?;
        // SAFETY: checked to lie outside the vkernel.
        if unsafe { usercopy::from_user(to, self.0) } == 0 {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Copies `from` into the container.
    pub fn write_bytes(self, from: &[u8]) -> Result<()> {
        self.check(from.len())?;
        // SAFETY: checked to lie outside the vkernel.
        if unsafe { usercopy::to_user(self.0, from) } == 0 {
            Ok(())
        } else {
            Err(Errno::EFAULT)
        }
    }

    /// Copies a plain value out.
    pub fn read<T: Plain + Default>(self) -> Result<T> {
        let mut value = T::default();
        self.read_bytes(bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Copies a plain value out over `value`.
    pub fn read_into<T: Plain>(self, value: &mut T) -> Result<()> {
        self.read_bytes(bytes_of_mut(value))
    }

    /// Copies a plain value in.
    pub fn write<T: Plain>(self, value: &T) -> Result<()> {
        self.write_bytes(bytes_of(value))
    }

    /// Reads an aligned word at once.
    pub fn load_word(self) -> Result<u32> {
        self.check_word()?;
        // SAFETY: checked to be aligned and outside the vkernel.
        unsafe { userword::load(self.0) }.ok_or(Errno::EFAULT)
    }

    /// Replaces an aligned word by `new` if it is `expected`. Gives what was there.
    pub fn exchange_word(self, expected: u32, new: u32) -> Result<u32> {
        self.check_word()?;
        // SAFETY: checked to be aligned and outside the vkernel.
        unsafe { userword::compare_exchange(self.0, expected, new) }.ok_or(Errno::EFAULT)
    }

    fn check_word(self) -> Result<()> {
        if self.0.is_multiple_of(size_of::<u32>()) {
            self.check(size_of::<u32>())
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// Copies up to `to.len()` bytes, stopping early at a fault; gives how many were copied.
    pub fn read_some(self, to: &mut [u8]) -> usize {
        let len = to.len().min(self.reach().saturating_sub(self.0));
        if self.check(len).is_err() {
            return 0;
        }
        let to = &mut to[..len];
        // SAFETY: checked to lie outside the vkernel.
        len - unsafe { usercopy::from_user(to, self.0) }
    }

    /// Copies `from` into the container, stopping early at a fault; gives how many bytes were copied.
    pub fn write_some(self, from: &[u8]) -> usize {
        let len = from.len().min(self.reach().saturating_sub(self.0));
        if self.check(len).is_err() {
            return 0;
        }
        // SAFETY: checked to lie outside the vkernel.
        len - unsafe { usercopy::to_user(self.0, &from[..len]) }
    }

    /// Copies a NUL-terminated string, with its NUL, of at most `len_max` bytes; `too_long` if there
    /// is no NUL among them.
    pub fn read_c_string(self, len_max: usize, too_long: Errno) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let at = self.offset(text.len())?;
            // Up to the next page end, so that a fault means that the string itself is unreadable.
            let room = (4096 - at.0 % 4096).min(len_max - text.len());
            let start = text.len();
            text.resize(start + room, 0);
            at.read_bytes(&mut text[start..])?;
            if let Some(nul) = text[start..].iter().position(|&byte| byte == 0) {
                text.truncate(start + nul + 1);
                return Ok(text);
            }
            if text.len() == len_max {
                return Err(too_long);
            }
        }
    }
}
