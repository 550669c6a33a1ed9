//! Standard input and output of a container's process.

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat, major, minor};
use nix::unistd::Uid;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

const NULL_DEVICE: (u64, u64) = (1, 3);

/// The container library replaces a descriptor on the host's `/dev/null` by the container's, but
/// opens that for reading only, so that a program could not write to it.
pub fn make_null_writable() -> Result<(), io::Error> {
    let is_null = |descriptor: &i32| fstat(*descriptor).is_ok_and(|status| is_null(&status));
    let nulls: Vec<i32> = (0..=2).filter(is_null).collect();
    if nulls.is_empty() {
        return Ok(());
    }
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    for descriptor in nulls {
        nix::unistd::dup2(null.as_raw_fd(), descriptor)?;
    }
    Ok(())
}

/// Gives the container's user its standard input and output, so that it can open them again by path
/// (`/dev/stdout`). As in runc, what may not be given away stays as it is.
pub fn give_to(user: Uid) -> Result<(), Errno> {
    for descriptor in 0..=2 {
        let Ok(status) = fstat(descriptor) else {
            continue;
        };
        if status.st_uid == user.as_raw() || is_null(&status) {
            continue;
        }
        match nix::unistd::fchown(descriptor, Some(user), None) {
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn is_null(status: &FileStat) -> bool {
    (major(status.st_rdev), minor(status.st_rdev)) == NULL_DEVICE
}
