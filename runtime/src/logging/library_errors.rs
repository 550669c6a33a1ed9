//! Remembers the errors that the container library logs, in whichever of its processes.
//!
//! The library reports failures of the container's first process as a string, often without the
//! cause; the cause is in the events it logged before. A memory file is inherited by its clones, so
//! what they write there can be read by the process that has to explain the failure.

use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

const TEXT_LEN_MAX: usize = 16 * 1024;

static MEMORY: OnceLock<File> = OnceLock::new();

/// Creates the memory file. It is close-on-exec: no container program ever sees it.
pub fn install() -> Result<(), nix::Error> {
    let descriptor = memfd_create(c"pegasus-errors", MemFdCreateFlag::MFD_CLOEXEC)?;
    MEMORY.get_or_init(|| File::from(descriptor));
    Ok(())
}

/// Adds one event. The processes share the file's offset, so each write appends.
pub fn remember(text: &str) {
    if let Some(mut memory) = MEMORY.get() {
        let line = format!("{}\n", text.replace('\n', " "));
        // Losing this text only makes a later message shorter.
        let _ = memory.write_all(line.as_bytes());
    }
}

/// The events so far, first one first.
pub fn recall() -> Vec<String> {
    let mut bytes = vec![0; TEXT_LEN_MAX];
    let len = MEMORY
        .get()
        .and_then(|memory| memory.read_at(&mut bytes, 0).ok())
        .unwrap_or(0);
    String::from_utf8_lossy(&bytes[..len])
        .lines()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_kept_in_order() {
        install().unwrap();
        remember("mount\nfailed");
        remember("so the container failed");
        assert_eq!(recall(), ["mount failed", "so the container failed"]);
    }
}
