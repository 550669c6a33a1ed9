//! The processes of a container, each with its placement and why.

use super::cgroup::{CgroupError, ContainerCgroup};
use super::facts::Placement;
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
    first_reason: Option<&str>,
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
        let (placement, reason) = placement(view.as_ref(), first_reason.filter(|_| is_first));
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

/// `decided` is what was decided for the process when its container was created.
fn placement(view: Option<&ProcessView>, decided: Option<&str>) -> (Placement, String) {
    let because = |reason: &str| decided.unwrap_or(reason).to_owned();
    match view.map(|view| (view.state, view.native_reason.as_str())) {
        Some((ProcessState::Resident, _)) => (
            Placement::Resident,
            because("its program was loaded next to the vkernel"),
        ),
        Some((ProcessState::Satellite, _)) => {
            (Placement::Satellite, because("it was made by fork"))
        }
        Some((ProcessState::Native, reason)) if !reason.is_empty() => {
            (Placement::Native, reason.to_owned())
        }
        Some((ProcessState::Claimed, _)) => (Placement::Native, because("it is just starting")),
        Some(_) | None => (
            Placement::Native,
            because("it was started by exec, or left the vkernel by running another program"),
        ),
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
