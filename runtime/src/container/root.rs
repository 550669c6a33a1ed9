//! The directory (`--root`) under which every container has a directory with its state.

use super::facts::Facts;
use super::process_start_time;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::error::LibcontainerError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// No container id contains an `@`.
const LOCK_FILE: &str = "@create.lock";
const ID_LEN_MAX: usize = 255;

#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error(
        "invalid container id {0:?}: use letters, digits, '_', '+', '-' and '.', at most 255 of them"
    )]
    InvalidId(String),
    #[error("container {0:?} does not exist")]
    NoContainer(String),
    #[error("container with id exists: {0}")]
    Exists(String),
    #[error("cannot create the state directory {path:?}; choose another one with --root")]
    CreateRoot { path: PathBuf, source: io::Error },
    #[error("cannot read the state directory {path:?}")]
    ReadRoot { path: PathBuf, source: io::Error },
    #[error("cannot lock {path:?}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("the state of container {id:?} cannot be read")]
    State {
        id: String,
        source: Box<LibcontainerError>,
    },
}

/// Where the state of containers is kept.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

/// Held while a container is being created. POSIX record locks are not inherited by children and
/// end with the process, however it ends.
#[derive(Debug)]
pub struct CreateLock {
    _file: File,
}

impl Root {
    pub fn new(path: PathBuf) -> Self {
        Root { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Directory of a container, whether it exists or not.
    pub fn directory(&self, id: &str) -> Result<PathBuf, RootError> {
        check_id(id)?;
        Ok(self.path.join(id))
    }

    /// State of an existing container, brought up to date with what its process does.
    pub fn load(&self, id: &str) -> Result<Container, RootError> {
        let directory = self.directory(id)?;
        if !directory.join("state.json").exists() {
            return Err(RootError::NoContainer(id.to_owned()));
        }
        let mut container = Container::load(directory).map_err(|source| RootError::State {
            id: id.to_owned(),
            source: Box::new(source),
        })?;
        if is_another_process(&container) {
            container.set_status(ContainerStatus::Stopped);
        }
        Ok(container)
    }

    /// Ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>, RootError> {
        let failed = |source| RootError::ReadRoot {
            path: self.path.clone(),
            source,
        };
        let entries = match self.path.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if let Some(id) = entry.file_name().to_str()
                && check_id(id).is_ok()
                && entry.path().join("state.json").exists()
            {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Makes sure that the directory exists, that no container `id` does, and that no other process
    /// creates it meanwhile.
    pub fn reserve(&self, id: &str) -> Result<CreateLock, RootError> {
        let directory = self.directory(id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.path)
            .map_err(|source| RootError::CreateRoot {
                path: self.path.clone(),
                source,
            })?;
        let lock = self.lock(id)?;
        if directory.exists() {
            return Err(RootError::Exists(id.to_owned()));
        }
        Ok(lock)
    }

    /// One byte of one file per id, chosen by hash: two ids that meet only wait for each other.
    fn lock(&self, id: &str) -> Result<CreateLock, RootError> {
        let path = self.path.join(LOCK_FILE);
        let failed = |source| RootError::Lock {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let range = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: i64::from(hasher.finish() as u32),
            l_len: 1,
            l_pid: 0,
        };
        loop {
            match fcntl(file.as_raw_fd(), FcntlArg::F_SETLKW(&range)) {
                Ok(_) => return Ok(CreateLock { _file: file }),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

/// Whether the pid of the container's first process has been given to a stranger since, as after a
/// reboot that left the state behind.
fn is_another_process(container: &Container) -> bool {
    let Ok(Some(Facts {
        start_time: Some(expected),
        ..
    })) = Facts::load(&container.root)
    else {
        return false;
    };
    let actual = container.pid().and_then(process_start_time);
    actual.is_some_and(|actual| actual != expected)
}

/// An id becomes a file name and part of a cgroup's path.
fn check_id(id: &str) -> Result<(), RootError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    let is_name = !id.is_empty() && id.len() <= ID_LEN_MAX && id != "." && id != "..";
    if is_name && id.chars().all(is_allowed) {
        Ok(())
    } else {
        Err(RootError::InvalidId(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_file_names_are_refused() {
        for id in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "@create.lock",
            "é",
            &"x".repeat(256),
        ] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["a", ".hidden", "A_b+c-d.e", &"x".repeat(255)] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
    }

    #[test]
    fn a_root_that_does_not_exist_has_no_containers() {
        let root = Root::new(PathBuf::from("/nonexistent/pegasus"));
        assert!(root.ids().unwrap().is_empty());
        assert!(matches!(root.load("c1"), Err(RootError::NoContainer(_))));
    }
}
