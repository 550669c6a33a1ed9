//! Where xtask keeps what outlives a run: caches and the data root of its own engine.
//!
//! Not under `target/`: a container engine's files are root's, large, and worth keeping over
//! `cargo clean` and between clones. `PEGASUS_XTASK_STATE` names another place.

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const ROOT_DEFAULT: &str = "/var/lib/pegasus-xtask";

/// The directory, held by one run at a time.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
    _lock: Flock<File>,
}

impl State {
    /// Waits for another run on this machine to end.
    pub fn open() -> Result<Self> {
        let root = std::env::var_os("PEGASUS_XTASK_STATE")
            .map_or_else(|| ROOT_DEFAULT.into(), PathBuf::from);
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let file = File::create(root.join("lock"))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, _)) => {
                println!("  waiting for another run that uses {}", root.display());
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?
            }
        };
        Ok(Self { root, _lock: lock })
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.root.join(name);
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// Files that can be made again.
    pub fn cache(&self) -> Result<PathBuf> {
        self.directory("cache")
    }

    /// The suite's own engine.
    pub fn engine(&self) -> Result<PathBuf> {
        self.directory("engine")
    }

    /// Files of one run, empty at its start.
    pub fn scratch(&self) -> Result<PathBuf> {
        let directory = self.root.join("scratch");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        self.directory("scratch")
    }
}

/// Root of the source tree.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}
