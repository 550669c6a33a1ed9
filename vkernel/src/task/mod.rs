//! Processes and threads of containers as the vkernel sees them.

pub mod process;
pub mod record;
mod thread;

pub use process::{Process, ProcessArgs, header, instance_kind, store_text};
pub use thread::{Stash, Thread};
