//! A shared instance: the process in whose address space the containers of a group run.
//!
//! It is this program once more, started by the first `pegasus create` of a group
//! ([`client`](super::client)), and ends with the last container. [`server`] is its control thread;
//! [`member`] one container.

mod connection;
mod doorbell;
mod member;
mod server;
mod spawner;

use super::heap::{self, HeapError};
use super::image::{self, ImageError};
use super::own::auxiliary_vector;
use crate::container::cgroup::{CgroupError, ContainerCgroup};
use crate::group::{Group, GroupError};
use crate::sys;
use crate::sys::keyring::join_session_keyring;
use crate::sys::shared_vkernel::SharedVkernel;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Pid, setsid};
use pegasus_contract::boot::InstanceKind;
use server::{Server, ServerError};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Heap(#[from] HeapError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("cannot read the auxiliary vector from /proc/self/auxv")]
    Auxv(#[source] io::Error),
    #[error("the vkernel refused to start")]
    Init(#[source] Errno),
    #[error("cannot detach from the process that started the instance")]
    Detach(#[source] io::Error),
}

/// Said wherever a group is fused without memory isolation.
pub const TRUTH: &str = "isolation none: whoever controls one container of this group controls the others and, through \
     their instance, the host";

/// Serves a group until its last container is gone. Standard input is the listening socket.
pub fn run(group: &Group) -> Result<(), SharedError> {
    let listener = detach(group)?;
    let cgroup = join_cgroup(group);
    if let Err(error) = &cgroup {
        let text = crate::error::chain(error);
        tracing::warn!("the instance has no cgroup of its own: {text}");
    }
    let server = start(group, listener)?;
    tracing::warn!("{TRUTH}");
    // Dropped last: until then nobody starts another instance.
    let _lock = server.run()?;
    if let Ok(cgroup) = cgroup {
        leave_cgroup(&cgroup);
    }
    if let Err(error) = group.remove_directory() {
        tracing::warn!("cannot remove the group's directory: {error}");
    }
    Ok(())
}

fn start(group: &Group, listener: OwnedFd) -> Result<Server, SharedError> {
    let auxv = auxiliary_vector().map_err(SharedError::Auxv)?;
    let vkernel = image::map()?;
    heap::map()?;
    vkernel
        .init(InstanceKind::Shared, &auxv)
        .map_err(SharedError::Init)?;
    Ok(Server::new(
        group.clone(),
        SharedVkernel::new(vkernel),
        listener,
    )?)
}

/// Becomes a process of its own: session, directory, descriptors, memory that nobody else may open.
fn detach(group: &Group) -> Result<OwnedFd, SharedError> {
    let failed = SharedError::Detach;
    let listener = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    for number in 0..=2 {
        nix::unistd::dup2(null.as_raw_fd(), number).map_err(|errno| failed(errno.into()))?;
    }
    // Fails only for the leader of a process group, which has been detached already.
    let _ = setsid();
    std::env::set_current_dir("/").map_err(failed)?;
    prctl::set_dumpable(false).map_err(|errno| failed(errno.into()))?;
    set_out_of_memory_score();
    // The keyring of whoever started the instance is none of the containers' business.
    if let Err(errno) = join_session_keyring(&format!("_ses.group.{}", group.name())) {
        tracing::debug!("no session keyring: {errno}");
    }
    // Home tasks are listed with the arguments of their address space, which are the instance's.
    if let Err(errno) = sys::anchor::hide_arguments() {
        tracing::debug!("cannot hide the arguments: {errno}");
    }
    sys::anchor::name_process(&format!("pegasus:{}", group.name()));
    Ok(listener)
}

/// Engines protect their shims from the out-of-memory killer, and children inherit that.
fn set_out_of_memory_score() {
    let path = "/proc/self/oom_score_adj";
    if let Err(error) = fs::write(path, "0") {
        tracing::debug!("cannot write {path}: {error}");
    }
}

fn join_cgroup(group: &Group) -> Result<ContainerCgroup, CgroupError> {
    use libcgroups::common::CgroupManager;
    let cgroup = group_cgroup(group)?;
    cgroup.with(|manager| manager.add_task(Pid::this()))?;
    Ok(cgroup)
}

/// The cgroups that a group's instance lives in.
pub fn group_cgroup(group: &Group) -> Result<ContainerCgroup, CgroupError> {
    ContainerCgroup::at(group.cgroup(), group.name(), false)
}

/// Moves this process to the root of each hierarchy and removes the cgroups that it was in.
fn leave_cgroup(cgroup: &ContainerCgroup) {
    use crate::anchor::cgroup::hierarchies;
    for hierarchy in hierarchies() {
        let procs = hierarchy.mount_point.join("cgroup.procs");
        let moved = File::options()
            .write(true)
            .open(&procs)
            .and_then(|mut file| io::Write::write_all(&mut file, b"0"));
        if let Err(error) = moved {
            tracing::debug!("cannot write {procs:?}: {error}");
        }
    }
    if let Err(error) = cgroup.remove() {
        let text = crate::error::chain(&error);
        tracing::warn!("cannot remove the instance's cgroup: {text}");
    }
}
