//! What is tested, one theme per module. Each module's `cases()` lists its part of the table.

use crate::harness::case::Case;

mod hello;

/// The whole table, in the order in which it is run.
pub fn all() -> Vec<Case> {
    [hello::cases()].into_iter().flatten().collect()
}
