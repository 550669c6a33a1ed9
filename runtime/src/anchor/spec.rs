//! Changes to the specification by which the library builds the container around a home task.

use libcontainer::oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};

/// The path of the pid namespace that the specification wants to join.
pub fn joined_pid_namespace(spec: &Spec) -> Option<&Path> {
    namespace(spec, LinuxNamespaceType::Pid)?.path().as_deref()
}

pub fn namespace(spec: &Spec, wanted: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces
        .iter()
        .find(|namespace| namespace.typ() == wanted)
}

/// The anchor is born into the pid namespace of process `home`.
pub fn join_home(spec: &mut Spec, home: Pid) {
    let path = PathBuf::from(format!("/proc/{home}/ns/pid"));
    let namespaces = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.namespaces_mut().as_mut());
    for namespace in namespaces.into_iter().flatten() {
        if namespace.typ() == LinuxNamespaceType::Pid {
            namespace.set_path(Some(path.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pid_namespace_is_replaced() {
        let mut spec = Spec::default();
        assert_eq!(joined_pid_namespace(&spec), None);
        let before = spec.clone();
        join_home(&mut spec, Pid::from_raw(7));
        assert_eq!(
            joined_pid_namespace(&spec),
            Some(Path::new("/proc/7/ns/pid"))
        );
        let others = |spec: &Spec| {
            let linux = spec.linux().clone().unwrap();
            let mut namespaces = linux.namespaces().clone().unwrap();
            namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Pid);
            namespaces
        };
        assert_eq!(others(&spec), others(&before));
    }
}
