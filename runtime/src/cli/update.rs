//! `pegasus update`: change a running container's resource limits.

use super::{Context, Outcome};
use crate::container::cgroup::ContainerCgroup;
use libcgroups::common::{CgroupManager, ControllerOpt};
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    LinuxBlockIoBuilder, LinuxCpu, LinuxMemory, LinuxPidsBuilder, LinuxResources,
};
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("cannot read the resources {path:?} given with --resources")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the resources {path:?} given with --resources are not valid")]
    Parse {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the value of --{option} is out of range")]
    OutOfRange { option: &'static str },
    #[error("--l3-cache-schema and --mem-bw-schema are not supported")]
    Rdt,
    #[error("the new limits cannot be expressed")]
    Build(#[from] OciSpecError),
}

pub fn run(context: &Context, arguments: &liboci_cli::Update) -> Outcome {
    let container = context.root.load(&arguments.container_id)?;
    let resources = match &arguments.resources {
        Some(path) => read(path)?,
        None => from_options(arguments)?,
    };
    let changes = ControllerOpt {
        resources: &resources,
        disable_oom_killer: false,
        oom_score_adj: None,
        freezer_state: None,
    };
    ContainerCgroup::of(&container)?.with(|manager| manager.apply(&changes))?;
    Ok(0)
}

fn read(path: &Path) -> Result<LinuxResources, UpdateError> {
    let failed = |source| UpdateError::Read {
        path: path.to_owned(),
        source,
    };
    let text = if path.as_os_str() == "-" {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).map_err(failed)?;
        text
    } else {
        std::fs::read(path).map_err(failed)?
    };
    serde_json::from_slice(&text).map_err(|source| UpdateError::Parse {
        path: path.to_owned(),
        source,
    })
}

fn from_options(options: &liboci_cli::Update) -> Result<LinuxResources, UpdateError> {
    if options.l3_cache_schema.is_some() || options.mem_bw_schema.is_some() {
        return Err(UpdateError::Rdt);
    }
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources.set_cpu(cpu(options)?);
    resources.set_memory(memory(options)?);
    if let Some(limit) = options.pids_limit {
        resources.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
    }
    if let Some(weight) = options.blkio_weight {
        let weight = u16::try_from(weight).map_err(|_| UpdateError::OutOfRange {
            option: "blkio-weight",
        })?;
        resources.set_block_io(Some(LinuxBlockIoBuilder::default().weight(weight).build()?));
    }
    Ok(resources)
}

fn cpu(options: &liboci_cli::Update) -> Result<Option<LinuxCpu>, UpdateError> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(options.cpu_share);
    cpu.set_period(options.cpu_period);
    cpu.set_quota(signed(options.cpu_quota, "cpu-quota")?);
    cpu.set_realtime_period(options.cpu_rt_period);
    cpu.set_realtime_runtime(signed(options.cpu_rt_runtime, "cpu-rt-runtime")?);
    cpu.set_cpus(options.cpuset_cpus.clone());
    cpu.set_mems(options.cpuset_mems.clone());
    Ok((cpu != LinuxCpu::default()).then_some(cpu))
}

fn memory(options: &liboci_cli::Update) -> Result<Option<LinuxMemory>, UpdateError> {
    let mut memory = LinuxMemory::default();
    memory.set_limit(signed(options.memory, "memory")?);
    memory.set_reservation(signed(options.memory_reservation, "memory-reservation")?);
    memory.set_swap(options.memory_swap);
    Ok((memory != LinuxMemory::default()).then_some(memory))
}

/// The specification counts in signed numbers, where -1 is "no limit".
fn signed(value: Option<u64>, option: &'static str) -> Result<Option<i64>, UpdateError> {
    value
        .map(|value| i64::try_from(value).map_err(|_| UpdateError::OutOfRange { option }))
        .transpose()
}
