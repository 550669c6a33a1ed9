//! `pegasus delete`: remove what a container leaves behind.

use super::{CommandError, Context, Outcome};
use crate::container::cgroup::ContainerCgroup;
use crate::container::explain::explain;
use crate::container::facts::Facts;
use crate::container::fused::{self, FusedError};
use crate::container::hierarchies::Hierarchies;
use crate::container::root::Root;
use crate::group::Group;
use crate::instance::client::{self, ClientError};
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::error::LibcontainerError;
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
    delete(&context.root, &arguments.container_id, running)?;
    Ok(0)
}

pub fn delete(root: &Root, id: &str, running: Running) -> Result<(), CommandError> {
    let directory = root.directory(id)?;
    let facts = Facts::load(&directory).unwrap_or_default();
    let mut container = match root.load(id) {
        Ok(container) => container,
        // A creation that was killed may have left a directory without a readable state.
        Err(_) if running == Running::Kill => return remove_directory(&directory),
        Err(error) => return Err(error.into()),
    };
    match (container.status(), running) {
        (ContainerStatus::Stopped, _) => {}
        (ContainerStatus::Created, _) | (_, Running::Kill) => kill_and_wait(&container),
        (status, Running::Refuse) => {
            let status = status.to_string().to_lowercase();
            return Err(DeleteError::NotStopped {
                id: id.to_owned(),
                status,
            }
            .into());
        }
    }
    if let Some(facts) = facts.filter(|facts| facts.shared.is_some()) {
        leave_group(root, id, &facts);
    }
    let cgroup = container.spec().ok().map(|config| config.cgroup_path);
    let is_systemds = container.systemd();
    container
        .delete(running == Running::Kill)
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
fn leave_group(root: &Root, id: &str, facts: &Facts) {
    let left = || -> Result<(), FusedError> {
        if let Some(group) = &facts.group {
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

fn remove_directory(directory: &Path) -> Result<(), CommandError> {
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
fn kill_and_wait(container: &Container) {
    const POLL_INTERVAL: Duration = Duration::from_millis(2);
    const POLLS_MAX: usize = 1000;
    let killed =
        ContainerCgroup::of(container).and_then(|cgroup| cgroup.kill_all(libc::SIGKILL, None));
    if let Err(error) = killed {
        tracing::debug!(
            "cannot kill the container's processes: {}",
            crate::error::chain(&error)
        );
    }
    let Some(pid) = container.pid() else { return };
    for _ in 0..POLLS_MAX {
        if is_gone(pid) {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Dead, if perhaps not yet waited for by its parent.
fn is_gone(pid: nix::unistd::Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}
