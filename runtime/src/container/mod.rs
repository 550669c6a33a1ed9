//! Containers as this runtime manages them: their state on disk and the steps of their life.
//!
//! The work in namespaces, mounts and cgroups is the container library's; this module decides, checks
//! and explains.

pub mod adapt;
pub mod bundle;
pub mod cgroup;
pub mod console;
pub mod create;
pub mod exec;
pub mod explain;
pub mod facts;
pub mod find;
pub mod foreground;
pub mod fused;
pub mod hierarchies;
pub mod main_process;
pub mod processes;
pub mod root;
pub mod users;

use nix::unistd::Pid;

/// When a process started, in clock ticks since boot; `None` if there is no such process.
pub fn process_start_time(pid: Pid) -> Option<u64> {
    const START_TIME_AFTER_NAME: usize = 19;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything; the fields after it are numbers.
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name
        .split(' ')
        .nth(START_TIME_AFTER_NAME)?
        .parse()
        .ok()
}
