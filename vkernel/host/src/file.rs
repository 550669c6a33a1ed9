//! Files the vkernel opens for itself while loading programs and building `/proc` views.

use crate::raw::{call, call1, call2, call3, call4};
use core::ffi::CStr;
use pegasus_abi::errno::Result;
use pegasus_abi::fcntl::{AT_EMPTY_PATH, AT_FDCWD, F_GETFD, O_CLOEXEC, Stat, Statfs};
use pegasus_abi::nr;

/// A descriptor that is closed when dropped.
#[derive(Debug)]
pub struct OwnedFd(usize);

impl OwnedFd {
    pub fn number(&self) -> usize {
        self.0
    }

    /// Gives the number away; it stays open.
    pub fn into_number(self) -> usize {
        let number = self.0;
        core::mem::forget(self);
        number
    }
}

impl Drop for OwnedFd {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// close(2).
pub fn close(fd: usize) {
    // SAFETY: no memory is touched; the number was ours to close.
    let _ = unsafe { call1(nr::CLOSE, fd) };
}

/// openat(2); always close-on-exec.
pub fn open_at(dir: usize, path: &CStr, flags: usize) -> Result<OwnedFd> {
    // SAFETY: the kernel only reads the path.
    let fd = unsafe {
        call4(
            nr::OPENAT,
            dir,
            path.as_ptr() as usize,
            flags | O_CLOEXEC,
            0,
        )?
    };
    Ok(OwnedFd(fd))
}

/// [`open_at`] the working directory.
pub fn open(path: &CStr, flags: usize) -> Result<OwnedFd> {
    open_at(AT_FDCWD, path, flags)
}

/// pread(2); a short count at the end of the file.
pub fn read_at(fd: usize, buffer: &mut [u8], offset: u64) -> Result {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        // SAFETY: `rest` is live and exclusive.
        let got = unsafe {
            call4(
                nr::PREAD64,
                fd,
                rest.as_mut_ptr() as usize,
                rest.len(),
                offset as usize + done,
            )?
        };
        if got == 0 {
            break;
        }
        done += got;
    }
    Ok(done)
}

/// read(2), once.
pub fn read(fd: usize, buffer: &mut [u8]) -> Result {
    // SAFETY: `buffer` is live and exclusive.
    unsafe { call3(nr::READ, fd, buffer.as_mut_ptr() as usize, buffer.len()) }
}

/// write(2) until everything is written.
pub fn write_all(fd: usize, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the kernel only reads `bytes`.
        let count = unsafe { call3(nr::WRITE, fd, bytes.as_ptr() as usize, bytes.len())? };
        bytes = &bytes[count.min(bytes.len())..];
    }
    Ok(())
}

/// lseek(2) to `offset` from the start.
pub fn rewind(fd: usize) -> Result {
    // SAFETY: touches no memory.
    unsafe { call3(nr::LSEEK, fd, 0, 0) }
}

/// memfd_create(2).
pub fn memory_file(name: &CStr, flags: usize) -> Result<OwnedFd> {
    // SAFETY: the kernel only reads the name.
    Ok(OwnedFd(unsafe {
        call2(nr::MEMFD_CREATE, name.as_ptr() as usize, flags)?
    }))
}

/// fstat(2).
pub fn stat(fd: usize) -> Result<Stat> {
    let mut stat = Stat::default();
    // SAFETY: `stat` is live.
    unsafe { call2(nr::FSTAT, fd, &raw mut stat as usize)? };
    Ok(stat)
}

/// fstatfs(2).
pub fn stat_file_system(fd: usize) -> Result<Statfs> {
    let mut statfs = Statfs::default();
    // SAFETY: `statfs` is live.
    unsafe { call2(nr::FSTATFS, fd, &raw mut statfs as usize)? };
    Ok(statfs)
}

/// faccessat2(2) on an open descriptor, with the effective ids.
pub fn check_access(fd: usize, mode: usize, flags: usize) -> Result {
    // SAFETY: the kernel only reads the (empty) path.
    unsafe {
        call4(
            nr::FACCESSAT2,
            fd,
            c"".as_ptr() as usize,
            mode,
            AT_EMPTY_PATH | flags,
        )
    }
}

/// faccessat2(2) on a path.
pub fn check_access_at(dir: usize, path: &CStr, mode: usize, flags: usize) -> Result {
    // SAFETY: the kernel only reads the path.
    unsafe { call4(nr::FACCESSAT2, dir, path.as_ptr() as usize, mode, flags) }
}

/// Whether extended attribute `name` exists on the open file.
pub fn has_attribute(fd: usize, name: &CStr) -> bool {
    // SAFETY: size 0: the kernel writes nothing.
    unsafe { call4(nr::FGETXATTR, fd, name.as_ptr() as usize, 0, 0) }.is_ok()
}

/// readlinkat(2); gives the length written, cut off at the buffer's.
pub fn read_link_at(dir: usize, path: &CStr, buffer: &mut [u8]) -> Result {
    // SAFETY: `buffer` is live and exclusive.
    unsafe {
        call4(
            nr::READLINKAT,
            dir,
            path.as_ptr() as usize,
            buffer.as_mut_ptr() as usize,
            buffer.len(),
        )
    }
}

/// getdents64(2).
pub fn read_directory(fd: usize, buffer: &mut [u8]) -> Result {
    // SAFETY: `buffer` is live and exclusive.
    unsafe {
        call3(
            nr::GETDENTS64,
            fd,
            buffer.as_mut_ptr() as usize,
            buffer.len(),
        )
    }
}

/// dup3(2) or, for equal numbers, clearing close-on-exec.
pub fn duplicate_to(fd: usize, to: usize) -> Result {
    if fd == to {
        // SAFETY: touches no memory.
        return unsafe { call3(nr::FCNTL, fd, 2, 0) };
    }
    // SAFETY: touches no memory; `to` is a number the caller owns.
    unsafe { call3(nr::DUP3, fd, to, 0) }
}

/// fcntl(2) F_DUPFD_CLOEXEC: the lowest free number at or above `least`.
pub fn duplicate_above(fd: usize, least: usize) -> Result {
    // SAFETY: touches no memory.
    unsafe { call3(nr::FCNTL, fd, 1030, least) }
}

/// The descriptor flags, fcntl(2) F_GETFD.
pub fn descriptor_flags(fd: usize) -> Result {
    // SAFETY: touches no memory.
    unsafe { call3(nr::FCNTL, fd, F_GETFD, 0) }
}

/// close_range(2).
pub fn close_range(first: usize, last: usize, flags: usize) -> Result {
    // SAFETY: touches no memory.
    unsafe { call3(nr::CLOSE_RANGE, first, last, flags) }
}

/// chdir(2).
pub fn change_directory(path: &CStr) -> Result {
    // SAFETY: the kernel only reads the path.
    unsafe { call1(nr::CHDIR, path.as_ptr() as usize) }
}

/// ioctl(2) with a plain value.
pub fn control(fd: usize, request: usize, value: usize) -> Result {
    // SAFETY: callers pass requests whose argument is a value.
    unsafe { call(nr::IOCTL, [fd, request, value, 0, 0, 0]) }
}
