//! Creates a container in its group's shared instance: the home task first, then the rest of the
//! container around it.

use super::bundle::Bundle;
use super::create::{CreateRequest, Keyring};
use super::facts::SharedFacts;
use super::process_start_time;
use super::processes::pid_inside;
use super::root::{Root, RootError};
use crate::anchor::cgroup::{self, EnrollError};
use crate::anchor::code::{self, CodeError};
use crate::anchor::executor::AnchorExecutor;
use crate::anchor::plan::{JoinPlan, PlanError};
use crate::anchor::spec::{join_home, joined_pid_namespace};
use crate::executor::confinement::Confinement;
use crate::group::Group;
use crate::instance::channel::Channel;
use crate::instance::client::{self, ClientError, Newcomer, Seat};
use crate::instance::letter::{self, LetterError};
use crate::instance::message::{self, ContainerName};
use crate::sys;
use libcontainer::container::Container;
use nix::unistd::Pid;
use std::ffi::CString;
use std::fs::File;

/// Below what one message carries, with room for those of socket activation.
const PRESERVED_FDS_MAX: u32 = 100;

#[derive(Debug, thiserror::Error)]
pub enum FusedError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Letter(#[from] LetterError),
    #[error(transparent)]
    Code(#[from] CodeError),
    #[error(transparent)]
    Cgroups(#[from] EnrollError),
    #[error("it inherits more descriptors than can be sent to a home task")]
    Descriptors,
    #[error("the container has no process")]
    NoProcess,
}

/// A place in the group's instance. Dropping it before the container is enrolled ends the home task.
pub struct Place {
    /// What the library builds around the home task.
    pub bundle: Bundle,
    seat: PlannedSeat,
    link: Channel,
    letter: File,
    code: File,
}

/// A home task and how it will join.
pub struct PlannedSeat {
    seat: Seat,
    plan: JoinPlan,
    bridge_fastpath: bool,
}

/// Gets a home task, and what is to be built around it.
pub fn take_place(
    root: &Root,
    request: &CreateRequest<'_>,
    bundle: &Bundle,
    group: &Group,
) -> Result<Place, FusedError> {
    let preserve_fds = u32::try_from(request.preserve_fds).unwrap_or(0);
    if preserve_fds > PRESERVED_FDS_MAX {
        return Err(FusedError::Descriptors);
    }
    let plan = JoinPlan::of(&bundle.spec)?;
    let (letter, code) = (letter::blank()?, code::file()?);
    let newcomer = Newcomer {
        name: name(root, request.id)?,
        keyring: match request.keyring {
            Keyring::New => message::Keyring::New,
            Keyring::Inherited => message::Keyring::Inherited,
        },
        pid_namespace: joined_pid_namespace(&bundle.spec),
    };
    let (seat, link) = client::spawn(group, &newcomer)?;
    let mut spec = bundle.spec.clone();
    join_home(&mut spec, Pid::from_raw(seat.spawned.home_pid));
    Ok(Place {
        bundle: Bundle {
            path: bundle.path.clone(),
            spec,
        },
        seat: PlannedSeat {
            seat,
            plan,
            bridge_fastpath: request.configuration.bridge_fastpath,
        },
        link,
        letter,
        code,
    })
}

/// The container's processes have no business with the anchor: they do not see its directory in `/proc`.
fn hide(anchor: Pid) {
    let Some(inside) = pid_inside(anchor) else {
        return;
    };
    let Ok(path) = CString::new(format!("/proc/{inside}")) else {
        return;
    };
    // A container without a /proc has nothing to hide it in.
    if let Err(errno) = sys::anchor::cover_directory(anchor, &path) {
        tracing::debug!("cannot hide the anchor: {errno}");
    }
}

/// What the instance calls a container.
pub fn name(root: &Root, id: &str) -> Result<ContainerName, RootError> {
    let directory = root.directory(id)?;
    Ok(ContainerName {
        directory: std::path::absolute(&directory).unwrap_or(directory),
        id: id.to_owned(),
    })
}

impl Place {
    /// What the anchor needs, and what stays here until the container is built.
    pub fn split(
        self,
        request: &CreateRequest<'_>,
        confinement: Confinement,
    ) -> (AnchorExecutor, PlannedSeat) {
        let preserve_fds = u32::try_from(request.preserve_fds).unwrap_or(0);
        let executor = AnchorExecutor::new(
            request.id,
            confinement,
            self.link,
            self.letter,
            self.code,
            preserve_fds,
        );
        (executor, self.seat)
    }
}

impl PlannedSeat {
    /// The container has been built: the home task joins its cgroups and outlives this process.
    pub fn enroll(self, container: &Container) -> Result<SharedFacts, FusedError> {
        let anchor = container.pid().ok_or(FusedError::NoProcess)?;
        let home = Pid::from_raw(self.seat.spawned.home_pid);
        let procs = cgroup::enroll(home, anchor)?;
        self.seat
            .enroll(&self.plan, anchor, procs, self.bridge_fastpath)?;
        hide(anchor);
        Ok(SharedFacts {
            instance_pid: self.seat.spawned.instance_pid,
            home_pid: home.as_raw(),
            home_start_time: process_start_time(home),
            slot: self.seat.spawned.slot,
        })
    }
}
