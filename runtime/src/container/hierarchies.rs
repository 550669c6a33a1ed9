//! The hierarchies of cgroup version 1, on hosts that have them (alone, or beside a unified one).
//!
//! The container library makes and joins the cgroups of the controllers it knows. A container belongs
//! into the other hierarchies too (systemd's named one, the unified one of a hybrid host, `misc` …):
//! otherwise it would be accounted to the runtime's caller there, and be killed with it.

use libcgroups::common::{CgroupSetup, get_cgroup_setup};
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{Mount, MountBuilder};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The controllers whose cgroups the container library makes.
const LIBRARY_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "pids",
    "perf_event",
    "memory",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// As in `/proc/<pid>/cgroup`: `cpu,cpuacct`, `name=systemd`, or nothing for the unified one.
    controllers: Vec<String>,
}

/// The hierarchies of this host; none if it has version 2 alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    all: Vec<Hierarchy>,
}

impl Hierarchies {
    pub fn of_this_host() -> Self {
        match get_cgroup_setup() {
            Ok(CgroupSetup::Legacy | CgroupSetup::Hybrid) => {
                let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                Hierarchies {
                    all: table.lines().filter_map(parse_mount).collect(),
                }
            }
            Ok(CgroupSetup::Unified) | Err(_) => Self::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What to mount in place of a mount of type `cgroup`: as runc does it, a tmpfs, and in it the
    /// container's own cgroup of each hierarchy. The library ignores that they are to be read-only.
    pub fn mounts(&self, mount: &Mount, cgroup: &Path) -> Result<Vec<Mount>, OciSpecError> {
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let mut access = texts(&["bind", "nosuid", "nodev", "noexec"]);
        if mount
            .options()
            .iter()
            .flatten()
            .any(|option| option == "ro")
        {
            access.push("ro".to_owned());
        }
        let mut mounts = vec![
            MountBuilder::default()
                .source("tmpfs")
                .typ("tmpfs")
                .destination(mount.destination())
                .options(texts(&["noexec", "nosuid", "nodev", "mode=755"]))
                .build()?,
        ];
        for hierarchy in self.all.iter().filter(|hierarchy| !hierarchy.is_unified()) {
            for name in hierarchy.names() {
                mounts.push(
                    MountBuilder::default()
                        .source(hierarchy.directory(cgroup))
                        .typ("bind")
                        .destination(mount.destination().join(name))
                        .options(access.clone())
                        .build()?,
                );
            }
        }
        Ok(mounts)
    }

    /// Moves this process into the container's cgroup of every hierarchy that the library leaves
    /// alone, so that the processes it clones are born there. Where that is not permitted, the
    /// container stays in its caller's cgroup.
    pub fn join(&self, cgroup: &Path) -> Joined {
        let origins = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut back = Vec::new();
        for hierarchy in self
            .all
            .iter()
            .filter(|hierarchy| !hierarchy.is_the_librarys())
        {
            let directory = hierarchy.directory(cgroup);
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&directory);
            match made.and_then(|()| enter(&directory)) {
                Ok(()) => back.extend(hierarchy.origin(&origins)),
                Err(error) => tracing::debug!("cannot join the cgroup {directory:?}: {error}"),
            }
        }
        Joined { back }
    }

    /// Removes the cgroups that [`Self::join`] made, once their processes are gone.
    pub fn remove(&self, cgroup: &Path) {
        const TRIES_MAX: u32 = 50;
        const PAUSE: Duration = Duration::from_millis(2);
        for hierarchy in self
            .all
            .iter()
            .filter(|hierarchy| !hierarchy.is_the_librarys())
        {
            let directory = hierarchy.directory(cgroup);
            for _ in 0..TRIES_MAX {
                match fs::remove_dir(&directory) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(PAUSE);
                    }
                    // Removed, never made, or not ours to remove.
                    Ok(()) | Err(_) => break,
                }
            }
        }
    }
}

/// What this process does once the container has been created. Going back to its own cgroups costs
/// as much as a tenth of a creation, and one that exits need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    Exit,
    GoOn,
}

/// Brings this process back to where it was when dropped.
#[must_use]
#[derive(Debug)]
pub struct Joined {
    back: Vec<PathBuf>,
}

impl Joined {
    /// The container exists: does not bring back a process that is about to exit.
    pub fn settle(mut self, afterwards: Afterwards) {
        if afterwards == Afterwards::Exit {
            self.back.clear();
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        for directory in &self.back {
            if let Err(error) = enter(directory) {
                tracing::debug!("cannot return to the cgroup {directory:?}: {error}");
            }
        }
    }
}

fn enter(directory: &Path) -> Result<(), io::Error> {
    fs::write(directory.join("cgroup.procs"), "0")
}

impl Hierarchy {
    fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn is_the_librarys(&self) -> bool {
        let mut controllers = self.controllers.iter();
        controllers.any(|controller| LIBRARY_CONTROLLERS.contains(&controller.as_str()))
    }

    fn directory(&self, cgroup: &Path) -> PathBuf {
        self.mount_point
            .join(cgroup.strip_prefix("/").unwrap_or(cgroup))
    }

    /// The name of its directory, then, where several controllers are mounted together, theirs.
    fn names(&self) -> Vec<String> {
        let own = self
            .mount_point
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let others = self
            .controllers
            .iter()
            .filter(|_| self.controllers.len() > 1);
        own.into_iter().chain(others.cloned()).collect()
    }

    /// This process' own cgroup in the hierarchy, given `/proc/self/cgroup`.
    fn origin(&self, table: &str) -> Option<PathBuf> {
        let path = table.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let listed: Vec<&str> = controllers
                .split(',')
                .filter(|controller| !controller.is_empty())
                .collect();
            (listed == self.controllers).then_some(path)
        })?;
        Some(self.directory(Path::new(path)))
    }
}

/// One line of `/proc/self/mountinfo`, if it is a hierarchy in its usual place.
fn parse_mount(line: &str) -> Option<Hierarchy> {
    // Options of the file system that are not controllers.
    const OPTIONS: [&str; 5] = ["rw", "ro", "xattr", "clone_children", "noprefix"];
    let (mount, file_system) = line.split_once(" - ")?;
    let mount_point = PathBuf::from(mount.split(' ').nth(4)?);
    if mount_point.parent() != Some(Path::new(CGROUP_ROOT)) {
        return None;
    }
    let mut fields = file_system.split(' ');
    let kind = fields.next()?;
    let options = fields.nth(1)?;
    let controllers = match kind {
        "cgroup" => options
            .split(',')
            .filter(|option| !OPTIONS.contains(option) && !option.starts_with("release_agent="))
            .map(str::to_owned)
            .collect(),
        "cgroup2" => Vec::new(),
        _ => return None,
    };
    Some(Hierarchy {
        mount_point,
        controllers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
42 31 0:39 / /elsewhere/pids rw - cgroup cgroup rw,pids";

    fn hybrid() -> Hierarchies {
        Hierarchies {
            all: HYBRID.lines().filter_map(parse_mount).collect(),
        }
    }

    #[test]
    fn hierarchies_are_read_from_the_mount_table() {
        let Hierarchies { all } = hybrid();
        let controllers: Vec<_> = all.iter().map(|one| one.controllers.join(",")).collect();
        assert_eq!(controllers, ["cpu,cpuacct", "name=systemd", ""]);
        assert!(all[0].is_the_librarys() && !all[1].is_the_librarys() && !all[2].is_the_librarys());
        assert_eq!(all[0].names(), ["cpu,cpuacct", "cpu", "cpuacct"]);
        assert_eq!(all[1].names(), ["systemd"]);
    }

    #[test]
    fn the_way_back_is_known() {
        let Hierarchies { all } = hybrid();
        let table = "2:name=systemd:/user\n1:cpu,cpuacct:/a\n0::/b\n";
        let origin = |index: usize| all[index].origin(table);
        assert_eq!(
            origin(0).as_deref(),
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/a"))
        );
        assert_eq!(
            origin(1).as_deref(),
            Some(Path::new("/sys/fs/cgroup/systemd/user"))
        );
        assert_eq!(
            origin(2).as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified/b"))
        );
    }

    #[test]
    fn cgroups_are_mounted_as_they_were_asked_for() {
        let mut asked = Mount::default();
        asked
            .set_destination(PathBuf::from("/sys/fs/cgroup"))
            .set_options(Some(vec!["ro".into()]));
        let mounts = hybrid().mounts(&asked, Path::new("/docker/c1")).unwrap();
        let destinations: Vec<_> = mounts
            .iter()
            .map(|mount| mount.destination().display().to_string())
            .collect();
        assert_eq!(
            destinations[1..],
            [
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/cpu",
                "/sys/fs/cgroup/cpuacct",
                "/sys/fs/cgroup/systemd",
            ]
        );
        let source = mounts[1].source().as_deref();
        assert_eq!(
            source,
            Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/docker/c1"))
        );
        assert!(
            mounts[1]
                .options()
                .as_ref()
                .unwrap()
                .contains(&"ro".to_owned())
        );
    }
}
