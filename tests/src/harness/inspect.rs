//! Asking `pegasus inspect` about a container.

use super::container::Container;
use super::context::Context;
use super::host;
use anyhow::{Context as _, Result};
use serde_json::Value;

/// The answer, as JSON.
#[derive(Debug, Clone)]
pub struct Inspected(pub Value);

impl Inspected {
    pub fn of(context: &Context, container: &Container) -> Result<Self> {
        let done = inspect(context, container, &["--format", "json"])?;
        let value = serde_json::from_str(&done).with_context(|| format!("not JSON: {done}"))?;
        Ok(Self(value))
    }

    /// Host pid of the container's first process: in a shared instance its home task, whereas the
    /// engine sees the anchor.
    pub fn main_pid(&self) -> Result<i32> {
        let processes = self.0["processes"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let first = processes
            .iter()
            .find(|process| process["containerPid"] == 1);
        // A container in the host's pid namespace has no pid 1 of its own.
        let pid = first
            .map_or(&self.0["pid"], |process| &process["pid"])
            .as_i64()
            .filter(|pid| *pid > 0);
        Ok(i32::try_from(pid.with_context(|| {
            format!("no first process in {:#}", self.0)
        })?)?)
    }

    /// Host pid of the shared instance, which is the parent of its home tasks.
    pub fn instance_pid(&self) -> Result<i32> {
        host::parent(self.main_pid()?)
    }

    /// Calls of all processes through rewritten sites, and through traps.
    pub fn calls(&self) -> (u64, u64) {
        let processes = self.0["processes"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let sum = |key: &str| {
            processes
                .iter()
                .filter_map(|process| process["vkernel"][key].as_u64())
                .sum()
        };
        (sum("callsRewritten"), sum("callsTrapped"))
    }

    /// Ids of the containers that the kernel says share its address space.
    pub fn sharers(&self) -> Vec<&str> {
        let ids = self.0["sharesAddressSpaceWith"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(Value::as_str).collect()
    }
}

/// The answer as a person sees it.
pub fn text(context: &Context, container: &Container) -> Result<String> {
    inspect(context, container, &[])
}

fn inspect(context: &Context, container: &Container, options: &[&str]) -> Result<String> {
    let root = context.site().runtime_root().display().to_string();
    let id = container.id()?;
    let args = [&["--root", &root, "inspect"], options, &[id.as_str()]].concat();
    Ok(context.host(context.pegasus()?, &args)?.expect(0)?.stdout)
}
