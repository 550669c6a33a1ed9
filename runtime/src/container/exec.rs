//! Starts a further process in a running container.

use super::bundle::{self, Bundle, BundleError};
use super::explain::explain;
use super::hierarchies::{Afterwards, Hierarchies};
use super::root::{Root, RootError};
use crate::anchor::visitors::Visit;
use crate::executor::Role;
use crate::executor::confinement::Confinement;
use crate::executor::native::NativeExecutor;
use crate::sys;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Process;
use libcontainer::syscall::syscall::SyscallType;
use nix::errno::Errno;
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("cannot exec in a container that is {0}, only in one that is running")]
    NotRunning(String),
    #[error("cannot exec in a container that ends")]
    Ending,
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    Paused,
    #[error("cannot hand the process description to the container library")]
    Description(#[source] io::Error),
    #[error("cannot keep the C library from loading modules")]
    NameService(#[source] Errno),
    #[error("unable to start container process: {}", explain(.0))]
    Library(Box<LibcontainerError>),
}

/// What the command line says about the process to start.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    pub id: &'a str,
    pub process: Process,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserve_fds: i32,
    pub cgroup: Option<String>,
    pub paused: WhenPaused,
    pub afterwards: Afterwards,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenPaused {
    Refuse,
    Wait,
}

/// A container in which a process may be started.
#[derive(Debug)]
pub struct Target {
    container: Container,
    pub bundle: Bundle,
    /// It does not end meanwhile.
    _visit: Visit,
}

/// The container and its bundle, if a process may be started in it now.
pub fn target(root: &Root, id: &str, paused: WhenPaused) -> Result<Target, ExecError> {
    let visit = Visit::begin(&root.directory(id)?);
    let container = root.load(id)?;
    match (container.status(), paused) {
        (ContainerStatus::Running, _) | (ContainerStatus::Paused, WhenPaused::Wait) => {}
        (ContainerStatus::Paused, WhenPaused::Refuse) => return Err(ExecError::Paused),
        (other, _) => return Err(ExecError::NotRunning(other.to_string().to_lowercase())),
    }
    let bundle = Bundle::read(container.bundle())?;
    Ok(Target {
        container,
        bundle,
        _visit: visit.ok_or(ExecError::Ending)?,
    })
}

/// Starts the process and returns its pid; it is a child of this process.
pub fn exec(root: &Root, target: Target, request: &ExecRequest<'_>) -> Result<Pid, ExecError> {
    let Target {
        container, bundle, ..
    } = &target;
    bundle::check_process(&request.process)?;
    sys::name_service::use_files_only().map_err(ExecError::NameService)?;
    let seccomp = bundle
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().clone());
    let mut process = request.process.clone();
    let confinement = Confinement::split(&mut process, seccomp, &[]);
    let description = describe(&process).map_err(ExecError::Description)?;

    let failed = |error| ExecError::Library(Box::new(error));
    let joined = match container.spec() {
        Ok(config) if !container.systemd() => {
            Some(Hierarchies::of_this_host().join(&config.cgroup_path))
        }
        _ => None,
    };
    let pid = ContainerBuilder::new(request.id.to_owned(), SyscallType::default())
        .with_executor(NativeExecutor::new(Role::Exec, confinement))
        .with_root_path(root.path())
        .map_err(failed)?
        .with_console_socket(request.console_socket.clone())
        .with_pid_file(request.pid_file.clone())
        .map_err(failed)?
        .with_preserved_fds(request.preserve_fds)
        .as_tenant()
        .with_process(Some(format!("/proc/self/fd/{}", description.as_raw_fd())))
        .with_detach(true)
        .with_ignore_paused(request.paused == WhenPaused::Wait)
        .with_sub_cgroup(request.cgroup.clone())
        .build()
        .map_err(failed)?;
    if let Some(joined) = joined {
        joined.settle(request.afterwards);
    }
    Ok(pid)
}

/// The library takes a path, so the description goes into a memory file.
fn describe(process: &Process) -> Result<File, io::Error> {
    let mut file = File::from(memfd_create(
        c"pegasus-process",
        MemFdCreateFlag::MFD_CLOEXEC,
    )?);
    file.write_all(&serde_json::to_vec(process)?)?;
    Ok(file)
}
