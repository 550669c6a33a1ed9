//! The address space of a container's process.

mod range_set;
mod space;

pub use range_set::RangeSet;
pub use space::{Inner as SpaceInner, LOW_WINDOW_END, Layout, Space};
