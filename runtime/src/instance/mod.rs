//! Address spaces with a vkernel in them.
//!
//! [`image`] and [`heap`] put the vkernel's code and state at their fixed addresses in this process,
//! which the container's first process inherits; [`own`] starts an instance of one container;
//! [`heap_view`] reads a running instance from outside.

pub mod heap;
pub mod heap_view;
pub mod image;
pub mod own;
