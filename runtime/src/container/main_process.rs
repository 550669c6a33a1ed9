//! The first process of a container, which is not always the one that the engine sees.

use super::facts::Facts;
use super::process_start_time;
use libcontainer::container::{Container, ContainerStatus};
use nix::unistd::Pid;

/// Pids of a container on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MainProcess {
    /// What runs the container's program; in a shared instance its home task.
    pub pid: Pid,
    /// What stands for it: in a shared instance its anchor, which is no part of the container's work.
    pub anchor: Option<Pid>,
}

impl MainProcess {
    /// `None` if the container has stopped, or its pid is a stranger's by now.
    pub fn of(container: &Container) -> Option<Self> {
        let seen = container
            .pid()
            .filter(|_| container.status() != ContainerStatus::Stopped)?;
        let facts = Facts::load(&container.root).ok().flatten();
        let is_same = |pid, start_time: Option<u64>| match start_time {
            Some(_) => process_start_time(pid) == start_time,
            None => true,
        };
        if !is_same(seen, facts.as_ref().and_then(|facts| facts.start_time)) {
            return None;
        }
        match facts.and_then(|facts| facts.shared) {
            None => Some(MainProcess {
                pid: seen,
                anchor: None,
            }),
            Some(shared) => {
                let home = Pid::from_raw(shared.home_pid);
                is_same(home, shared.home_start_time).then_some(MainProcess {
                    pid: home,
                    anchor: Some(seen),
                })
            }
        }
    }

    /// The process that stands for the container; signals reach it before the program runs, too.
    pub fn seen(&self) -> Pid {
        self.anchor.unwrap_or(self.pid)
    }
}
