//! What is tested, one theme per module. Each module's `cases()` lists its part of the table.

use crate::harness::case::Case;

mod broken_files;
mod conformance;
mod crashes;
mod escapes;
mod examples;
mod exit;
mod fusion;
mod hello;
mod leaks;
mod lifecycle;
mod local_bridge;
mod local_faults;
mod local_idle;
mod local_killed;
mod local_tcp;
mod network;
mod one_cpu;
mod options;
mod privilege;
mod programs;
mod scripts;
mod seeing;
mod servers;
mod views;

/// The whole table, in the order in which it is run.
pub fn all() -> Vec<Case> {
    let parts = [
        hello::cases(),
        exit::cases(),
        options::cases(),
        views::cases(),
        programs::cases(),
        conformance::cases(),
        scripts::cases(),
        broken_files::cases(),
        lifecycle::cases(),
        network::cases(),
        local_bridge::cases(),
        servers::cases(),
        privilege::cases(),
        escapes::cases(),
        fusion::cases(),
        local_tcp::cases(),
        local_faults::cases(),
        local_idle::cases(),
        local_killed::cases(),
        one_cpu::cases(),
        seeing::cases(),
        crashes::cases(),
        examples::cases(),
        leaks::cases(),
    ];
    parts.into_iter().flatten().collect()
}
