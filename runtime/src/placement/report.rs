//! Brings a decision that is taken inside the container back to the process that creates it.
//!
//! The container's first process is a clone of the creating one, so a memory file opened before the
//! clone is shared by both.

use nix::errno::Errno;
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const REASON_LEN_MAX: usize = 1024;

/// One sentence, written at most once.
#[derive(Debug, Clone)]
pub struct Report {
    memory: Arc<File>,
}

impl Report {
    pub fn new() -> Result<Self, Errno> {
        let memory = memfd_create(c"pegasus-report", MemFdCreateFlag::MFD_CLOEXEC)?;
        Ok(Report {
            memory: Arc::new(memory.into()),
        })
    }

    /// Says why the process runs native after all.
    pub fn native(&self, reason: &str) {
        let bytes = reason.as_bytes();
        // Without it the reason is missing from `pegasus inspect`, nothing else.
        let _ = self
            .memory
            .write_at(&bytes[..bytes.len().min(REASON_LEN_MAX)], 0);
    }

    /// What [`Self::native`] said, in whichever process.
    pub fn reason(&self) -> Option<String> {
        let mut bytes = vec![0; REASON_LEN_MAX];
        let len = self
            .memory
            .read_at(&mut bytes, 0)
            .ok()
            .filter(|len| *len > 0)?;
        Some(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_arrives() {
        let report = Report::new().unwrap();
        assert_eq!(report.reason(), None);
        report.clone().native("it is a 32-bit program");
        assert_eq!(report.reason().as_deref(), Some("it is a 32-bit program"));
    }
}
