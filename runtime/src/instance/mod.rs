//! Address spaces with a vkernel in them.
//!
//! [`image`] and [`heap`] put the vkernel's code and state at their fixed addresses in this process,
//! which the container's first process inherits; [`own`] starts an instance of one container;
//! [`shared`] is the instance of a group, which [`client`] finds or starts, and [`channel`], [`message`]
//! and [`letter`] are how they talk; [`heap_view`] and [`pools_view`] read a running instance from
//! outside.

pub mod channel;
pub mod client;
pub mod heap;
pub mod heap_view;
pub mod image;
pub mod letter;
pub mod message;
pub mod own;
pub mod pools_view;
pub mod shared;
