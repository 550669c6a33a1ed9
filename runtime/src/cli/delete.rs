//! `pegasus delete`: remove what a container leaves behind.

use super::{CommandError, Context, Outcome};
use crate::container::adapt::AdaptedBundle;
use crate::container::cgroup::{CgroupError, ContainerCgroup};
use crate::container::create::Cgroups;
use crate::container::explain::explain;
use crate::container::facts::Facts;
use crate::container::fused::{self, FusedError};
use crate::container::hierarchies::Hierarchies;
use crate::container::root::Root;
use crate::group::Group;
use crate::instance::client::{self, ClientError};
use libcontainer::config::YoukiConfig;
use libcontainer::container::ContainerStatus;
use libcontainer::error::LibcontainerError;
use nix::unistd::Pid;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    #[error("cannot delete container {id} that is not stopped: {status} (--force kills it first)")]
    NotStopped { id: String, status: String },
    #[error("cannot delete container {id:?}: {}", explain(.source))]
    Library {
        id: String,
        #[source]
        source: Box<LibcontainerError>,
    },
    #[error("cannot remove the state directory {path:?}")]
    Remove { path: PathBuf, source: io::Error },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    Refuse,
    Kill,
}

pub fn run(context: &Context, arguments: &liboci_cli::Delete) -> Outcome {
    let running = if arguments.force {
        Running::Kill
    } else {
        Running::Refuse
    };
    delete(context, &arguments.container_id, running)?;
    Ok(0)
}

pub fn delete(context: &Context, id: &str, running: Running) -> Result<(), CommandError> {
    let root = &context.root;
    let directory = root.directory(id)?;
    let facts = Facts::load(&directory).unwrap_or_default();
    let mut container = match root.load(id) {
        Ok(container) => container,
        // A creation that was killed may have left a directory without a readable state.
        Err(_) if running == Running::Kill => return remove_half_made(context, id, &directory),
        Err(error) => return Err(error.into()),
    };
    match (container.status(), running) {
        (ContainerStatus::Stopped, _) => {}
        (ContainerStatus::Created, _) | (_, Running::Kill) => {
            kill_and_wait(ContainerCgroup::of(&container), container.pid());
        }
        (status, Running::Refuse) => {
            let status = status.to_string().to_lowercase();
            return Err(DeleteError::NotStopped {
                id: id.to_owned(),
                status,
            }
            .into());
        }
    }
    match facts {
        Some(facts) if facts.shared.is_none() => {}
        Some(facts) => leave_group(root, id, facts.group.as_deref()),
        // The creation was killed before it was known where the container is.
        None => leave_group(root, id, context.policy.group.as_deref()),
    }
    remove_if_there(&AdaptedBundle::path_for(root.path(), id))?;
    let cgroup = container.spec().ok().map(|config| config.cgroup_path);
    let is_systemds = container.systemd();
    // Whether it may be deleted has been decided above; the library looks at the pid alone, which may
    // be a stranger's by now, and with force kills nothing but what is in the container's cgroup.
    container
        .delete(true)
        .map_err(|source| DeleteError::Library {
            id: id.to_owned(),
            source: Box::new(source),
        })?;
    if let Some(cgroup) = cgroup.filter(|_| !is_systemds) {
        Hierarchies::of_this_host().remove(&cgroup);
    }
    Ok(())
}

/// Waits until the group's instance has nothing of the container left, which its cgroups would show.
/// What is wrong with the instance must not keep the container from being removed.
fn leave_group(root: &Root, id: &str, group: Option<&str>) {
    let left = || -> Result<(), FusedError> {
        if let Some(group) = group {
            let group = Group::named(group).map_err(ClientError::Group)?;
            client::remove(&group, fused::name(root, id)?)?;
        }
        Ok(())
    };
    if let Err(error) = left() {
        tracing::warn!(
            "cannot remove {id} from its group: {}",
            crate::error::chain(&error)
        );
    }
}

/// What a creation has left that was killed before its state could be read.
fn remove_half_made(context: &Context, id: &str, directory: &Path) -> Result<(), CommandError> {
    let is_systemds = context.cgroups == Cgroups::Systemd;
    let adapted = AdaptedBundle::path_for(context.root.path(), id);
    let path = match YoukiConfig::load(directory) {
        Ok(config) => Some(config.cgroup_path),
        Err(_) => AdaptedBundle::cgroup_path_in(&adapted),
    };
    if let Some(path) = path {
        let cgroup = || ContainerCgroup::at(path.clone(), id, is_systemds);
        kill_and_wait(cgroup(), None);
        if let Err(error) = cgroup().and_then(|cgroup| cgroup.remove()) {
            tracing::debug!("cannot remove the cgroup: {}", crate::error::chain(&error));
        }
        if !is_systemds {
            Hierarchies::of_this_host().remove(&path);
        }
    }
    leave_group(&context.root, id, context.policy.group.as_deref());
    remove_if_there(&adapted)?;
    remove_if_there(directory)
}

fn remove_if_there(directory: &Path) -> Result<(), CommandError> {
    match std::fs::remove_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DeleteError::Remove {
            path: directory.to_owned(),
            source,
        }
        .into()),
    }
}

/// Kills every process and gives the first one a moment to be gone, so that the cgroups are empty
/// when they are removed. What remains is for the library to report.
fn kill_and_wait(cgroup: Result<ContainerCgroup, CgroupError>, first: Option<Pid>) {
    const POLL_INTERVAL: Duration = Duration::from_millis(2);
    const POLLS_MAX: usize = 1000;
    let killed = cgroup.and_then(|cgroup| cgroup.kill_all(libc::SIGKILL, None));
    if let Err(error) = killed {
        tracing::debug!(
            "cannot kill the container's processes: {}",
            crate::error::chain(&error)
        );
    }
    let Some(pid) = first else { return };
    for _ in 0..POLLS_MAX {
        if is_gone(pid) {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Dead, if perhaps not yet waited for by its parent.
fn is_gone(pid: Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}
