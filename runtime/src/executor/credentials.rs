//! The last change of a further process' capabilities.

use caps::errors::CapsError;
use caps::{CapSet, CapsHashSet};
use libcontainer::capabilities::CapabilityExt;
use libcontainer::oci_spec::runtime::{Capabilities, LinuxCapabilities};

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
