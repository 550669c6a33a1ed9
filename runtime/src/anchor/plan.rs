//! How a home task becomes a member of its container: the specification's `process`, in numbers.
//!
//! Made by the process that creates the container, sent to the instance as a letter, and carried
//! out by the home task (`pegasus_contract::boot::JoinPlan`).

use crate::seccomp::{self, Filter, FilterError};
use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{Capabilities, PosixRlimitType, Process, Spec};
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("config.json has no \"process\": there is nothing to run")]
    NoProcess,
    #[error("process.cwd in config.json is no text")]
    Directory,
    #[error(transparent)]
    Filter(#[from] FilterError),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinPlan {
    pub terminal: bool,
    pub umask: u32,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub no_new_privileges: bool,
    pub capabilities: CapabilityMasks,
    pub limits: Vec<Limit>,
    pub apparmor_profile: Option<String>,
    pub filter: Option<Filter>,
    /// CPU time or memory nodes are measured out to the container: its threads run on its own tasks only, which Linux charges.
    pub stays_home: bool,
}

/// One bit per capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapabilityMasks {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// One `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Whether the control group of the container treats its tasks in another way than those of the instance. Which CPUs they may use is
/// left out: that can be asked of a task at any time.
fn is_rationed(spec: &Spec) -> bool {
    const SHARES_USUAL: u64 = 1024;
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let Some(cpu) = resources.and_then(|resources| resources.cpu().as_ref()) else {
        return false;
    };
    let is_usual = cpu
        .shares()
        .is_none_or(|shares| shares == 0 || shares == SHARES_USUAL)
        && cpu.quota().is_none_or(|quota| quota <= 0)
        && cpu.realtime_runtime().is_none_or(|runtime| runtime == 0)
        && cpu.idle().is_none_or(|idle| idle == 0)
        && cpu.mems().as_ref().is_none_or(String::is_empty);
    !is_usual
}

const UMASK_DEFAULT: u32 = 0o022;
const UMASK_ALL: u32 = 0o777;

impl JoinPlan {
    /// For a specification that [`adapt`](crate::container) has made explicit.
    pub fn of(spec: &Spec) -> Result<Self, PlanError> {
        let process = spec.process().as_ref().ok_or(PlanError::NoProcess)?;
        let user = process.user();
        let policy = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref());
        Ok(JoinPlan {
            stays_home: is_rationed(spec),
            terminal: process.terminal() == Some(true),
            umask: user.umask().unwrap_or(UMASK_DEFAULT) & UMASK_ALL,
            cwd: process
                .cwd()
                .to_str()
                .ok_or(PlanError::Directory)?
                .to_owned(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            no_new_privileges: process.no_new_privileges() == Some(true),
            capabilities: capability_masks(process),
            limits: limits(process),
            apparmor_profile: process
                .apparmor_profile()
                .clone()
                .filter(|profile| !profile.is_empty()),
            filter: policy.map(seccomp::translate).transpose()?,
        })
    }
}

pub fn capability_masks(process: &Process) -> CapabilityMasks {
    let Some(sets) = process.capabilities() else {
        return CapabilityMasks::default();
    };
    CapabilityMasks {
        bounding: mask(sets.bounding()),
        permitted: mask(sets.permitted()),
        effective: mask(sets.effective()),
        inheritable: mask(sets.inheritable()),
        ambient: mask(sets.ambient()),
    }
}

fn mask(set: &Option<Capabilities>) -> u64 {
    set.iter()
        .flatten()
        .fold(0, |mask, capability| mask | capability.to_cap().bitmask())
}

fn limits(process: &Process) -> Vec<Limit> {
    let listed = process.rlimits().iter().flatten();
    listed
        .map(|limit| Limit {
            resource: resource(limit.typ()),
            soft: limit.soft(),
            hard: limit.hard(),
        })
        .collect()
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(process: &str) -> Spec {
        let text = format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"r"}},"process":{process},
            "linux":{{"namespaces":[{{"type":"mount"}}],"seccomp":{{"defaultAction":
            "SCMP_ACT_ERRNO","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[]}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_process_becomes_numbers() {
        let spec = spec(
            r#"{"cwd":"/w","args":["a"],"terminal":true,"noNewPrivileges":true,
            "user":{"uid":1000,"gid":1001,"additionalGids":[5,6],"umask":63},
            "apparmorProfile":"docker-default",
            "capabilities":{"bounding":["CAP_CHOWN","CAP_KILL"],"effective":["CAP_KILL"]},
            "rlimits":[{"type":"RLIMIT_NOFILE","soft":10,"hard":20}]}"#,
        );
        let plan = JoinPlan::of(&spec).unwrap();
        assert!(plan.terminal && plan.no_new_privileges);
        assert_eq!(
            (plan.uid, plan.gid, &plan.groups[..]),
            (1000, 1001, &[5, 6][..])
        );
        assert_eq!((plan.umask, plan.cwd.as_str()), (0o77, "/w"));
        let expected = CapabilityMasks {
            bounding: 1 | 1 << 5,
            effective: 1 << 5,
            ..CapabilityMasks::default()
        };
        assert_eq!(plan.capabilities, expected);
        let limit = Limit {
            resource: 7,
            soft: 10,
            hard: 20,
        };
        assert_eq!(plan.limits, [limit]);
        assert_eq!(plan.apparmor_profile.as_deref(), Some("docker-default"));
        let filter = plan.filter.unwrap();
        assert_eq!(filter.flags, 2);
        assert!(!filter.instructions.is_empty());
    }

    #[test]
    fn defaults_are_runcs() {
        let plan = JoinPlan::of(&spec(
            r#"{"cwd":"/","args":["a"],"user":{"uid":0,"gid":0}}"#,
        ))
        .unwrap();
        assert_eq!(plan.umask, 0o022);
        assert!(!plan.terminal && !plan.no_new_privileges && plan.limits.is_empty());
        assert_eq!(plan.apparmor_profile, None);
        assert_eq!(plan.capabilities, CapabilityMasks::default());
    }
}
