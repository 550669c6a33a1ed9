//! Remembers the first error that the container library logs, in whichever of its processes.
//!
//! The library reports failures of the container's first process as a string, often without the
//! cause; the cause is in the event it logged first. A memory file is inherited by its clones, so
//! what they write there can be read by the process that has to explain the failure.

use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

const TEXT_LEN_MAX: usize = 4096;

static MEMORY: OnceLock<File> = OnceLock::new();

/// Creates the memory file. It is close-on-exec: no container program ever sees it.
pub fn install() -> Result<(), nix::Error> {
    let descriptor = memfd_create(c"pegasus-first-error", MemFdCreateFlag::MFD_CLOEXEC)?;
    MEMORY.get_or_init(|| File::from(descriptor));
    Ok(())
}

/// Keeps `text` unless something was kept before.
pub fn remember(text: &str) {
    if let Some(memory) = MEMORY.get()
        && memory.metadata().is_ok_and(|metadata| metadata.len() == 0)
    {
        let bytes = text.as_bytes();
        // Losing this text only makes a later message shorter.
        let _ = memory.write_at(&bytes[..bytes.len().min(TEXT_LEN_MAX)], 0);
    }
}

/// What was kept, if anything.
pub fn recall() -> Option<String> {
    let memory = MEMORY.get()?;
    let mut bytes = vec![0; TEXT_LEN_MAX];
    let len = memory.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(len);
    (len > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_is_kept() {
        install().unwrap();
        remember("mount failed");
        remember("so the container failed");
        assert_eq!(recall().as_deref(), Some("mount failed"));
    }
}
