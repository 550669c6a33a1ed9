//! Processes and threads of containers as the vkernel sees them.

mod process;
mod thread;

pub use process::{
    Process, ProcessArgs, claim_record, free_record, header, instance_kind, store_text,
};
pub use thread::{Stash, Thread};
