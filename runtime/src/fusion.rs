//! Who may share an address space: the rule of privilege.
//!
//! Container code never shares an address space with a task that may do more than the container,
//! and no container that could take its neighbours over anyway is fused with any. Beside that, some
//! settings are the kernel's per address space, or cannot be given to a task that never executes a
//! program; they too keep a container apart. What is kept apart gets an instance of its own, and
//! the reason is kept.

use crate::anchor::plan::capability_masks;
use crate::anchor::spec::namespace;
use crate::anchor::stay::NEEDS;
use crate::placement::seccomp::allows;
use libcontainer::oci_spec::runtime::{
    LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, PosixRlimitType, Process, Spec,
};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Each of them is enough to reach processes outside the container.
const POWERS: [(caps::Capability, &str); 6] = [
    (caps::Capability::CAP_SYS_PTRACE, "CAP_SYS_PTRACE"),
    (caps::Capability::CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
    (caps::Capability::CAP_SYS_RAWIO, "CAP_SYS_RAWIO"),
    (caps::Capability::CAP_SYS_MODULE, "CAP_SYS_MODULE"),
    (caps::Capability::CAP_BPF, "CAP_BPF"),
    (caps::Capability::CAP_PERFMON, "CAP_PERFMON"),
];

/// Why a container must not share an address space; `None` if it may.
pub fn obstacle(spec: &Spec) -> Option<String> {
    let process = spec.process().as_ref()?;
    power(process)
        .or_else(|| namespaces(spec))
        .or_else(|| limits(process))
        .or_else(|| settings(spec, process))
        .or_else(|| {
            let policy = spec.linux().as_ref()?.seccomp().as_ref()?;
            if has_listener(policy) {
                return Some("its seccomp policy has a listener".to_owned());
            }
            let call = NEEDS.iter().find(|call| !allows(policy, call))?;
            Some(format!(
                "its seccomp policy forbids {call}, which its anchor would need"
            ))
        })
}

fn power(process: &Process) -> Option<String> {
    let masks = capability_masks(process);
    let held =
        masks.bounding | masks.permitted | masks.effective | masks.inheritable | masks.ambient;
    POWERS
        .iter()
        .find(|(capability, _)| held & capability.bitmask() != 0)
        .map(|(_, name)| {
            format!("it may be given {name}, with which it could reach its neighbours")
        })
}

fn namespaces(spec: &Spec) -> Option<String> {
    let has = |kind| namespace(spec, kind).is_some();
    if is_hosts_pid_namespace(spec) {
        return Some("it sees the host's processes".to_owned());
    }
    if !has(LinuxNamespaceType::Mount) {
        return Some("it has no mount namespace of its own".to_owned());
    }
    if has(LinuxNamespaceType::User) {
        return Some("it has a user namespace of its own".to_owned());
    }
    has(LinuxNamespaceType::Time).then(|| "it has a time namespace of its own".to_owned())
}

fn is_hosts_pid_namespace(spec: &Spec) -> bool {
    match namespace(spec, LinuxNamespaceType::Pid) {
        None => true,
        Some(namespace) => namespace
            .path()
            .as_deref()
            .is_some_and(|path| is_same(path, Path::new("/proc/self/ns/pid"))),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        // What cannot be told apart is not fused.
        _ => true,
    }
}

/// The kernel compares these with the whole address space.
fn limits(process: &Process) -> Option<String> {
    let limited = process.rlimits().iter().flatten().any(|limit| {
        matches!(
            limit.typ(),
            PosixRlimitType::RlimitAs
                | PosixRlimitType::RlimitData
                | PosixRlimitType::RlimitMemlock
        )
    });
    limited.then(|| "it has limits that the kernel keeps per address space".to_owned())
}

fn settings(spec: &Spec, process: &Process) -> Option<String> {
    let linux = spec.linux().as_ref()?;
    let resources = linux.resources().as_ref();
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    let is_limited = |limit: Option<i64>| limit.is_some_and(|limit| limit > 0);
    let given = [
        (
            // Memory is charged to whoever owns the address space.
            memory.is_some_and(|memory| is_limited(memory.limit()) || is_limited(memory.swap())),
            "a limit of memory",
        ),
        (
            process.oom_score_adj().is_some_and(|score| score != 0),
            "an out-of-memory score",
        ),
        (is_given(process.selinux_label()), "an SELinux label"),
        (process.scheduler().is_some(), "a scheduling policy"),
        (process.io_priority().is_some(), "an I/O priority"),
        (linux.memory_policy().is_some(), "a memory policy"),
        (linux.personality().is_some(), "a personality"),
        (linux.intel_rdt().is_some(), "a cache allocation"),
    ];
    given
        .iter()
        .find(|(is_given, _)| *is_given)
        .map(|(_, what)| format!("it asks for {what} of its own"))
}

fn is_given(name: &Option<String>) -> bool {
    name.as_deref().is_some_and(|name| !name.is_empty())
}

fn has_listener(policy: &LinuxSeccomp) -> bool {
    let rules = policy.syscalls().iter().flatten();
    rules
        .map(|rule| rule.action())
        .chain([policy.default_action()])
        .any(|action| action == LinuxSeccompAction::ScmpActNotify)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libcontainer::oci_spec::runtime::{
        Capabilities, Capability, LinuxCapabilities, LinuxMemory, LinuxNamespace, LinuxResources,
        PosixRlimitBuilder,
    };
    use std::path::PathBuf;

    fn changed(change: impl FnOnce(&mut Process)) -> Spec {
        let mut spec = Spec::default();
        let process = spec.process_mut().as_mut().unwrap();
        process.set_capabilities(None).set_rlimits(None);
        change(process);
        spec
    }

    fn with_namespaces(change: impl FnOnce(&mut Vec<LinuxNamespace>)) -> Spec {
        let mut spec = changed(|_| ());
        let linux = spec.linux_mut().as_mut().unwrap();
        change(linux.namespaces_mut().as_mut().unwrap());
        spec
    }

    #[test]
    fn a_plain_container_may_be_fused() {
        assert_eq!(obstacle(&changed(|_| ())), None);
    }

    #[test]
    fn powerful_containers_are_kept_apart() {
        for capability in [
            Capability::SysPtrace,
            Capability::SysAdmin,
            Capability::SysRawio,
            Capability::SysModule,
            Capability::Bpf,
            Capability::Perfmon,
        ] {
            let listed = || Some(Capabilities::from([capability]));
            let mut sets = [const { None }; 5].map(|_: Option<()>| LinuxCapabilities::default());
            for set in &mut sets {
                set.set_bounding(None)
                    .set_effective(None)
                    .set_permitted(None)
                    .set_inheritable(None)
                    .set_ambient(None);
            }
            sets[0].set_bounding(listed());
            sets[1].set_effective(listed());
            sets[2].set_permitted(listed());
            sets[3].set_inheritable(listed());
            sets[4].set_ambient(listed());
            for set in sets {
                let spec = changed(|process| {
                    process.set_capabilities(Some(set));
                });
                assert!(obstacle(&spec).is_some(), "{capability:?}");
            }
        }
    }

    #[test]
    fn some_namespaces_keep_apart() {
        let is_pid = |ns: &LinuxNamespace| ns.typ() == LinuxNamespaceType::Pid;
        let without = |kind| {
            with_namespaces(|namespaces| namespaces.retain(|namespace| namespace.typ() != kind))
        };
        assert!(obstacle(&without(LinuxNamespaceType::Pid)).is_some());
        assert!(obstacle(&without(LinuxNamespaceType::Mount)).is_some());
        assert_eq!(obstacle(&without(LinuxNamespaceType::Network)), None);
        let path = |path: &str| {
            let path = PathBuf::from(path);
            with_namespaces(|namespaces| {
                for namespace in namespaces.iter_mut().filter(|namespace| is_pid(namespace)) {
                    namespace.set_path(Some(path.clone()));
                }
            })
        };
        assert!(obstacle(&path("/proc/self/ns/pid")).is_some());
        assert!(obstacle(&path("/no/such")).is_some());
        assert_eq!(obstacle(&path("/proc/self/ns/net")), None);
        for kind in [LinuxNamespaceType::User, LinuxNamespaceType::Time] {
            let spec = with_namespaces(|namespaces| {
                let mut added = LinuxNamespace::default();
                added.set_typ(kind);
                namespaces.push(added);
            });
            assert!(obstacle(&spec).is_some());
        }
    }

    #[test]
    fn limits_of_memory_keep_apart() {
        let limited = |limit: i64| {
            let mut memory = LinuxMemory::default();
            memory.set_limit(Some(limit));
            let mut resources = LinuxResources::default();
            resources.set_memory(Some(memory));
            let mut spec = changed(|_| ());
            let linux = spec.linux_mut().as_mut().unwrap();
            linux.set_resources(Some(resources));
            spec
        };
        assert!(obstacle(&limited(64 << 20)).is_some());
        assert_eq!(obstacle(&limited(-1)), None);
        assert_eq!(obstacle(&limited(0)), None);
    }

    #[test]
    fn what_the_kernel_keeps_per_address_space_keeps_apart() {
        let spec = changed(|process| {
            process.set_oom_score_adj(Some(0));
        });
        assert_eq!(obstacle(&spec), None);
        let spec = changed(|process| {
            process.set_oom_score_adj(Some(1));
        });
        assert!(obstacle(&spec).is_some());
        let limit = |kind| {
            let limit = PosixRlimitBuilder::default()
                .typ(kind)
                .soft(1_u64)
                .hard(1_u64)
                .build()
                .unwrap();
            changed(|process| {
                process.set_rlimits(Some(vec![limit]));
            })
        };
        assert!(obstacle(&limit(PosixRlimitType::RlimitAs)).is_some());
        assert_eq!(obstacle(&limit(PosixRlimitType::RlimitNofile)), None);
        let spec = changed(|process| {
            process.set_selinux_label(Some("system_u:system_r:container_t:s0".to_owned()));
        });
        assert!(obstacle(&spec).is_some());
    }
}
