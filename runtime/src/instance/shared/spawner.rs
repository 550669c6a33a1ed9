//! Clones home tasks, each with the session keyring and in the pid namespace of its container.

use crate::instance::message::{Keyring, PidNamespace};
use crate::sys::keyring::join_session_keyring;
use crate::sys::pidfd;
use crate::sys::shared_vkernel::{Home, NewPidNamespace, SharedVkernel};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot open the instance's own pid namespace")]
    OwnNamespace(#[source] io::Error),
    #[error("the container's id has a NUL inside")]
    Id(#[from] NulError),
    #[error("the pid namespace to join is missing")]
    NoNamespace,
    #[error("cannot join the container's pid namespace")]
    Join(#[source] Errno),
    #[error("cannot give the home task a session keyring")]
    Keyring(#[source] Errno),
    #[error("cannot clone a home task")]
    Clone(#[source] Errno),
    #[error("cannot watch a home task")]
    Watch(#[source] Errno),
}

#[derive(Debug)]
pub struct Spawner {
    vkernel: SharedVkernel,
    own_pid_namespace: File,
}

impl Spawner {
    pub fn new(vkernel: SharedVkernel) -> Result<Self, SpawnError> {
        let own = File::open("/proc/self/ns/pid").map_err(SpawnError::OwnNamespace)?;
        Ok(Spawner {
            vkernel,
            own_pid_namespace: own,
        })
    }

    /// Clones a home task from the calling thread.
    pub fn spawn(
        &self,
        id: &str,
        keyring: Keyring,
        namespace: PidNamespace,
        joined: Option<OwnedFd>,
    ) -> Result<(Home, OwnedFd), SpawnError> {
        let name = CString::new(id)?;
        if keyring == Keyring::New {
            match join_session_keyring(&format!("_ses.{id}")) {
                // A kernel without keyrings, or a policy that forbids them, has none to protect.
                Ok(()) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => {}
                Err(errno) => return Err(SpawnError::Keyring(errno)),
            }
        }
        let home = match namespace {
            PidNamespace::New => self.vkernel.spawn_home(&name, NewPidNamespace::Yes),
            PidNamespace::Joined => {
                let joined = joined.ok_or(SpawnError::NoNamespace)?;
                setns(joined, CloneFlags::CLONE_NEWPID).map_err(SpawnError::Join)?;
                let home = self.vkernel.spawn_home(&name, NewPidNamespace::No);
                setns(&self.own_pid_namespace, CloneFlags::CLONE_NEWPID)
                    .map_err(SpawnError::Join)?;
                home
            }
        }
        .map_err(SpawnError::Clone)?;
        // It is a child that nobody else reaps, so its pid is its own.
        let pidfd = pidfd::open(home.pid).map_err(SpawnError::Watch)?;
        Ok((home, pidfd))
    }
}
