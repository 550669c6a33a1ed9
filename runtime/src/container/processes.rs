//! The processes of a container, each with its placement and why.

use super::cgroup::{CgroupError, ContainerCgroup};
use super::facts::{Facts, Placement};
use super::main_process::MainProcess;
use crate::instance::heap_view::{Counters, HeapView, HeapViewError, ProcessView};
use libcontainer::container::Container;
use nix::unistd::Pid;
use pegasus_contract::record::ProcessState;

#[derive(Debug, thiserror::Error)]
pub enum ProcessesError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Heap(#[from] HeapViewError),
}

/// One process, seen from the host and, if it runs under the vkernel, from there.
#[derive(Debug)]
pub struct PlacedProcess {
    pub pid: Pid,
    /// Its pid in the container's own pid namespace.
    pub container_pid: i32,
    pub placement: Placement,
    pub reason: String,
    pub exe: String,
    pub vkernel: Option<(ProcessView, Counters)>,
}

/// All processes in the container's cgroup, lowest pid first.
pub fn of(
    container: &Container,
    heap: Option<&HeapView>,
    decided: Option<&Facts>,
) -> Result<Vec<PlacedProcess>, ProcessesError> {
    let known = match heap {
        Some(heap) => of_container(heap, container.id())?,
        None => Vec::new(),
    };
    let main = MainProcess::of(container);
    let anchor = main.and_then(|main| main.anchor);
    let mut pids = ContainerCgroup::of(container)?.pids()?;
    pids.retain(|pid| Some(*pid) != anchor);
    pids.sort();
    let mut processes = Vec::with_capacity(pids.len());
    for pid in pids {
        let Some(container_pid) = pid_inside(pid) else {
            continue;
        };
        let view = known.iter().find(|view| view.pid == container_pid).cloned();
        let is_first = main.is_some_and(|main| main.pid == pid);
        let (placement, reason) = placement(view.as_ref(), decided.filter(|_| is_first));
        let vkernel = match (view, heap) {
            (Some(view), Some(heap)) if placement != Placement::Native => {
                let counters = heap.counters(view.index)?;
                Some((view, counters))
            }
            _ => None,
        };
        let exe = vkernel
            .as_ref()
            .map_or_else(|| executable(pid), |(view, _)| view.exe.clone());
        processes.push(PlacedProcess {
            pid,
            container_pid,
            placement,
            reason,
            exe,
            vkernel,
        });
    }
    Ok(processes)
}

/// The vkernel's processes that belong to container `id`.
pub fn of_container(heap: &HeapView, id: &str) -> Result<Vec<ProcessView>, HeapViewError> {
    let Some(container) = heap.container(id)? else {
        return Ok(Vec::new());
    };
    let mut processes = heap.processes()?;
    processes.retain(|process| usize::try_from(process.container) == Ok(container));
    Ok(processes)
}

/// Where a process runs now. For a container's first process, `decided` is what was decided when the
/// container was created; that is the reason as long as it still holds.
fn placement(view: Option<&ProcessView>, decided: Option<&Facts>) -> (Placement, String) {
    let (placement, reason) = match view.map(|view| (view.state, view.native_reason.as_str())) {
        Some((ProcessState::Native, reason)) if !reason.is_empty() => {
            return (Placement::Native, reason.to_owned());
        }
        Some((ProcessState::Resident, _)) => (
            Placement::Resident,
            "its program was loaded next to the vkernel",
        ),
        Some((ProcessState::Satellite, _)) => (Placement::Satellite, "it was made by fork"),
        Some((ProcessState::Claimed, _)) => (Placement::Native, "it is just starting"),
        Some(_) | None if decided.is_some() => (
            Placement::Native,
            "the vkernel did not load its program (the log says why), or it runs another one by now",
        ),
        Some(_) | None => (
            Placement::Native,
            "it was started by exec, or left the vkernel by running another program",
        ),
    };
    match decided.filter(|decided| decided.placement == placement) {
        Some(decided) => (placement, decided.reason.clone()),
        None => (placement, reason.to_owned()),
    }
}

/// The last of the pids that `/proc/<pid>/status` lists, one per nested pid namespace.
pub fn pid_inside(pid: Pid) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

fn executable(pid: Pid) -> String {
    std::fs::read_link(format!("/proc/{pid}/exe"))
        .map(|path| path.display().to_string())
        .unwrap_or_default()
}
