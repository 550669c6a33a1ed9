//! Processor time of a container, by its cgroup.

use crate::container::cgroup::ContainerCgroup;
use libcgroups::common::{CgroupManager, CgroupSetup, get_cgroup_setup};
use libcontainer::container::Container;
use std::time::Duration;

/// The library gives times in the units of the files it reads.
#[derive(Debug, Clone, Copy)]
pub struct CpuUnits {
    pub total_ns: u64,
    /// Of the times in user and in kernel mode.
    pub mode_ns: u64,
}

impl CpuUnits {
    /// Clock ticks of `cpuacct.stat`, which the kernel fixes at 100 a second for user space.
    const TICK_NS: u64 = 10_000_000;
    const MICROSECOND_NS: u64 = 1000;

    pub fn of_this_machine() -> Self {
        match get_cgroup_setup() {
            Ok(CgroupSetup::Unified) => CpuUnits {
                total_ns: Self::MICROSECOND_NS,
                mode_ns: Self::MICROSECOND_NS,
            },
            _ => CpuUnits {
                total_ns: 1,
                mode_ns: Self::TICK_NS,
            },
        }
    }
}

/// What the container's processes have used since it was created; `None` where its cgroup does not tell.
pub fn time_of(container: &Container) -> Option<Duration> {
    let stats = ContainerCgroup::of(container)
        .and_then(|cgroup| cgroup.with(CgroupManager::stats))
        .inspect_err(|error| tracing::debug!("no processor time: {}", crate::error::chain(error)))
        .ok()?;
    let used = stats.cpu.usage.usage_total;
    Some(Duration::from_nanos(
        used.saturating_mul(CpuUnits::of_this_machine().total_ns),
    ))
}
