//! Content keys for caches: FNV-1a, which is stable across compilers, unlike the standard hasher.

use anyhow::Result;
use std::fs;
use std::path::Path;

/// A hash under construction.
#[derive(Debug, Clone)]
pub struct Fingerprint(u64);

impl Fingerprint {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds one item; items are kept apart, so that `ab, c` differs from `a, bc`.
    pub fn add(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let len = bytes.len().to_le_bytes();
        for byte in bytes.iter().chain(&len) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    /// Adds name and contents of every file of a directory, in order of name.
    pub fn add_directory(self, directory: &Path) -> Result<Self> {
        let mut paths = fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        paths.retain(|path| path.is_file());
        paths.sort();
        paths.iter().try_fold(self, |key, path| {
            Ok(key
                .add(path.file_name().unwrap_or_default().as_encoded_bytes())
                .add(fs::read(path)?))
        })
    }

    pub fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_kept_apart() {
        let key = |items: &[&str]| {
            items
                .iter()
                .fold(Fingerprint::new(), |key, item| key.add(item))
                .hex()
        };
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
    }
}
