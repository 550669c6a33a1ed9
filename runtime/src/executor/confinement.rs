//! What the container library leaves to the executor: propagation of mounts, the seccomp policy and
//! the last change of capabilities.
//!
//! The library ignores the propagation of mounts, loads no policy into further processes, and loads
//! that of the first process before it waits for `start` on a socket, which the policy may forbid.
//! That, and giving the container's user its standard output, needs privilege inside the container's
//! namespaces. So the library is told to leave the process a few capabilities more, which it gives
//! up before the program runs.

use crate::placement::seccomp::allows;
use crate::seccomp::{self, Filter, FilterError};
use crate::sys;
use caps::errors::CapsError;
use caps::{CapSet, CapsHashSet};
use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxSeccomp, LinuxSeccompAction, Mount, Process,
};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    #[error("cannot apply the container's seccomp policy")]
    Filter(#[from] FilterError),
    #[error("cannot load the container's seccomp policy")]
    LoadFilter(#[source] Errno),
    #[error("cannot set the capabilities that the container asks for")]
    Capabilities(#[source] CapsError),
    #[error("cannot make the mount {path:?} {name}")]
    Propagation {
        path: PathBuf,
        name: &'static str,
        source: Errno,
    },
}

/// What remains to be done inside the container.
#[derive(Debug, Clone)]
pub struct Confinement {
    /// Loaded by the executor.
    seccomp: Option<LinuxSeccomp>,
    /// The process' final capabilities.
    capabilities: LinuxCapabilities,
    propagations: Vec<Propagation>,
    no_new_privileges: bool,
}

/// One mount whose propagation the specification sets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Propagation {
    path: PathBuf,
    name: &'static str,
    flags: MsFlags,
}

/// Needed to load a policy and to change mounts; to reach mounts below directories that the
/// container's user may not search; to give files to that user; and see [`FOR_THE_VKERNEL`].
const LENT: [Capability; 4] = [
    Capability::SysAdmin,
    Capability::DacReadSearch,
    Capability::Chown,
    FOR_THE_VKERNEL,
];

/// With it the vkernel can make `/proc/<pid>/exe` name the program that it has loaded, instead of the
/// runtime. It gives it up with everything else that `execve(2)` would take away.
const FOR_THE_VKERNEL: Capability = Capability::CheckpointRestore;

/// Who makes the process become its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    Kernel,
    Vkernel,
}

const PROPAGATIONS: [(&str, MsFlags); 8] = [
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("slave", MsFlags::MS_SLAVE),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("unbindable", MsFlags::MS_UNBINDABLE),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
];

impl Confinement {
    /// Takes over what the executor will do, and changes `process` to what the library is to do. A
    /// capability set that is left out is an empty one, whereas the library would leave it as it is.
    pub fn split(process: &mut Process, seccomp: Option<LinuxSeccomp>, mounts: &[Mount]) -> Self {
        let capabilities = all_listed(process.capabilities().as_ref());
        let confinement = Confinement {
            seccomp,
            capabilities: capabilities.clone(),
            propagations: mounts.iter().flat_map(propagations).collect(),
            no_new_privileges: process.no_new_privileges() == Some(true),
        };
        process.set_capabilities(Some(lend(&capabilities)));
        confinement
    }

    /// Whether the executor can load this policy: one with a listener needs the library, which passes
    /// the listener's descriptor on from outside the container.
    pub fn can_load(policy: &LinuxSeccomp) -> bool {
        let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
        policy.listener_path().is_none()
            && !policy
                .syscalls()
                .iter()
                .flatten()
                .any(|rule| notifies(rule.action()))
    }

    /// Sets the propagation of mounts. Before `start`, so that `create` can report errors.
    pub fn set_propagations(&self) -> Result<(), ConfinementError> {
        for Propagation { path, name, flags } in &self.propagations {
            let done = mount(None::<&str>, path, None::<&str>, *flags, None::<&str>);
            done.map_err(|source| ConfinementError::Propagation {
                path: path.clone(),
                name,
                source,
            })?;
        }
        Ok(())
    }

    /// The last steps, in runc's order: without `noNewPrivileges`, loading a policy needs privilege,
    /// and the capabilities go after it; with it, they go first, so that the policy need not allow it.
    pub fn complete(&self, loader: Loader) -> Result<(), ConfinementError> {
        if self.no_new_privileges {
            self.lower_capabilities(loader)?;
            self.load_policy()
        } else {
            self.load_policy()?;
            self.lower_capabilities(loader)
        }
    }

    fn load_policy(&self) -> Result<(), ConfinementError> {
        let Some(policy) = &self.seccomp else {
            return Ok(());
        };
        let Filter {
            flags,
            instructions,
        } = seccomp::translate(policy)?;
        sys::seccomp::load_filter(flags, &instructions).map_err(ConfinementError::LoadFilter)
    }

    /// For the kernel to load the program: exactly the final sets. For the vkernel, one more, unless a
    /// policy would keep it from giving that up.
    pub fn lower_capabilities(&self, loader: Loader) -> Result<(), ConfinementError> {
        let can_give_up = self
            .seccomp
            .as_ref()
            .is_none_or(|policy| allows(policy, "capset"));
        let kept = (loader == Loader::Vkernel && can_give_up).then_some(FOR_THE_VKERNEL);
        let wanted = |listed: &Option<Capabilities>| -> CapsHashSet {
            let listed = listed.iter().flatten().copied();
            listed.chain(kept).map(|cap| cap.to_cap()).collect()
        };
        let lowered = change(CapSet::Effective, &wanted(self.capabilities.effective()))
            .and_then(|()| change(CapSet::Permitted, &wanted(self.capabilities.permitted())));
        lowered.map_err(ConfinementError::Capabilities)
    }
}

/// Sets one set, unless it is right already: a policy may forbid the call by now. What this process
/// does not have (the runtime itself may be confined) it cannot keep.
fn change(set: CapSet, wanted: &CapsHashSet) -> Result<(), CapsError> {
    let held = caps::read(None, set)?;
    let wanted: CapsHashSet = wanted.intersection(&held).copied().collect();
    if held == wanted {
        return Ok(());
    }
    caps::set(None, set, &wanted)
}

fn all_listed(capabilities: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let set = |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        Some(
            capabilities
                .and_then(|listed| set(listed).clone())
                .unwrap_or_default(),
        )
    };
    let mut listed = LinuxCapabilities::default();
    listed
        .set_bounding(set(LinuxCapabilities::bounding))
        .set_effective(set(LinuxCapabilities::effective))
        .set_permitted(set(LinuxCapabilities::permitted))
        .set_inheritable(set(LinuxCapabilities::inheritable))
        .set_ambient(set(LinuxCapabilities::ambient));
    listed
}

fn lend(capabilities: &LinuxCapabilities) -> LinuxCapabilities {
    let lendable = lendable();
    let with_lent = |set: &Option<Capabilities>| {
        let listed = set.iter().flatten().copied();
        Some(
            listed
                .chain(lendable.iter().copied())
                .collect::<Capabilities>(),
        )
    };
    let mut lent = capabilities.clone();
    lent.set_effective(with_lent(capabilities.effective()))
        .set_permitted(with_lent(capabilities.permitted()));
    lent
}

/// A runtime that is confined itself has no more to lend than it holds. One that is not root makes a
/// user namespace, in which it holds everything.
fn lendable() -> Vec<Capability> {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let is_root = nix::unistd::geteuid().is_root();
    LENT.into_iter()
        .filter(|cap| !is_root || held.contains(&cap.to_cap()))
        .collect()
}

fn propagations(mount: &Mount) -> impl Iterator<Item = Propagation> {
    mount.options().iter().flatten().filter_map(|option| {
        let (name, flags) = PROPAGATIONS.into_iter().find(|(name, _)| name == option)?;
        Some(Propagation {
            path: mount.destination().clone(),
            name,
            flags,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_capabilities_are_not_among_the_final_ones() {
        let mut process = Process::default();
        process.set_capabilities(None);
        let confinement = Confinement::split(&mut process, None, &[]);
        let library = process.capabilities().as_ref().unwrap();
        for lent in lendable() {
            assert!(library.effective().as_ref().unwrap().contains(&lent));
            assert!(library.permitted().as_ref().unwrap().contains(&lent));
        }
        assert!(library.bounding().as_ref().unwrap().is_empty());
        assert!(library.ambient().as_ref().unwrap().is_empty());
        assert!(
            confinement
                .capabilities
                .effective()
                .as_ref()
                .unwrap()
                .is_empty()
        );
        assert!(
            confinement
                .capabilities
                .permitted()
                .as_ref()
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn propagation_is_read_from_the_options() {
        let mut volume = Mount::default();
        volume.set_options(Some(vec!["rbind".to_owned(), "rslave".to_owned()]));
        let confinement = Confinement::split(&mut Process::default(), None, &[volume]);
        assert_eq!(confinement.propagations.len(), 1);
        assert_eq!(
            confinement.propagations[0].flags,
            MsFlags::MS_SLAVE | MsFlags::MS_REC
        );
    }

    #[test]
    fn policies_with_a_listener_are_the_librarys() {
        let policy = |text: &str| serde_json::from_str::<LinuxSeccomp>(text).unwrap();
        assert!(Confinement::can_load(&policy(
            r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#
        )));
        assert!(!Confinement::can_load(&policy(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/s"}"#
        )));
        assert!(!Confinement::can_load(&policy(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                {"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}"#
        )));
    }
}
