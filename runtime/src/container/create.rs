//! Creates a container: its namespaces, mounts and first process, which then waits for `start`.

use super::adapt::{AdaptError, AdaptedBundle, cgroup_path};
use super::bundle::{Bundle, BundleError};
use super::cgroup::ContainerCgroup;
use super::explain::explain;
use super::facts::{Facts, FactsError, Isolation, Placement, SharedFacts};
use super::fused::{self, FusedError, Place};
use super::hierarchies::{Afterwards, Hierarchies, Joined};
use super::root::{Root, RootError};
use crate::configuration::Configuration;
use crate::error::chain;
use crate::executor::Role;
use crate::executor::confinement::Confinement;
use crate::executor::native::NativeExecutor;
use crate::executor::own::OwnExecutor;
use crate::group::Group;
use crate::instance::own;
use crate::instance::shared::TRUTH;
use crate::placement::report::Report;
use crate::placement::{self, Alone, MpkSupport, PlacementError, Plan, Policy};
use crate::sys;
use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::Executor;
use nix::errno::Errno;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("cannot give the container a session keyring; --no-new-keyring does without")]
    Keyring(#[source] Errno),
    #[error("cannot keep the C library from loading modules")]
    NameService(#[source] Errno),
    #[error("unable to start container process: {}", explain(.0))]
    Library(Box<LibcontainerError>),
    #[error(transparent)]
    Adapt(#[from] AdaptError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Placement(#[from] PlacementError),
    #[error("cannot place the container in its group's instance")]
    Fused(#[from] FusedError),
    #[error("cannot create the memory file that brings the placement back")]
    Report(#[source] Errno),
}

/// What the command line says about the container to create.
#[derive(Debug, Clone)]
pub struct CreateRequest<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserve_fds: i32,
    pub pivot: Pivot,
    pub keyring: Keyring,
    pub cgroups: Cgroups,
    pub afterwards: Afterwards,
    pub configuration: Configuration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pivot {
    PivotRoot,
    MoveMount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyring {
    New,
    Inherited,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cgroups {
    FileSystem,
    Systemd,
}

impl Cgroups {
    /// The hierarchies that are this program's to manage.
    fn hierarchies(self) -> Hierarchies {
        match self {
            Cgroups::FileSystem => Hierarchies::of_this_host(),
            Cgroups::Systemd => Hierarchies::default(),
        }
    }
}

/// Creates the container, or leaves nothing behind.
pub fn create(
    root: &Root,
    policy: &Policy,
    request: &CreateRequest<'_>,
) -> Result<Container, CreateError> {
    let _lock = root.reserve(request.id)?;
    let bundle = Bundle::load(request.bundle)?;
    let plan = placement::plan(&bundle.spec, policy, MpkSupport::of_this_machine())?;
    sys::name_service::use_files_only().map_err(CreateError::NameService)?;
    if request.keyring == Keyring::New {
        new_keyring(request.id)?;
    }
    let directory = root.directory(request.id)?;
    let created = place(root, request, &bundle, plan)
        .and_then(|built| built.conclude(request, policy, &bundle, &directory));
    if created.is_err() {
        remove_remains(&directory, request, &bundle);
    }
    created
}

/// Where the first process went, and why.
struct Placed {
    placement: Placement,
    reason: String,
    shared: Option<SharedFacts>,
}

/// Builds the container as planned; a vkernel that cannot be had makes it native.
fn place(
    root: &Root,
    request: &CreateRequest<'_>,
    bundle: &Bundle,
    plan: Plan,
) -> Result<Built, CreateError> {
    // First of all: an instance that is started here is in none of the container's cgroups.
    let alone = match plan {
        Plan::Shared(group) => match fused::take_place(root, request, bundle, &group) {
            Ok(taken) => return place_in_group(root, request, taken, &group),
            Err(error) => Alone::Own(chain(&error)),
        },
        Plan::Alone(alone) => alone,
    };
    let site = Site::prepare(root, request, bundle)?;
    let reason = match alone {
        Alone::Native(reason) => return place_native(site, reason),
        Alone::Own(reason) => reason,
    };
    let vkernel = match own::prepare() {
        Ok(vkernel) => vkernel,
        Err(error) => return place_native(site, chain(&error)),
    };
    let report = Report::new().map_err(CreateError::Report)?;
    // An id consists of letters, digits and a few signs: it has no NUL.
    let id = CString::new(request.id).unwrap_or_default();
    let executor = OwnExecutor::new(site.confinement(), vkernel, id, report.clone());
    let (container, joined) = site.build(executor)?;
    let placed = match report.reason() {
        Some(reason) => Placed {
            placement: Placement::Native,
            reason,
            shared: None,
        },
        None => Placed {
            placement: Placement::Resident,
            reason,
            shared: None,
        },
    };
    Ok(Built {
        container,
        placed,
        joined,
    })
}

fn place_native(site: Site<'_>, reason: String) -> Result<Built, CreateError> {
    let executor = NativeExecutor::new(Role::Init, site.confinement());
    let (container, joined) = site.build(executor)?;
    let placed = Placed {
        placement: Placement::Native,
        reason,
        shared: None,
    };
    Ok(Built {
        container,
        placed,
        joined,
    })
}

/// Builds the container around the place that it has in its group's instance.
fn place_in_group(
    root: &Root,
    request: &CreateRequest<'_>,
    place: Place,
    group: &Group,
) -> Result<Built, CreateError> {
    let site = Site::prepare(root, request, &place.bundle)?;
    let (executor, seat) = place.split(request, site.confinement());
    let (container, joined) = site.build(executor)?;
    let shared = seat.enroll(&container)?;
    tracing::warn!("{TRUTH}");
    let placed = Placed {
        placement: Placement::Resident,
        reason: format!("it shares the instance of group {}", group.name()),
        shared: Some(shared),
    };
    Ok(Built {
        container,
        placed,
        joined,
    })
}

/// All that is ready before the library builds the container.
struct Site<'a> {
    root: &'a Root,
    request: &'a CreateRequest<'a>,
    adapted: AdaptedBundle,
    joined: Joined,
}

impl<'a> Site<'a> {
    fn prepare(
        root: &'a Root,
        request: &'a CreateRequest<'a>,
        bundle: &Bundle,
    ) -> Result<Self, CreateError> {
        let hierarchies = request.cgroups.hierarchies();
        let adapted = AdaptedBundle::write(root.path(), request.id, bundle, &hierarchies)?;
        let joined = hierarchies.join(&cgroup_path(&bundle.spec, request.id));
        Ok(Site {
            root,
            request,
            adapted,
            joined,
        })
    }

    fn confinement(&self) -> Confinement {
        self.adapted.confinement.clone()
    }

    fn build(self, executor: impl Executor + 'static) -> Result<(Container, Joined), CreateError> {
        let failed = |error| CreateError::Library(Box::new(error));
        let request = self.request;
        let container = ContainerBuilder::new(request.id.to_owned(), SyscallType::default())
            .with_executor(executor)
            .with_pid_file(request.pid_file.clone())
            .map_err(failed)?
            .with_console_socket(request.console_socket.clone())
            .with_root_path(self.root.path())
            .map_err(failed)?
            .with_preserved_fds(request.preserve_fds)
            .as_init(&self.adapted.path)
            .with_systemd(request.cgroups == Cgroups::Systemd)
            .with_detach(true)
            .with_no_pivot(request.pivot == Pivot::MoveMount)
            .build()
            .map_err(failed)?;
        Ok((container, self.joined))
    }
}

/// A container that exists, but not yet on record.
struct Built {
    container: Container,
    placed: Placed,
    joined: Joined,
}

impl Built {
    fn conclude(
        self,
        request: &CreateRequest<'_>,
        policy: &Policy,
        bundle: &Bundle,
        directory: &Path,
    ) -> Result<Container, CreateError> {
        let Built {
            mut container,
            placed,
            joined,
        } = self;
        tracing::info!(
            "container {} is {}: {}",
            request.id,
            placed.placement,
            placed.reason
        );
        container.state.bundle.clone_from(&bundle.path);
        container
            .save()
            .map_err(|error| CreateError::Library(Box::new(error)))?;
        facts_of(&container, policy, placed).save(directory)?;
        joined.settle(request.afterwards);
        Ok(container)
    }
}

fn new_keyring(id: &str) -> Result<(), CreateError> {
    match sys::keyring::join_session_keyring(&format!("_ses.{id}")) {
        // A kernel without keyrings, or a policy that forbids them, has none to protect.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => Ok(()),
        Err(errno) => Err(CreateError::Keyring(errno)),
    }
}

fn facts_of(container: &Container, policy: &Policy, placed: Placed) -> Facts {
    Facts {
        group: policy.group.clone(),
        isolation: match placed.shared {
            Some(_) => Isolation::None,
            None => Isolation::Own,
        },
        placement: placed.placement,
        reason: placed.reason,
        start_time: container.pid().and_then(super::process_start_time),
        shared: placed.shared,
    }
}

/// Undoes a creation that failed half-way. Errors here are logged only: the user is to see why the
/// creation failed.
fn remove_remains(directory: &Path, request: &CreateRequest<'_>, bundle: &Bundle) {
    let path = cgroup_path(&bundle.spec, request.id);
    request.cgroups.hierarchies().remove(&path);
    let systemd = request.cgroups == Cgroups::Systemd;
    if let Err(error) =
        ContainerCgroup::at(path, request.id, systemd).and_then(|cgroup| cgroup.remove())
    {
        tracing::debug!("cannot remove the cgroup: {}", crate::error::chain(&error));
    }
    match fs::remove_dir_all(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("cannot remove {directory:?}: {error}"),
    }
}
