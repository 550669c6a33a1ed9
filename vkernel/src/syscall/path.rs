//! Calls that take a path: forwarded, unless the path is one of the [`crate::procfs`] views.

use crate::entry::Call;
use crate::procfs::View;
use crate::syscall::table::{forward, forward_as};
use crate::usermem::UserPtr;
use alloc::ffi::CString;
use alloc::vec::Vec;
use pegasus_abi::fcntl::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, PATH_MAX};
use pegasus_abi::{Errno, Result, nr};

const PREFIX: &[u8] = b"/proc/";

/// The path at `pointer`, with its NUL, if it begins like a view. Costs one short copy for all other paths.
fn proc_path(pointer: usize) -> Option<Vec<u8>> {
    let mut head = [0; PREFIX.len()];
    if UserPtr(pointer).read_some(&mut head) < head.len() || head != PREFIX {
        return None;
    }
    UserPtr(pointer)
        .read_c_string(PATH_MAX, Errno::ENAMETOOLONG)
        .ok()
}

fn view(pointer: usize) -> Option<(View, Vec<u8>)> {
    let path = proc_path(pointer)?;
    Some((View::of(&path)?, path))
}

fn open_view(pointer: usize, flags: usize) -> Option<Result> {
    let (view, path) = view(pointer)?;
    view.open(&path, flags)
}

pub fn open(call: &Call) -> Result {
    open_view(call.args[0], call.args[1]).unwrap_or_else(|| forward(call))
}

pub fn openat(call: &Call) -> Result {
    open_view(call.args[1], call.args[2]).unwrap_or_else(|| forward(call))
}

pub fn openat2(call: &Call) -> Result {
    let opened = UserPtr(call.args[2])
        .read::<u64>()
        .ok()
        .and_then(|flags| open_view(call.args[1], flags as usize));
    opened.unwrap_or_else(|| forward(call))
}

/// The program behind `…/exe`, if that is what `pointer` names.
pub fn exe_of(pointer: usize) -> Option<Vec<u8>> {
    let (view, _) = view(pointer)?;
    if view.is_exe() { view.exe() } else { None }
}

pub fn readlink(call: &Call) -> Result {
    let [path, buffer, len, ..] = call.args;
    read_exe_link(path, buffer, len).unwrap_or_else(|| forward(call))
}

pub fn readlinkat(call: &Call) -> Result {
    let [_, path, buffer, len, ..] = call.args;
    read_exe_link(path, buffer, len).unwrap_or_else(|| forward(call))
}

fn read_exe_link(path: usize, buffer: usize, len: usize) -> Option<Result> {
    let exe = exe_of(path)?;
    // The kernel takes the length as an int.
    let len = len as i32;
    if len <= 0 {
        return Some(Err(Errno::EINVAL));
    }
    let exe = &exe[..exe.len().min(len as usize)];
    Some(UserPtr(buffer).write_bytes(exe).map(|()| exe.len()))
}

pub fn stat(call: &Call) -> Result {
    stat_exe(call, call.args[0], call.args[1], 0).unwrap_or_else(|| forward(call))
}

pub fn newfstatat(call: &Call) -> Result {
    let [_, path, buffer, flags, ..] = call.args;
    stat_exe(call, path, buffer, flags).unwrap_or_else(|| forward(call))
}

/// stat(2) follows `…/exe` to the program.
fn stat_exe(_: &Call, path: usize, buffer: usize, flags: usize) -> Option<Result> {
    if flags & AT_SYMLINK_NOFOLLOW != 0 {
        return None;
    }
    let exe = CString::new(exe_of(path)?).ok()?;
    let args = [AT_FDCWD, exe.as_ptr() as usize, buffer, flags, 0, 0];
    Some(forward_as(nr::NEWFSTATAT, &args))
}
