//! Where the container library departs from runc, states in the specification what runc does.
//!
//! The library reads `config.json` itself, so a specification that needs a change is written to a
//! directory of its own, which serves as the bundle while the container is created.

use super::bundle::Bundle;
use super::hierarchies::Hierarchies;
use crate::executor::confinement::Confinement;
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{LinuxSeccomp, Mount, Spec};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const CONFIG_FILE: &str = "config.json";

#[derive(Debug, thiserror::Error)]
pub enum AdaptError {
    #[error("cannot create the directory {path:?} for the adapted specification")]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot describe the mounts of the container's cgroups")]
    Mounts(#[source] OciSpecError),
    #[error("cannot write the adapted specification to {path:?}")]
    Write { path: PathBuf, source: OciSpecError },
}

/// A bundle directory that exists for the duration of a creation.
#[derive(Debug)]
pub struct AdaptedBundle {
    pub path: PathBuf,
    /// What the specification no longer tells the library: the executor does it.
    pub confinement: Confinement,
}

impl AdaptedBundle {
    /// Path for container `id` under the state directory: a name that is no container id.
    pub fn path_for(root: &Path, id: &str) -> PathBuf {
        root.join(format!("@bundle-{id}"))
    }

    /// Where the container's cgroups are, by what a creation that was killed has left in `path`.
    pub fn cgroup_path_in(path: &Path) -> Option<PathBuf> {
        let spec = Spec::load(path.join("config.json")).ok()?;
        spec.linux().as_ref()?.cgroups_path().clone()
    }

    pub fn write(
        root: &Path,
        id: &str,
        bundle: &Bundle,
        hierarchies: &Hierarchies,
    ) -> Result<Self, AdaptError> {
        let path = Self::path_for(root, id);
        fs::create_dir_all(&path).map_err(|source| AdaptError::Directory {
            path: path.clone(),
            source,
        })?;
        let (spec, confinement) = adapt(bundle.spec.clone(), &bundle.path, id, hierarchies)?;
        let adapted = AdaptedBundle { path, confinement };
        if bundle.spec.hooks().is_some() {
            link_rest(&bundle.path, &adapted.path).map_err(|source| AdaptError::Directory {
                path: adapted.path.clone(),
                source,
            })?;
        }
        let file = adapted.path.join(CONFIG_FILE);
        spec.save(&file)
            .map_err(|source| AdaptError::Write { path: file, source })?;
        Ok(adapted)
    }
}

/// Hooks that run during the creation are told this directory: what else is in the bundle is here, too.
fn link_rest(bundle: &Path, adapted: &Path) -> Result<(), io::Error> {
    for entry in bundle.read_dir()? {
        let name = entry?.file_name();
        if name != CONFIG_FILE {
            symlink(bundle.join(&name), adapted.join(&name))?;
        }
    }
    Ok(())
}

impl Drop for AdaptedBundle {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!("cannot remove {:?}: {error}", self.path);
        }
    }
}

fn adapt(
    mut spec: Spec,
    bundle: &Path,
    id: &str,
    hierarchies: &Hierarchies,
) -> Result<(Spec, Confinement), AdaptError> {
    if let Some(root) = spec.root_mut() {
        root.set_path(bundle.join(root.path()));
    }
    let seccomp = take_policy(&mut spec);
    let mut process = spec.process().clone().unwrap_or_default();
    if process.no_new_privileges() == Some(false) {
        // The same as leaving it out, but the library takes it for true in one place.
        process.set_no_new_privileges(None);
    }
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let confinement = Confinement::split(&mut process, seccomp, mounts);
    spec.set_process(Some(process));
    let cgroup = cgroup_path(&spec, id);
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(cgroup.clone()));
    }
    if let Some(mounts) = spec.mounts()
        && !hierarchies.is_empty()
    {
        let mounts = adapt_mounts(mounts, hierarchies, &cgroup).map_err(AdaptError::Mounts)?;
        spec.set_mounts(Some(mounts));
    }
    Ok((spec, confinement))
}

/// Where the container's cgroups are, below each hierarchy.
pub fn cgroup_path(spec: &Spec, id: &str) -> PathBuf {
    let configured = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().clone());
    configured.unwrap_or_else(|| PathBuf::from(id))
}

/// Takes the policy away from the library, unless only the library can load it.
fn take_policy(spec: &mut Spec) -> Option<LinuxSeccomp> {
    let linux = spec.linux_mut().as_mut()?;
    let policy = linux.seccomp().clone().filter(Confinement::can_load)?;
    linux.set_seccomp(None);
    Some(policy)
}

/// Puts the container's cgroups in the place of a mount of type `cgroup`.
fn adapt_mounts(
    mounts: &[Mount],
    hierarchies: &Hierarchies,
    cgroup: &Path,
) -> Result<Vec<Mount>, OciSpecError> {
    let mut adapted = Vec::with_capacity(mounts.len());
    for mount in mounts {
        if mount.typ().as_deref() == Some("cgroup") {
            adapted.extend(hierarchies.mounts(mount, cgroup)?);
        } else {
            adapted.push(mount.clone());
        }
    }
    Ok(adapted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_stated() {
        let mut spec = Spec::default();
        if let Some(process) = spec.process_mut() {
            process
                .set_no_new_privileges(Some(false))
                .set_capabilities(None);
        }
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(Some(LinuxSeccomp::default()));
        }
        let (adapted, _) = adapt(spec, Path::new("/b"), "c1", &Hierarchies::default()).unwrap();
        let process = adapted.process().as_ref().unwrap();
        assert_eq!(process.no_new_privileges(), None);
        let capabilities = process.capabilities().as_ref().unwrap();
        assert!(capabilities.bounding().as_ref().unwrap().is_empty());
        assert!(capabilities.ambient().as_ref().unwrap().is_empty());
        let linux = adapted.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("c1")));
        assert!(linux.seccomp().is_none());
        assert!(adapted.root().as_ref().unwrap().path().starts_with("/b"));
    }

    #[test]
    fn the_rest_of_a_bundle_is_linked() {
        let base = std::env::temp_dir().join(format!("pegasus-adapt-{}", std::process::id()));
        let (bundle, adapted) = (base.join("bundle"), base.join("adapted"));
        fs::create_dir_all(bundle.join("data")).unwrap();
        fs::create_dir_all(&adapted).unwrap();
        fs::write(bundle.join(CONFIG_FILE), "{}").unwrap();
        fs::write(bundle.join("data/file"), "x").unwrap();
        link_rest(&bundle, &adapted).unwrap();
        assert_eq!(fs::read_to_string(adapted.join("data/file")).unwrap(), "x");
        assert!(!adapted.join(CONFIG_FILE).exists());
        fs::remove_dir_all(base).unwrap();
    }
}
