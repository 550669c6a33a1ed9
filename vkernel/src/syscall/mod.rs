//! What the vkernel serves to containers: one table, and the calls behind it by area.

pub mod descriptor;
pub mod filter;
pub mod futex;
pub mod memory;
pub mod net;
pub mod path;
pub mod poll;
pub mod process;
pub mod signal;
pub mod table;
pub mod task;
pub mod time;
pub mod wait;
