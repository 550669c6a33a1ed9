//! `pegasus ps`: the processes of a container.

use super::{Context, JsonLayout, Outcome, print_json, print_line};
use crate::container::cgroup::ContainerCgroup;
use crate::container::main_process::MainProcess;
use nix::unistd::Pid;
use std::collections::HashSet;
use std::process::Command;

#[derive(Debug, thiserror::Error)]
pub enum PsError {
    #[error("unknown --format {0:?}: use table or json")]
    Format(String),
    #[error("cannot run ps; install it, or use --format json")]
    Run(#[source] std::io::Error),
    #[error("ps failed: {0}")]
    Failed(String),
    #[error("the output of ps has no column PID; choose options that print it")]
    NoPidColumn,
}

pub fn run(context: &Context, arguments: &liboci_cli::Ps) -> Outcome {
    let container = context.root.load(&arguments.container_id)?;
    let pids = ContainerCgroup::of(&container)?.pids()?;
    let anchor = MainProcess::of(&container).and_then(|main| main.anchor);
    let pids: Vec<i32> = pids
        .into_iter()
        .filter(|pid| Some(*pid) != anchor)
        .map(Pid::as_raw)
        .collect();
    match arguments.format.as_str() {
        "json" => print_json(&pids, JsonLayout::Compact)?,
        "table" => print_line(&table(&pids, &arguments.ps_options)?)?,
        other => return Err(PsError::Format(other.to_owned()).into()),
    }
    Ok(0)
}

/// Runs the host's `ps` and keeps the lines of the container.
fn table(pids: &[i32], options: &[String]) -> Result<String, PsError> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command.output().map_err(PsError::Run)?;
    if !output.status.success() {
        return Err(PsError::Failed(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    select(&String::from_utf8_lossy(&output.stdout), pids)
}

fn select(output: &str, pids: &[i32]) -> Result<String, PsError> {
    let pids: HashSet<i32> = pids.iter().copied().collect();
    let heading = output.lines().next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or(PsError::NoPidColumn)?;
    let is_wanted = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|field| field.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    let wanted = output.lines().skip(1).filter(is_wanted);
    Ok(std::iter::once(heading)
        .chain(wanted)
        .collect::<Vec<_>>()
        .join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_the_container_remain() {
        let output = "UID  PID  CMD\nroot  10  a\nroot  11  10\nweb  12  b\n";
        assert_eq!(
            select(output, &[10, 12]).unwrap(),
            "UID  PID  CMD\nroot  10  a\nweb  12  b"
        );
        assert!(matches!(
            select("CMD\na\n", &[1]),
            Err(PsError::NoPidColumn)
        ));
    }
}
