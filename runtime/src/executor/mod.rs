//! What a container's process does once the container library has set it up: become the program.
//!
//! [`native`] replaces the process by the program, as any runtime does; [`own`] loads the program
//! next to the vkernel instead. Both share [`launch`], which applies the [`confinement`] last.

pub mod confinement;
mod environment;
pub mod launch;
pub mod lookup;
pub mod native;
pub mod own;
mod stdio;

/// Which kind of process is being launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The container's first process.
    Init,
    /// A further process in a running container.
    Exec,
}
