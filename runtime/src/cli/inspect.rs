//! `pegasus inspect`: where a container's processes run, with whom they share their address space,
//! and what the vkernel has counted.

use super::{Context, JsonLayout, Outcome, OutputError, print_json, print_line};
use crate::container::facts::{Facts, FactsError, Isolation, Placement};
use crate::container::find::{FindError, find};
use crate::container::main_process::MainProcess;
use crate::container::processes::{self, PlacedProcess, ProcessesError};
use crate::container::root::{Root, RootError};
use crate::instance::heap_view::{Access, AddressView, HeapView, HeapViewError};
use crate::sys;
use clap::{Args, ValueEnum};
use libcontainer::container::{Container, ContainerStatus};
use nix::unistd::Pid;
use pegasus_contract::boot::InstanceKind;
use serde::Serialize;
use std::net::IpAddr;

/// Show the instance, placement and counters of a container
#[derive(Debug, Args)]
pub struct Inspect {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    format: Form,
    /// Container identifier, or the beginning of one
    container_id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Facts(#[from] FactsError),
    #[error(transparent)]
    Heap(#[from] HeapViewError),
    #[error(transparent)]
    Processes(#[from] ProcessesError),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    id: String,
    status: String,
    /// Of the container's first process; 0 if it has stopped.
    pid: i32,
    /// The process that stands for it to the engine, in a shared instance.
    anchor_pid: Option<i32>,
    /// The process whose address space the container's first process runs in.
    instance_pid: Option<i32>,
    slot: Option<u32>,
    /// `own`, `shared`, or none for a native container.
    instance: Option<&'static str>,
    group: Option<String>,
    isolation: Option<Isolation>,
    placement: Option<Placement>,
    reason: Option<String>,
    /// Containers whose first process has the same address space, by kcmp(2).
    shares_address_space_with: Vec<String>,
    /// As its neighbours in a shared instance know them.
    addresses: Vec<AddressAnswer>,
    processes: Vec<ProcessAnswer>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AddressAnswer {
    address: IpAddr,
    /// Index, on the host, of the bridge that it is behind.
    bridge: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessAnswer {
    pid: i32,
    container_pid: i32,
    placement: Placement,
    reason: String,
    exe: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vkernel: Option<VkernelAnswer>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VkernelAnswer {
    threads: u32,
    slot: Option<u32>,
    sites_rewritten: u64,
    sites_refused: u64,
    calls_rewritten: u64,
    calls_trapped: u64,
    calls_served: u64,
    signals: u64,
}

pub fn run(context: &Context, arguments: &Inspect) -> Outcome {
    let (root, id) = find(&context.root, context.root_named, &arguments.container_id)
        .map_err(InspectError::Find)?;
    let answer = inspect(&root, &id)?;
    match arguments.format {
        Form::Json => print_json(&answer, JsonLayout::Indented)?,
        Form::Text => print_text(&answer)?,
    }
    Ok(0)
}

fn inspect(root: &Root, id: &str) -> Result<Answer, InspectError> {
    let container = root.load(id)?;
    let facts = Facts::load(&container.root)?;
    let main = MainProcess::of(&container);
    let pid = main.map(|main| main.pid);
    let shared = facts.as_ref().and_then(|facts| facts.shared);
    let heap = match pid {
        Some(pid) => HeapView::of(pid, Access::Read)?,
        None => None,
    };
    let kind = match &heap {
        Some(heap) => heap.kind()?,
        None => None,
    };
    let processes = match pid {
        Some(_) => processes::of(&container, heap.as_ref(), facts.as_ref())?,
        None => Vec::new(),
    };
    let addresses = match &heap {
        Some(heap) => addresses(heap, id)?,
        None => Vec::new(),
    };
    // What is true now comes before what was decided.
    let first = processes.iter().find(|process| Some(process.pid) == pid);
    let decided = facts
        .as_ref()
        .map(|facts| (facts.placement, facts.reason.clone()));
    let (placement, reason) = first
        .map(|first| (first.placement, first.reason.clone()))
        .or(decided)
        .unzip();
    Ok(Answer {
        id: id.to_owned(),
        status: container.status().to_string().to_lowercase(),
        pid: pid.map_or(0, Pid::as_raw),
        anchor_pid: main.and_then(|main| main.anchor).map(Pid::as_raw),
        instance_pid: shared
            .map(|shared| shared.instance_pid)
            .or(pid.filter(|_| kind.is_some()).map(Pid::as_raw)),
        slot: shared.map(|shared| shared.slot),
        instance: kind.map(|kind| match kind {
            InstanceKind::Own => "own",
            InstanceKind::Shared => "shared",
        }),
        group: facts.as_ref().and_then(|facts| facts.group.clone()),
        isolation: facts.as_ref().map(|facts| facts.isolation),
        placement,
        reason,
        shares_address_space_with: pid.map_or_else(Vec::new, |pid| sharers(root, &container, pid)),
        addresses: addresses.into_iter().map(address_answer).collect(),
        processes: processes.into_iter().map(answer_for).collect(),
    })
}

/// Asks the kernel about every other container under the same root.
fn sharers(root: &Root, container: &Container, pid: Pid) -> Vec<String> {
    let mut ids = root.ids().unwrap_or_default();
    ids.retain(|id| {
        id != container.id()
            && root.load(id).is_ok_and(|other| {
                other.status() != ContainerStatus::Stopped
                    && MainProcess::of(&other).is_some_and(|other| {
                        sys::process::share_address_space(pid, other.pid) == Ok(true)
                    })
            })
    });
    ids
}

fn addresses(heap: &HeapView, id: &str) -> Result<Vec<AddressView>, HeapViewError> {
    match heap.container(id)? {
        Some(index) => heap.addresses(index),
        None => Ok(Vec::new()),
    }
}

fn address_answer(view: AddressView) -> AddressAnswer {
    AddressAnswer {
        address: view.address,
        bridge: view.bridge,
    }
}

impl std::fmt::Display for AddressAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bridge {
            Some(bridge) => write!(f, "{} (bridge {bridge})", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

fn answer_for(process: PlacedProcess) -> ProcessAnswer {
    ProcessAnswer {
        pid: process.pid.as_raw(),
        container_pid: process.container_pid,
        placement: process.placement,
        reason: process.reason,
        exe: process.exe,
        vkernel: process.vkernel.map(|(view, counters)| VkernelAnswer {
            threads: view.threads,
            slot: view.slot,
            sites_rewritten: view.sites_rewritten,
            sites_refused: view.sites_refused,
            calls_rewritten: counters.rewritten,
            calls_trapped: counters.trapped,
            calls_served: counters.served,
            signals: counters.signals,
        }),
    }
}

fn print_text(answer: &Answer) -> Result<(), OutputError> {
    let number = |pid: Option<i32>| pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string());
    let or_none = |text: Option<&str>| text.unwrap_or("none").to_owned();
    let sharers = answer.shares_address_space_with.join(", ");
    let addresses: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    let rows = [
        ["container", &answer.id],
        ["status", &answer.status],
        ["pid", &answer.pid.to_string()],
        ["anchor pid", &number(answer.anchor_pid)],
        ["instance pid", &number(answer.instance_pid)],
        ["instance", &or_none(answer.instance)],
        ["group", &or_none(answer.group.as_deref())],
        [
            "isolation",
            &answer
                .isolation
                .map_or_else(|| "unknown".to_owned(), |i| i.to_string()),
        ],
        [
            "placement",
            &answer
                .placement
                .map_or_else(|| "unknown".to_owned(), |p| p.to_string()),
        ],
        ["because", &or_none(answer.reason.as_deref())],
        [
            "shares its address space with",
            if sharers.is_empty() {
                "nobody"
            } else {
                &sharers
            },
        ],
        [
            "addresses",
            if addresses.is_empty() {
                "none known"
            } else {
                &addresses
            },
        ],
    ];
    print_line(&super::table::align(
        &rows.map(|row| row.map(str::to_owned)),
    ))?;
    let mut rows = vec![
        [
            "PID",
            "INSIDE",
            "PLACEMENT",
            "THREADS",
            "REWRITTEN",
            "TRAPPED",
            "SERVED",
            "SITES",
            "REFUSED",
            "PROGRAM",
            "BECAUSE",
        ]
        .map(str::to_owned),
    ];
    rows.extend(answer.processes.iter().map(row));
    print_line("")?;
    print_line(&super::table::align(&rows))
}

fn row(process: &ProcessAnswer) -> [String; 11] {
    let number = |value: fn(&VkernelAnswer) -> u64| {
        process
            .vkernel
            .as_ref()
            .map_or_else(|| "-".to_owned(), |vkernel| value(vkernel).to_string())
    };
    [
        process.pid.to_string(),
        process.container_pid.to_string(),
        process.placement.to_string(),
        number(|vkernel| vkernel.threads.into()),
        number(|vkernel| vkernel.calls_rewritten),
        number(|vkernel| vkernel.calls_trapped),
        number(|vkernel| vkernel.calls_served),
        number(|vkernel| vkernel.sites_rewritten),
        number(|vkernel| vkernel.sites_refused),
        process.exe.clone(),
        process.reason.clone(),
    ]
}
