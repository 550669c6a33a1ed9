//! Fusion groups: their names, and the directory in which a group's instance can be found.
//!
//! `/run/pegasus/<group>/` exists while the group has an instance: `control.sock`, on which it is
//! asked for home tasks, and its `log`. Whoever starts an instance, and the instance that ends, hold
//! the group's lock, so that nobody asks one that is about to go.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const BASE: &str = "/run/pegasus";
/// No group is called so.
const LOCK_FILE: &str = "@groups.lock";
const SOCKET_FILE: &str = "control.sock";
const LOG_FILE: &str = "log";
/// With it, the socket's path stays below the 108 bytes that `sun_path` holds.
const NAME_LEN_MAX: usize = 64;
/// The directory of containers' states, beside those of the groups.
const NAME_TAKEN: &str = "containers";

#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error(
        "invalid group name {0:?}: use letters, digits, '_', '-' and '.', at most 64 of them, not \"containers\""
    )]
    Name(String),
    #[error("cannot create the directory {path:?} for the group's instance")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot lock {path:?}")]
    Lock { path: PathBuf, source: io::Error },
}

/// A fusion group with a valid name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    name: String,
    base: PathBuf,
}

/// Nobody else starts or ends an instance of the group meanwhile.
#[derive(Debug)]
pub struct GroupLock {
    _file: File,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenLocked {
    Wait,
    GiveUp,
}

impl Group {
    pub fn named(name: &str) -> Result<Self, GroupError> {
        Self::under(Path::new(BASE), name)
    }

    fn under(base: &Path, name: &str) -> Result<Self, GroupError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let fits = !name.is_empty() && name.len() <= NAME_LEN_MAX;
        let is_reserved = name.starts_with('.') || name == NAME_TAKEN;
        if !fits || is_reserved || !name.chars().all(is_allowed) {
            return Err(GroupError::Name(name.to_owned()));
        }
        Ok(Group {
            name: name.to_owned(),
            base: base.to_owned(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn directory(&self) -> PathBuf {
        self.base.join(&self.name)
    }

    pub fn socket(&self) -> PathBuf {
        self.directory().join(SOCKET_FILE)
    }

    pub fn log(&self) -> PathBuf {
        self.directory().join(LOG_FILE)
    }

    /// Path of the instance's own cgroup, below the root of each hierarchy.
    pub fn cgroup(&self) -> PathBuf {
        Path::new("/pegasus").join(&self.name)
    }

    /// Makes the directory, for root only.
    pub fn create_directory(&self) -> Result<(), GroupError> {
        let failed = |path: &Path, source| GroupError::Directory {
            path: path.to_owned(),
            source,
        };
        create(&self.base, 0o711).map_err(|source| failed(&self.base, source))?;
        let directory = self.directory();
        create(&directory, 0o700).map_err(|source| failed(&directory, source))
    }

    /// Removes the directory and what is in it; missing parts are no error.
    pub fn remove_directory(&self) -> Result<(), io::Error> {
        match fs::remove_dir_all(self.directory()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Locks the group; `None` if somebody else has, and `when_locked` says to give up. The lock ends
    /// with the process, however it ends, and children do not inherit it.
    pub fn lock(&self, when_locked: WhenLocked) -> Result<Option<GroupLock>, GroupError> {
        let path = self.base.join(LOCK_FILE);
        let failed = |source| GroupError::Lock {
            path: path.clone(),
            source,
        };
        create(&self.base, 0o711).map_err(failed)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        // One byte per group, chosen by hash: two groups that meet only wait for each other.
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        let range = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: i64::from(hasher.finish() as u32),
            l_len: 1,
            l_pid: 0,
        };
        loop {
            let locked = match when_locked {
                WhenLocked::Wait => fcntl(file.as_raw_fd(), FcntlArg::F_SETLKW(&range)),
                WhenLocked::GiveUp => fcntl(file.as_raw_fd(), FcntlArg::F_SETLK(&range)),
            };
            match locked {
                Ok(_) => return Ok(Some(GroupLock { _file: file })),
                Err(Errno::EINTR) => {}
                Err(Errno::EACCES | Errno::EAGAIN) if when_locked == WhenLocked::GiveUp => {
                    return Ok(None);
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

fn create(path: &Path, mode: u32) -> Result<(), io::Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for name in ["", ".", "..", ".a", "a/b", "a b", "@x", "containers", "é"] {
            assert!(Group::named(name).is_err(), "{name:?}");
        }
        assert!(Group::named(&"x".repeat(NAME_LEN_MAX + 1)).is_err());
        for name in ["a", "web-1", "A_b.c", &"x".repeat(NAME_LEN_MAX)] {
            let group = Group::named(name).unwrap();
            assert!(group.socket().as_os_str().len() < 108);
        }
    }

    #[test]
    fn a_directory_comes_and_goes() {
        let base = std::env::temp_dir().join(format!("pegasus-group-{}", std::process::id()));
        let group = Group::under(&base, "g").unwrap();
        group.create_directory().unwrap();
        group.create_directory().unwrap();
        fs::write(group.log(), "x").unwrap();
        assert!(group.lock(WhenLocked::GiveUp).unwrap().is_some());
        group.remove_directory().unwrap();
        group.remove_directory().unwrap();
        assert!(!group.directory().exists());
        fs::remove_dir_all(base).unwrap();
    }
}
