//! Looking at the machine from outside the containers: `/proc`, the engine's network, readiness.

use anyhow::{Context as _, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

/// Waits until `file` can be read or its other side has gone.
pub fn readable_within(file: &File, deadline: Instant) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout)? > 0)
}

/// Runs `body` on a thread in the network namespace of `pid`.
pub fn in_network_of<T: Send>(pid: i32, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace =
        File::open(format!("/proc/{pid}/ns/net")).context("the engine's network namespace")?;
    let joined = thread::scope(|scope| {
        let inside = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            body()
        });
        inside.join()
    });
    joined.map_err(|_| anyhow!("the thread in the other network namespace panicked"))?
}

/// The lines of `/proc/<pid>/status` as a map.
pub fn status(pid: i32) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("status of {pid}"))?;
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect())
}

/// The identity of one of a process's namespaces, such as `pid:[4026531836]`.
pub fn namespace(pid: i32, name: &str) -> Result<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}"))
        .with_context(|| format!("namespace {name} of {pid}"))?;
    Ok(link.to_string_lossy().into_owned())
}

/// All processes: pid and command line (the name in brackets for one without).
pub fn processes() -> Result<BTreeMap<i32, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        // It may end while we look.
        let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&command).replace('\0', " ");
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        found.insert(
            pid,
            if line.trim().is_empty() {
                format!("[{}]", name.trim())
            } else {
                line.trim().to_owned()
            },
        );
    }
    Ok(found)
}

/// Parent of a process, from `/proc/<pid>/stat`.
pub fn parent(pid: i32) -> Result<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').context("no name in stat")?.1;
    Ok(rest
        .split_whitespace()
        .nth(1)
        .context("no parent in stat")?
        .parse()?)
}

/// Whether the process exists and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    status(pid).is_ok_and(|status| !status["State"].starts_with(['Z', 'X']))
}

/// Every cgroup directory at or below `name`, in all hierarchies of the machine.
pub fn cgroup_directories(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join(name));
    let mut pending: Vec<PathBuf> = hierarchies
        .chain([root.join(name)])
        .filter(|path| path.is_dir())
        .collect();
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        let children = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        pending.extend(children.filter(|path| path.is_dir()));
        found.push(directory);
    }
    found.sort();
    found
}
