//! Puts a home task into all cgroups of its anchor.

use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PROCS: &str = "cgroup.procs";

#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error("cannot read the cgroups of process {pid}")]
    Read { pid: Pid, source: io::Error },
    #[error("cannot move the home task into the container's cgroup {path:?}")]
    Move { path: PathBuf, source: io::Error },
}

/// A mounted hierarchy of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount_point: PathBuf,
    /// The directory of the hierarchy that is mounted there.
    root: PathBuf,
    /// `None` is the unified hierarchy.
    options: Option<Vec<String>>,
}

/// All hierarchies that are mounted, each once.
pub fn hierarchies() -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mounts.lines().filter_map(hierarchy) {
        if !found.iter().any(|known| known.options == hierarchy.options) {
            found.push(hierarchy);
        }
    }
    found
}

/// Moves process `home` to where process `anchor` is. Gives the file that lists the processes of one
/// of those cgroups.
pub fn enroll(home: Pid, anchor: Pid) -> Result<Option<PathBuf>, EnrollError> {
    let text = fs::read_to_string(format!("/proc/{anchor}/cgroup")).map_err(|source| {
        EnrollError::Read {
            pid: anchor,
            source,
        }
    })?;
    let mut last = None;
    for path in places(&text, &hierarchies()) {
        let path = path.join(PROCS);
        match fs::write(&path, home.to_string()) {
            Ok(()) => last = Some(path),
            Err(source) => return Err(EnrollError::Move { path, source }),
        }
    }
    Ok(last)
}

/// Directories of the cgroups that `/proc/<pid>/cgroup` lists, where they are mounted.
fn places(list: &str, hierarchies: &[Hierarchy]) -> Vec<PathBuf> {
    list.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let hierarchy = hierarchies
                .iter()
                .find(|hierarchy| hierarchy.has(controllers))?;
            let inside = Path::new(path).strip_prefix(&hierarchy.root).ok()?;
            Some(hierarchy.mount_point.join(inside))
        })
        .collect()
}

impl Hierarchy {
    /// Whether these are its controllers, as `/proc/<pid>/cgroup` lists them.
    fn has(&self, controllers: &str) -> bool {
        match &self.options {
            None => controllers.is_empty(),
            Some(options) => {
                !controllers.is_empty()
                    && controllers
                        .split(',')
                        .all(|controller| options.iter().any(|option| option == controller))
            }
        }
    }
}

/// One line of `/proc/self/mountinfo`, if it mounts cgroups.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, mount_point) = (fields.next()?, fields.next()?);
    let mut fields = file_system.split(' ');
    let options = match fields.next()? {
        "cgroup2" => None,
        "cgroup" => Some(fields.nth(1)?.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(Hierarchy {
        mount_point: PathBuf::from(mount_point),
        root: PathBuf::from(root),
        options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:29 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";

    #[test]
    fn places_are_found_below_their_mounts() {
        let hierarchies: Vec<Hierarchy> = MOUNTS.lines().filter_map(hierarchy).collect();
        assert_eq!(hierarchies.len(), 4);
        let list =
            "9:name=systemd:/s\n4:memory:/docker/x/c1\n3:cpu,cpuacct:/c1\n2:pids:/c1\n0::/u/c1\n";
        let expected = [
            "/sys/fs/cgroup/systemd/s",
            "/sys/fs/cgroup/memory/c1",
            "/sys/fs/cgroup/cpu,cpuacct/c1",
            "/sys/fs/cgroup/unified/u/c1",
        ];
        assert_eq!(places(list, &hierarchies), expected.map(PathBuf::from));
        assert_eq!(
            places("3:cpuacct,cpu:/\n", &hierarchies),
            [PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/")]
        );
    }

    #[test]
    fn what_is_not_mounted_is_left_out() {
        let hierarchies: Vec<Hierarchy> = MOUNTS.lines().filter_map(hierarchy).collect();
        assert!(places("4:memory:/elsewhere\n1:pids:/\nnonsense\n", &hierarchies).is_empty());
    }
}
