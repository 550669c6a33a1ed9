//! Runs the program from a sealed copy of itself in memory.
//!
//! A process inside a container can reach the runtime's executable through `/proc/<pid>/exe` and
//! could overwrite the host's binary (CVE-2019-5736). What it reaches here is a memory file that
//! nobody can change. The copy is started with a clean environment too, because in an own instance
//! the runtime's address space becomes the container's.

use crate::elf;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

#[derive(Debug, thiserror::Error)]
pub enum SelfCopyError {
    #[error("cannot read the runtime's own executable through /proc/self/exe; is /proc mounted?")]
    OpenSelf(#[source] io::Error),
    #[error("the runtime's own executable is not a valid ELF file")]
    NotElf(#[source] goblin::error::Error),
    #[error("the runtime's own executable has nothing to load")]
    Empty,
    #[error("cannot create a memory file for a copy of the runtime")]
    Create(#[source] Errno),
    #[error("cannot copy the runtime into memory")]
    Copy(#[source] io::Error),
    #[error("cannot seal the copy of the runtime in memory")]
    Seal(#[source] Errno),
    #[error("cannot execute the copy of the runtime in memory")]
    Execute(#[source] Errno),
}

/// Variables the runtime itself or its helpers use; everything else stays outside.
const KEPT_VARIABLES: [&str; 10] = [
    "PATH",
    "HOME",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "RUST_BACKTRACE",
    "PEGASUS_CONFIG",
];

/// The C library must not register restartable sequences: in an own instance the memory it registers
/// becomes the container's, and the kernel would go on writing to it.
const TUNABLES: &str = "GLIBC_TUNABLES=glibc.pthread.rseq=0";

const MFD_EXEC: u32 = 0x10;

/// Returns if this process already runs from a sealed copy; otherwise becomes one.
pub fn ensure() -> Result<(), SelfCopyError> {
    let executable = File::open("/proc/self/exe").map_err(SelfCopyError::OpenSelf)?;
    if is_sealed(&executable) {
        return Ok(());
    }
    let copy = sealed_copy(executable)?;
    match nix::unistd::fexecve(copy.as_raw_fd(), &arguments(), &environment()) {
        Ok(never) => match never {},
        Err(errno) => Err(SelfCopyError::Execute(errno)),
    }
}

fn all_seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

fn is_sealed(file: &File) -> bool {
    fcntl(file.as_raw_fd(), FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(all_seals()))
}

fn sealed_copy(executable: File) -> Result<OwnedFd, SelfCopyError> {
    let len = loaded_len(&executable)?;
    let mut copy = File::from(create_executable_memory().map_err(SelfCopyError::Create)?);
    io::copy(&mut executable.take(len), &mut copy).map_err(SelfCopyError::Copy)?;
    crate::sys::file::seal(copy.as_fd(), all_seals()).map_err(SelfCopyError::Seal)?;
    Ok(copy.into())
}

fn create_executable_memory() -> Result<OwnedFd, Errno> {
    let flags = MemFdCreateFlag::MFD_CLOEXEC | MemFdCreateFlag::MFD_ALLOW_SEALING;
    // Kernels before 6.3 do not know MFD_EXEC; there every memory file may be executed.
    match memfd_create(
        c"pegasus",
        flags | MemFdCreateFlag::from_bits_retain(MFD_EXEC),
    ) {
        Err(Errno::EINVAL) => memfd_create(c"pegasus", flags),
        other => other,
    }
}

/// Number of bytes of the file that are ever mapped. What follows (symbols, debug information) is
/// most of the file, and copying it on every start would be the larger part of the work.
fn loaded_len(executable: &File) -> Result<u64, SelfCopyError> {
    const HEADERS_LEN: usize = 4096;
    let mut headers = [0; HEADERS_LEN];
    executable
        .read_exact_at(&mut headers, 0)
        .map_err(SelfCopyError::OpenSelf)?;
    let (_, segments) = elf::headers(&headers).map_err(SelfCopyError::NotElf)?;
    segments
        .iter()
        .map(|segment| segment.p_offset.saturating_add(segment.p_filesz))
        .max()
        .ok_or(SelfCopyError::Empty)
}

fn arguments() -> Vec<CString> {
    env::args_os().filter_map(to_c_string).collect()
}

fn environment() -> Vec<CString> {
    let kept = KEPT_VARIABLES.iter().filter_map(|name| {
        let value = env::var_os(name)?;
        let mut entry = OsString::from(name);
        entry.push("=");
        entry.push(value);
        to_c_string(entry)
    });
    kept.chain(CString::new(TUNABLES).ok()).collect()
}

/// Arguments and variables come from C strings, so none has a NUL inside.
fn to_c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_sealed_and_no_longer_than_needed() {
        let executable = File::open("/proc/self/exe").unwrap();
        let whole_len = executable.metadata().unwrap().len();
        assert!(!is_sealed(&executable));
        let copy = File::from(sealed_copy(executable).unwrap());
        assert!(is_sealed(&copy));
        assert!(copy.metadata().unwrap().len() <= whole_len);
        assert!(copy.write_at(b"x", 0).is_err());
    }

    #[test]
    fn only_known_variables_are_kept() {
        let environment = environment();
        assert!(
            environment
                .iter()
                .any(|entry| entry.to_bytes() == TUNABLES.as_bytes())
        );
        assert!(
            !environment
                .iter()
                .any(|entry| entry.to_bytes().starts_with(b"CARGO"))
        );
    }
}
