//! Standard input and output of a container's process.

use nix::sys::stat::{fstat, major, minor};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

const NULL_DEVICE: (u64, u64) = (1, 3);

/// The container library replaces a descriptor on the host's `/dev/null` by the container's, but
/// opens that for reading only, so that a program could not write to it.
pub fn make_null_writable() -> Result<(), io::Error> {
    let is_null = |descriptor| {
        fstat(descriptor)
            .is_ok_and(|status| (major(status.st_rdev), minor(status.st_rdev)) == NULL_DEVICE)
    };
    let nulls: Vec<i32> = (0..=2).filter(|descriptor| is_null(*descriptor)).collect();
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
