//! Mapping and entering the vkernel image.

use super::memory::FixedMapping;
use nix::errno::Errno;
use nix::sys::mman::ProtFlags;
use pegasus_contract::CONTRACT_VERSION;
use pegasus_contract::boot::{Entry, InitArgs, InstanceKind, Operation, OwnArgs, Program};
use std::ffi::{CStr, CString, c_void};
use std::ptr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    Code,
    ReadOnlyData,
    Data,
}

/// One segment of the image, checked by its parser.
#[derive(Debug)]
pub struct Segment<'a> {
    pub address: usize,
    pub memory_len: usize,
    pub bytes: &'a [u8],
    pub protection: Protection,
}

/// The mapped image's entry point.
#[derive(Debug, Clone, Copy)]
pub struct Vkernel {
    entry: Entry,
}

/// Maps the segments privately; `entry` lies in one that is code.
pub fn load(segments: &[Segment<'_>], entry: usize) -> Result<Vkernel, Errno> {
    for segment in segments {
        let end = segment
            .address
            .checked_add(segment.memory_len)
            .ok_or(Errno::EINVAL)?;
        let mut mapping = FixedMapping::private(segment.address..end)?;
        mapping.write(segment.address, segment.bytes)?;
        mapping.finish(match segment.protection {
            Protection::Code => ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
            Protection::ReadOnlyData => ProtFlags::PROT_READ,
            Protection::Data => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        })?;
    }
    // SAFETY: the segments are those of the image embedded in this program, whose entry point is a
    // function of this type; they stay mapped.
    let entry = unsafe { std::mem::transmute::<usize, Entry>(entry) };
    Ok(Vkernel { entry })
}

impl Vkernel {
    /// Writes the heap's header.
    pub fn init(&self, kind: InstanceKind, auxv: &[[u64; 2]]) -> Result<(), Errno> {
        let mut arguments = InitArgs {
            contract_version: CONTRACT_VERSION,
            kind: kind as u32,
            auxv: auxv.as_ptr(),
            auxv_len: auxv.len(),
        };
        check(self.call(Operation::Init, &mut arguments)).map(drop)
    }

    /// Turns this process into the first process of an own instance. Returns only on failure, with
    /// nothing changed.
    pub fn run_own(&self, path: &CStr, argv: &[CString], envp: &[CString], id: &CStr) -> Errno {
        let (argv, envp) = (pointers(argv), pointers(envp));
        let program = Program {
            path: path.as_ptr().cast(),
            argv: argv.as_ptr().cast(),
            envp: envp.as_ptr().cast(),
        };
        let mut arguments = OwnArgs {
            program,
            container_id: id.as_ptr().cast(),
        };
        match check(self.call(Operation::RunOwn, &mut arguments)) {
            Err(errno) => errno,
            Ok(_) => Errno::UnknownErrno,
        }
    }

    pub(super) fn call<T>(&self, operation: Operation, arguments: &mut T) -> i64 {
        (self.entry)(operation as u64, ptr::from_mut(arguments).cast::<c_void>())
    }
}

/// A NULL-terminated vector of C strings.
pub(super) fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([ptr::null()])
        .collect()
}

pub(super) fn check(answer: i64) -> Result<i32, Errno> {
    if answer >= 0 {
        return i32::try_from(answer).map_err(|_| Errno::EOVERFLOW);
    }
    Err(i32::try_from(-answer).map_or(Errno::UnknownErrno, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_answers_are_error_numbers() {
        assert_eq!(check(0), Ok(0));
        assert_eq!(check(-2), Err(Errno::ENOENT));
        assert_eq!(check(i64::MIN + 1), Err(Errno::UnknownErrno));
    }
}
