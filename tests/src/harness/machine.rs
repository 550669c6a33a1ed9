//! A picture of what containers could leave on the machine, for comparing before and after.

use super::host;
use super::site::Site;
use anyhow::Result;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Named things, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture(BTreeSet<String>);

impl Picture {
    pub fn take(site: &Site) -> Result<Self> {
        let mut lines = BTreeSet::new();
        lines.extend(processes(site)?);
        lines.extend(mounts(site)?);
        let cgroups = host::cgroup_directories(&site.cgroup).into_iter();
        // Fused instances have cgroups of their own; other runs on this machine use other tags.
        let instances = host::cgroup_directories("pegasus").into_iter();
        let instances = instances.filter(|path| path.to_string_lossy().contains(&site.tag));
        lines.extend(
            cgroups
                .chain(instances)
                .map(|path| format!("cgroup {}", path.display())),
        );
        let groups = entries(Path::new("/run/pegasus")).filter(|path| path.contains(&site.tag));
        lines.extend(
            groups
                .chain(entries(&site.runtime_root()))
                .map(|path| format!("file {path}")),
        );
        for table in ["unix", "tcp", "udp"] {
            lines.extend(sockets(site, table)?);
        }
        lines
            .extend(entries(&site.data_root.join("containers")).map(|path| format!("file {path}")));
        lines.extend(interfaces(site)?);
        Ok(Self(lines))
    }

    /// What is there now and was not before.
    pub fn new_since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Processes of containers, shims and of the runtime under test. Others come and go by themselves.
fn processes(site: &Site) -> Result<Vec<String>> {
    let engine = fs::read_link(format!("/proc/{}/ns/net", site.engine_pid))?;
    let is_ours = |pid: i32, line: &str| {
        let in_network =
            fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|namespace| namespace == engine);
        let in_cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| groups.contains(&site.cgroup));
        in_network || in_cgroup || line.contains(&site.tag)
    };
    let all = host::processes()?
        .into_iter()
        .filter(|(pid, line)| is_ours(*pid, line));
    Ok(all
        .map(|(pid, line)| format!("process {pid} {line}"))
        .collect())
}

fn mounts(site: &Site) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", site.engine_pid))?;
    let root = site.data_root.parent().unwrap_or(&site.data_root);
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.filter(|point| Path::new(point).starts_with(root));
    Ok(points.map(|point| format!("mount {point}")).collect())
}

fn entries(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string())
}

/// Listening sockets with a name or port in the engine's network.
fn sockets(site: &Site, table: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{}/net/{table}", site.engine_pid))?;
    let lines = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let named: Vec<String> = match table {
        // Column 4 holds the flags, of which 0x10000 means listening; column 8 the name.
        "unix" => lines
            .filter(|words| words[3] == "00010000")
            .filter_map(|words| words.get(7).map(|name| (*name).to_owned()))
            .collect(),
        // State 0A means listening, 07 a bound UDP socket.
        _ => lines
            .filter(|words| words[3] == "0A" || words[3] == "07")
            .map(|words| words[1].to_owned())
            .collect(),
    };
    Ok(named
        .into_iter()
        .map(|name| format!("socket {table} {name}"))
        .collect())
}

fn interfaces(site: &Site) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", site.engine_pid))?;
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    Ok(names
        .map(|(name, _)| format!("interface {}", name.trim()))
        .collect())
}
