//! What a container's process does once the container library has set it up: become the program.
//!
//! [`native`] replaces the process by the program, as any runtime does; [`own`] loads the
//! program next to the vkernel instead. Both share [`launch`].

mod credentials;
mod environment;
pub mod launch;
pub mod lookup;
pub mod native;
pub mod own;
mod stdio;

use libcontainer::oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp};

/// Which kind of process is being launched.
#[derive(Debug, Clone)]
pub enum Role {
    /// The container's first process.
    Init,
    /// A further process in a running container.
    Exec(Box<Confinement>),
}

/// What the container library does not apply to a further process, so the executor does.
#[derive(Debug, Clone, Default)]
pub struct Confinement {
    pub seccomp: Option<LinuxSeccomp>,
    /// The process' final capabilities. Until the policy is loaded it may hold more.
    pub capabilities: Option<LinuxCapabilities>,
}
