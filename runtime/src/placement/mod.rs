//! Decides where a container's processes run, and why (the ladder of placements).
//!
//! [`plan`] decides from the specification before anything is set up; [`program`] looks at the program
//! inside the container and may still say *native*. What is decided is never an error: a container
//! that cannot be fused runs one step lower, and the reason is kept.

pub mod program;
pub mod report;
pub mod seccomp;

use crate::fusion;
use crate::group::{Group, GroupError};
use libcontainer::oci_spec::runtime::Spec;

pub const ANNOTATION_PLACEMENT: &str = "dev.pegasus.placement";
pub const ANNOTATION_ISOLATION: &str = "dev.pegasus.isolation";

const NO_PROTECTION: &str =
    "without memory protection keys every container has an address space of its own";

#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("unknown value {value:?} of the annotation {name}: use {allowed}")]
    Annotation {
        name: &'static str,
        value: String,
        allowed: &'static str,
    },
    #[error(
        "--isolation mpk needs memory protection keys, which this machine's CPU does not offer; \
         use --isolation auto to give every container an address space of its own"
    )]
    NoMpk,
}

/// How containers of a group are to be kept apart, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum IsolationChoice {
    /// Memory protection keys where the CPU has them, else an address space per container
    #[default]
    Auto,
    /// Memory protection keys, or refuse
    Mpk,
    /// One address space without protection: who controls one container controls the group
    None,
}

/// What the host's command line says about fusing.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub group: Option<String>,
    pub isolation: IsolationChoice,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Alone(Alone),
    /// The shared instance of this group.
    Shared(Group),
}

/// In no shared instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alone {
    /// A plain kernel process, for this reason.
    Native(String),
    /// An own instance, for this reason.
    Own(String),
}

/// Decides for a container's first process.
pub fn plan(spec: &Spec, policy: &Policy, mpk: MpkSupport) -> Result<Plan, PlacementError> {
    let isolation = isolation(spec, policy)?;
    if isolation == IsolationChoice::Mpk && mpk == MpkSupport::Missing {
        return Err(PlacementError::NoMpk);
    }
    match annotation(spec, ANNOTATION_PLACEMENT) {
        None => {}
        Some("native") => return Ok(native("the annotation asks for it")),
        Some(other) => {
            return Err(PlacementError::Annotation {
                name: ANNOTATION_PLACEMENT,
                value: other.to_owned(),
                allowed: "\"native\"",
            });
        }
    }
    let seccomp = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    if let Some(call) = seccomp.and_then(seccomp::first_forbidden) {
        return Ok(native(format!(
            "the container's seccomp policy forbids {call}, which the vkernel needs"
        )));
    }
    let Some(group) = &policy.group else {
        return Ok(own("the container belongs to no group"));
    };
    let group = Group::named(group)?;
    if isolation != IsolationChoice::None {
        return Ok(own(NO_PROTECTION));
    }
    Ok(match fusion::obstacle(spec) {
        Some(obstacle) => own(obstacle),
        None => Plan::Shared(group),
    })
}

fn native(reason: impl Into<String>) -> Plan {
    Plan::Alone(Alone::Native(reason.into()))
}

fn own(reason: impl Into<String>) -> Plan {
    Plan::Alone(Alone::Own(reason.into()))
}

/// An annotation comes from whoever starts the container, so it may only tighten.
fn isolation(spec: &Spec, policy: &Policy) -> Result<IsolationChoice, PlacementError> {
    match annotation(spec, ANNOTATION_ISOLATION) {
        None => Ok(policy.isolation),
        Some("mpk") => Ok(IsolationChoice::Mpk),
        Some(other) => Err(PlacementError::Annotation {
            name: ANNOTATION_ISOLATION,
            value: other.to_owned(),
            allowed: "\"mpk\"",
        }),
    }
}

fn annotation<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str)
}

/// Whether memory protection keys can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MpkSupport {
    Available,
    Missing,
}

impl MpkSupport {
    /// From the flags that the kernel shows: `ospke` appears once it has switched the feature on.
    pub fn of_this_machine() -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let flags = cpu.lines().find(|line| line.starts_with("flags"));
        match flags {
            Some(flags) if flags.split_whitespace().any(|flag| flag == "ospke") => {
                MpkSupport::Available
            }
            _ => MpkSupport::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn annotated(name: &str, value: &str) -> Spec {
        let mut spec = Spec::default();
        spec.set_annotations(Some(HashMap::from([(name.to_owned(), value.to_owned())])));
        spec
    }

    #[test]
    fn a_plain_container_has_its_own_instance() {
        let plan = plan(&Spec::default(), &Policy::default(), MpkSupport::Missing).unwrap();
        assert!(matches!(plan, Plan::Alone(Alone::Own(_))));
    }

    #[test]
    fn annotations_tighten_only() {
        let decide = |name, value| {
            plan(
                &annotated(name, value),
                &Policy::default(),
                MpkSupport::Missing,
            )
        };
        assert!(matches!(
            decide(ANNOTATION_PLACEMENT, "native"),
            Ok(Plan::Alone(Alone::Native(_)))
        ));
        assert!(decide(ANNOTATION_PLACEMENT, "resident").is_err());
        assert!(matches!(
            decide(ANNOTATION_ISOLATION, "mpk"),
            Err(PlacementError::NoMpk)
        ));
        assert!(decide(ANNOTATION_ISOLATION, "none").is_err());
    }

    #[test]
    fn mpk_is_refused_where_it_is_missing() {
        let policy = Policy {
            group: None,
            isolation: IsolationChoice::Mpk,
        };
        let spec = Spec::default();
        assert!(matches!(
            plan(&spec, &policy, MpkSupport::Missing),
            Err(PlacementError::NoMpk)
        ));
        assert!(plan(&spec, &policy, MpkSupport::Available).is_ok());
    }
}
