//! Processes that come into a container's pid namespace from outside: what `docker exec` starts.
//!
//! Under runc they are gone before the container's first process is: at its end Linux kills them, waits until their
//! parents have been told, and lets nobody else in. Engines rely on the order; Docker's never answers a client whose process
//! ends after the container. A fused container's end is the end of its anchor, which waits for nobody. So before that a
//! mark in the container's directory turns new visitors away, and those that are there are killed and waited for.

use crate::container::processes::pid_inside;
use crate::sys::pidfd;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// In the directory of a container's state, once it ends.
const MARK: &str = "ending";
/// A visitor that does not end even so must not keep the container.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);
/// An engine, its `exec`, what that clones, and in the end the visitor.
const DEPTH: u32 = 3;

/// Held, on the directory of the container's state, by who brings a visitor in.
#[derive(Debug)]
pub struct Visit {
    _lock: Flock<File>,
}

impl Visit {
    /// `None` if the container ends, or does not exist.
    pub fn begin(directory: &Path) -> Option<Self> {
        let lock = lock(directory, FlockArg::LockShared)?;
        // Looked at under the lock: who sets the mark waits for the lock after that.
        let is_ending = directory.join(MARK).exists();
        (!is_ending).then_some(Visit { _lock: lock })
    }
}

fn lock(directory: &Path, how: FlockArg) -> Option<Flock<File>> {
    Flock::lock(File::open(directory).ok()?, how).ok()
}

/// The visitors of a container that ends.
#[derive(Debug)]
pub struct Visitors {
    home: Pid,
    anchor: Pid,
    directory: PathBuf,
}

impl Visitors {
    /// From now on nobody is let in. `None` if the pid namespace is not the container's own: then Linux would not kill its
    /// visitors under runc either.
    pub fn of_ending(home: Pid, anchor: Pid, directory: &Path) -> Option<Self> {
        if pid_inside(home) != Some(1) {
            return None;
        }
        if let Err(error) = File::create(directory.join(MARK)) {
            tracing::debug!("cannot mark that a container ends: {error}");
        }
        Some(Visitors {
            home,
            anchor,
            directory: directory.to_owned(),
        })
    }

    /// Whether there are none, and none on their way.
    pub fn are_gone(&self) -> bool {
        lock(&self.directory, FlockArg::LockExclusiveNonblock).is_some() && self.find().is_empty()
    }

    /// Kills them and waits until their parents know.
    pub fn send_away(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.are_gone() {
            for visitor in self.find() {
                // It may have ended just now.
                let _ = pidfd::send_signal(visitor.as_fd(), libc::SIGKILL);
            }
            if Instant::now() >= deadline {
                tracing::warn!("what `exec` has started does not end with its container");
                return;
            }
            sleep(PAUSE);
        }
    }

    /// Those that the anchor's parent will hear of: its children, and the children of an `exec` that is still at work; also
    /// those that have ended and of which it has not heard yet.
    fn find(&self) -> Vec<OwnedFd> {
        let (Some(inside), Some(engine)) = (namespace(self.home), parent(self.anchor)) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        descend(engine, &inside, DEPTH, &mut all);
        // One whose parent has left meanwhile may have been in no list.
        all.extend(children(engine));
        all.into_iter()
            .filter(|pid| *pid != self.home && *pid != self.anchor)
            .filter_map(|pid| {
                // Opened first: from here on the number cannot become another's unnoticed.
                let process = pidfd::open(pid).ok()?;
                (namespace(pid).as_ref() == Some(&inside)).then_some(process)
            })
            .collect()
    }
}

/// The processes below `pid` that are in pid namespace `inside`, but not what is below them.
fn descend(pid: Pid, inside: &Path, depth: u32, found: &mut Vec<Pid>) {
    for child in children(pid) {
        if namespace(child).as_deref() == Some(inside) {
            found.push(child);
        } else if depth > 1 {
            descend(child, inside, depth - 1, found);
        }
    }
}

/// The pid namespace of a process.
fn namespace(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn parent(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

/// The children of all threads of a process.
fn children(pid: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.fold(Vec::new(), |mut found, list| {
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        found.extend(pids.map(Pid::from_raw));
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_namespaces_are_found() {
        let own = Pid::this();
        assert_eq!(parent(own), Some(Pid::parent()));
        assert!(children(Pid::parent()).contains(&own));
        assert!(namespace(own).is_some());
        assert_eq!(namespace(Pid::from_raw(i32::MAX)), None);
    }

    #[test]
    fn who_shares_a_namespace_is_not_looked_for() {
        let own = Pid::this();
        if pid_inside(own) != Some(1) {
            assert!(Visitors::of_ending(own, own, Path::new("/no/such")).is_none());
        }
    }

    #[test]
    fn nobody_comes_into_a_container_that_ends() {
        let directory = std::env::temp_dir().join(format!("pegasus-visitors-{}", Pid::this()));
        assert!(Visit::begin(&directory).is_none());
        fs::create_dir(&directory).unwrap();
        let visitors = Visitors {
            home: Pid::this(),
            anchor: Pid::this(),
            directory: directory.clone(),
        };
        let visit = Visit::begin(&directory);
        assert!(visit.is_some() && !visitors.are_gone());
        drop(visit);
        File::create(directory.join(MARK)).unwrap();
        assert!(Visit::begin(&directory).is_none());
        fs::remove_dir_all(&directory).unwrap();
    }
}
