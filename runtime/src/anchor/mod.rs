//! The anchor of a container in a shared instance.
//!
//! The container library builds the container as for any runtime, but in the pid namespace whose
//! first process is the home task; the process that it leaves there, the anchor, never becomes the
//! program. It is what the engine sees: it lets the home task join ([`plan`], [`program`]), passes
//! signals on and leaves with the program's status ([`executor`]).

pub mod cgroup;
pub mod code;
pub mod executor;
pub mod plan;
pub mod program;
pub mod spec;
pub mod stay;
pub mod visitors;
