//! Brings the capabilities of a container's process to exactly what its specification says.
//!
//! The container library changes only the sets that the specification lists. To runc a missing set
//! means an empty one (docker lists no effective set for a user other than root), and what is missing
//! must not be left as the runtime had it.

use caps::errors::CapsError;
use caps::{CapSet, CapsHashSet};
use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// Empties every set that the specification does not list. The listed ones are set already.
pub fn clear_unlisted(specified: Option<&LinuxCapabilities>) -> Result<(), CapsError> {
    let is_listed = |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        specified.is_some_and(|specified| set(specified).is_some())
    };
    let sets = [
        (CapSet::Bounding, is_listed(LinuxCapabilities::bounding)),
        (CapSet::Ambient, is_listed(LinuxCapabilities::ambient)),
        (
            CapSet::Inheritable,
            is_listed(LinuxCapabilities::inheritable),
        ),
        (CapSet::Effective, is_listed(LinuxCapabilities::effective)),
        (CapSet::Permitted, is_listed(LinuxCapabilities::permitted)),
    ];
    for (set, _) in sets.into_iter().filter(|(_, is_listed)| !is_listed) {
        change(set, &CapsHashSet::new())?;
    }
    Ok(())
}

/// Gives up what a process held in addition to `specified` in order to load its seccomp policy.
pub fn lower_to(specified: Option<&LinuxCapabilities>) -> Result<(), CapsError> {
    let set_of = |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| -> CapsHashSet {
        let listed = specified.and_then(|specified| set(specified).as_ref());
        listed
            .map(|listed| listed.iter().map(|cap| cap.to_cap()).collect())
            .unwrap_or_default()
    };
    change(CapSet::Effective, &set_of(LinuxCapabilities::effective))?;
    change(CapSet::Permitted, &set_of(LinuxCapabilities::permitted))
}

/// Sets one set, unless it is right already: a seccomp policy may forbid the call by now.
fn change(set: CapSet, wanted: &CapsHashSet) -> Result<(), CapsError> {
    if caps::read(None, set)? == *wanted {
        return Ok(());
    }
    caps::set(None, set, wanted)
}
