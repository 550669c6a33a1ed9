//! The small program that an anchor executes once the container runs.
//!
//! `build.rs` builds it (`vkernel/image/src/anchor`). It is in a memory file of its own, which nobody can change.

use nix::errno::Errno;
use nix::fcntl::SealFlag;
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Built and named by `build.rs`.
static EMBEDDED: &[u8] = include_bytes!(env!("PEGASUS_ANCHOR"));

#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    #[error("cannot create a memory file for the anchor's program")]
    Create(#[source] Errno),
    #[error("cannot write the anchor's program")]
    Write(#[source] io::Error),
    #[error("cannot seal the anchor's program")]
    Seal(#[source] Errno),
}

/// A file to execute, close-on-exec.
pub fn file() -> Result<File, CodeError> {
    let mut file = File::from(create().map_err(CodeError::Create)?);
    file.write_all(EMBEDDED).map_err(CodeError::Write)?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    crate::sys::file::seal(file.as_fd(), seals).map_err(CodeError::Seal)?;
    Ok(file)
}

fn create() -> Result<std::os::fd::OwnedFd, Errno> {
    const MFD_EXEC: u32 = 0x10;
    let flags = MemFdCreateFlag::MFD_CLOEXEC | MemFdCreateFlag::MFD_ALLOW_SEALING;
    let executable = flags | MemFdCreateFlag::from_bits_retain(MFD_EXEC);
    // Kernels before 6.3 do not know MFD_EXEC; there every memory file may be executed.
    match memfd_create(c"pegasus-anchor", executable) {
        Err(Errno::EINVAL) => memfd_create(c"pegasus-anchor", flags),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_small_and_sealed() {
        let file = file().unwrap();
        assert!(file.metadata().unwrap().len() <= 32 << 10);
        assert!((&file).write_all(b"x").is_err());
        assert!(EMBEDDED.starts_with(b"\x7fELF"));
    }
}
