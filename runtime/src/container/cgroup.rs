//! The cgroups of an existing container.

use crate::sys::process::kill;
use libcgroups::common::{
    AnyCgroupManager, AnyManagerError, CgroupConfig, CgroupManager, CreateCgroupSetupError,
    FreezerState,
};
use libcontainer::container::Container;
use libcontainer::error::LibcontainerError;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("the stored configuration of container {id:?} cannot be read")]
    Config {
        id: String,
        source: Box<LibcontainerError>,
    },
    #[error("the host's cgroup hierarchy cannot be used")]
    Setup(#[source] Box<CreateCgroupSetupError>),
    #[error("the cgroup of container {id:?} cannot be read or changed")]
    Manager {
        id: String,
        source: Box<AnyManagerError>,
    },
    #[error("cannot send signal {signal} to process {pid}")]
    Kill {
        signal: i32,
        pid: Pid,
        source: Errno,
    },
}

/// Access to the cgroups of one container.
pub struct ContainerCgroup {
    id: String,
    manager: AnyCgroupManager,
}

impl ContainerCgroup {
    pub fn of(container: &Container) -> Result<Self, CgroupError> {
        let config = container.spec().map_err(|source| CgroupError::Config {
            id: container.id().to_owned(),
            source: Box::new(source),
        })?;
        Self::at(config.cgroup_path, container.id(), container.systemd())
    }

    pub fn at(path: PathBuf, id: &str, systemd: bool) -> Result<Self, CgroupError> {
        let config = CgroupConfig {
            cgroup_path: path,
            systemd_cgroup: systemd,
            container_name: id.to_owned(),
        };
        let manager = libcgroups::common::create_cgroup_manager(config)
            .map_err(|source| CgroupError::Setup(Box::new(source)))?;
        Ok(ContainerCgroup {
            id: id.to_owned(),
            manager,
        })
    }

    /// Every process in the container's cgroups, by its pid on the host.
    pub fn pids(&self) -> Result<Vec<Pid>, CgroupError> {
        self.manager
            .get_all_pids()
            .map_err(|source| self.failed(source))
    }

    /// Runs `use_manager` on the library's manager.
    pub fn with<T>(
        &self,
        use_manager: impl FnOnce(&AnyCgroupManager) -> Result<T, AnyManagerError>,
    ) -> Result<T, CgroupError> {
        use_manager(&self.manager).map_err(|source| self.failed(source))
    }

    /// Sends `signal` to every process but `spared` while none of them can fork away.
    pub fn kill_all(&self, signal: i32, spared: Option<Pid>) -> Result<(), CgroupError> {
        // Without a freezer a process that forks at the same moment may escape one round; the kill of
        // the pid namespace's first process still gets it.
        if let Err(error) = self.manager.freeze(FreezerState::Frozen) {
            tracing::debug!(id = self.id, "cannot freeze the container: {error}");
        }
        let outcome = self.pids().and_then(|pids| {
            pids.into_iter()
                .filter(|pid| Some(*pid) != spared)
                .try_for_each(|pid| match kill(pid, signal) {
                    Ok(()) | Err(Errno::ESRCH) => Ok(()),
                    Err(source) => Err(CgroupError::Kill {
                        signal,
                        pid,
                        source,
                    }),
                })
        });
        if let Err(error) = self.manager.freeze(FreezerState::Thawed) {
            tracing::debug!(id = self.id, "cannot thaw the container: {error}");
        }
        outcome
    }

    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.with(|manager| manager.freeze(FreezerState::Thawed))
    }

    /// Kills what is left in the cgroups and removes them.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.with(CgroupManager::remove)
    }

    fn failed(&self, source: AnyManagerError) -> CgroupError {
        CgroupError::Manager {
            id: self.id.clone(),
            source: Box::new(source),
        }
    }
}
