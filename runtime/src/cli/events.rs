//! `pegasus events`: resource statistics in runc's format, and what the vkernel has counted.

use super::{Context, JsonLayout, Outcome, print_json};
use crate::container::cgroup::ContainerCgroup;
use crate::container::find::RootNamed;
use crate::container::root::Root;
use crate::error::chain;
use crate::observe::cpu::CpuUnits;
use crate::observe::instances::{Found, Selection, look};
use crate::observe::sample::{ContainerSample, Sample};
use libcgroups::common::CgroupManager;
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
    print_one(&context.root, id, &cgroup)?;
    if arguments.stats {
        return Ok(0);
    }
    loop {
        std::thread::sleep(Duration::from_secs(arguments.interval.into()));
        if context.root.load(id)?.status() == ContainerStatus::Stopped {
            return Ok(0);
        }
        print_one(&context.root, id, &cgroup)?;
    }
}

fn print_one(root: &Root, id: &str, cgroup: &ContainerCgroup) -> Result<(), super::CommandError> {
    let stats = cgroup.with(CgroupManager::stats)?;
    let event = json!({
        "type": "stats",
        "id": id,
        "data": describe(&stats, CpuUnits::of_this_machine()),
        "pegasus": seen_by_vkernel(root, id),
    });
    Ok(print_json(&event, JsonLayout::Compact)?)
}

/// What runc does not have: the container's share of its instance, and its neighbours' shares. It is null where there is
/// nothing to be seen; an engine that only wants runc's numbers must get them all the same.
fn seen_by_vkernel(root: &Root, id: &str) -> Value {
    let selection = Selection::Containers(vec![id.to_owned()]);
    let found = look(root, RootNamed::Yes, &selection).unwrap_or_else(|error| {
        tracing::debug!(id, "the vkernel's numbers are not known: {}", chain(&error));
        Found::default()
    });
    let sample = Sample::of(&found);
    let Some(own) = sample
        .containers
        .iter()
        .find(|container| container.id == id)
    else {
        return Value::Null;
    };
    let neighbours = sample.containers.iter().filter(|other| other.id != id);
    let neighbours: serde_json::Map<_, _> = neighbours
        .map(|other| (other.id.clone(), share(other)))
        .collect();
    let mut value = share(own);
    value["instance"] = json!(own.instance);
    value["instancePid"] = json!(own.instance_pid);
    value["group"] = json!(own.group);
    value["isolation"] = json!(own.isolation);
    value["neighbours"] = Value::Object(neighbours);
    value
}

/// One container's part of an instance.
fn share(container: &ContainerSample) -> Value {
    let flow = container.flow();
    json!({
        "placement": container.placement,
        "processes": container.processes,
        "threads": container.threads,
        "calls": {
            "rewritten": flow.calls_rewritten,
            "trapped": flow.calls_trapped,
            "served": flow.calls_served,
        },
        "signals": flow.signals,
        "workers": { "switches": flow.switches, "tripsHome": flow.trips_home },
        "sites": { "rewritten": container.sites_rewritten, "refused": container.sites_refused },
        "connections": container.sockets,
        "rings": {
            "bytesSent": flow.bytes_sent,
            "bytesReceived": flow.bytes_received,
            "bytesUnread": container.bytes_unread,
            "bytesUnsent": container.bytes_unsent,
        },
        "cpuNanoseconds": container.cpu.map(|cpu| u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX)),
    })
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
