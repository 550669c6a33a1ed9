//! `pegasus events`: resource statistics in runc's format.

use super::{Context, JsonLayout, Outcome, print_json};
use crate::container::cgroup::ContainerCgroup;
use libcgroups::common::{CgroupManager, CgroupSetup, get_cgroup_setup};
use libcgroups::stats::{BlkioDeviceStat, MemoryData, Stats};
use libcontainer::container::ContainerStatus;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    #[error("container {0} is not running: it has no statistics")]
    NotRunning(String),
    #[error("the duration given with --interval must be greater than 0")]
    NoInterval,
}

pub fn run(context: &Context, arguments: &liboci_cli::Events) -> Outcome {
    if arguments.interval == 0 {
        return Err(EventsError::NoInterval.into());
    }
    let id = &arguments.container_id;
    let container = context.root.load(id)?;
    if container.status() == ContainerStatus::Stopped {
        return Err(EventsError::NotRunning(id.clone()).into());
    }
    let cgroup = ContainerCgroup::of(&container)?;
    print_one(id, &cgroup)?;
    if arguments.stats {
        return Ok(0);
    }
    loop {
        std::thread::sleep(Duration::from_secs(arguments.interval.into()));
        if context.root.load(id)?.status() == ContainerStatus::Stopped {
            return Ok(0);
        }
        print_one(id, &cgroup)?;
    }
}

fn print_one(id: &str, cgroup: &ContainerCgroup) -> Result<(), super::CommandError> {
    let stats = cgroup.with(CgroupManager::stats)?;
    let event =
        json!({ "type": "stats", "id": id, "data": describe(&stats, CpuUnits::of_this_machine()) });
    Ok(print_json(&event, JsonLayout::Compact)?)
}

/// The library gives times in the units of the files it reads.
#[derive(Debug, Clone, Copy)]
struct CpuUnits {
    total_ns: u64,
    /// Of the times in user and in kernel mode.
    mode_ns: u64,
}

impl CpuUnits {
    /// Clock ticks of `cpuacct.stat`, which the kernel fixes at 100 a second for user space.
    const TICK_NS: u64 = 10_000_000;
    const MICROSECOND_NS: u64 = 1000;

    fn of_this_machine() -> Self {
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

fn describe(stats: &Stats, units: CpuUnits) -> Value {
    let usage = &stats.cpu.usage;
    let throttling = &stats.cpu.throttling;
    json!({
        "cpu": {
            "usage": {
                "total": usage.usage_total.saturating_mul(units.total_ns),
                "percpu": usage.per_core_usage_total,
                "percpu_kernel": usage.per_core_usage_kernel,
                "percpu_user": usage.per_core_usage_user,
                "kernel": usage.usage_kernel.saturating_mul(units.mode_ns),
                "user": usage.usage_user.saturating_mul(units.mode_ns),
            },
            "throttling": {
                "periods": throttling.periods,
                "throttledPeriods": throttling.throttled_periods,
                "throttledTime": throttling.throttled_time,
            },
        },
        "memory": {
            "cache": stats.memory.cache,
            "usage": memory(&stats.memory.memory),
            "swap": memory(&stats.memory.memswap),
            "kernel": memory(&stats.memory.kernel),
            "kernelTCP": memory(&stats.memory.kernel_tcp),
            "raw": stats.memory.stats,
        },
        "pids": { "current": stats.pids.current, "limit": stats.pids.limit },
        "blkio": {
            "ioServiceBytesRecursive": devices(&stats.blkio.service_bytes),
            "ioServicedRecursive": devices(&stats.blkio.serviced),
            "ioQueueRecursive": devices(&stats.blkio.queued),
            "ioServiceTimeRecursive": devices(&stats.blkio.service_time),
            "ioWaitTimeRecursive": devices(&stats.blkio.wait_time),
            "ioMergedRecursive": devices(&stats.blkio.merged),
            "ioTimeRecursive": devices(&stats.blkio.time),
            "sectorsRecursive": devices(&stats.blkio.sectors),
        },
        "hugetlb": stats.hugetlb.iter().map(|(size, pages)| {
            let pages = json!({
                "usage": pages.usage, "max": pages.max_usage, "failcnt": pages.fail_count,
            });
            (size.clone(), pages)
        }).collect::<serde_json::Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn memory(data: &MemoryData) -> Value {
    json!({
        "limit": data.limit, "usage": data.usage, "max": data.max_usage, "failcnt": data.fail_count,
    })
}

fn devices(stats: &[BlkioDeviceStat]) -> Value {
    let entries = stats.iter().map(|stat| {
        json!({
            "major": stat.major, "minor": stat.minor, "op": stat.op_type, "value": stat.value,
        })
    });
    entries.collect()
}
