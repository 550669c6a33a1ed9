//! x86-64: the gate between container code and the vkernel, and what must be written in assembly.
//!
//! * [`area`]: the per-thread block that the GS base points to while container code runs.
//! * [`gate`]: the way in and out, forwarded calls, and where a signal may have interrupted them.
//! * [`usercopy`]: copying to and from container memory, with faults turned into short counts.
//! * [`switch`]: going on as another thread without asking Linux.
//! * [`task`]: starting threads and entering programs.
//!
//! One of the labelled unsafe rooms. It knows no policy: which calls are forwarded, and what happens
//! on the slow path, is decided by the functions that [`gate::Hooks`] names.
#![no_std]

pub mod area;
pub mod gate;
pub mod regs;
pub mod switch;
pub mod task;
pub mod usercopy;
pub mod userword;
