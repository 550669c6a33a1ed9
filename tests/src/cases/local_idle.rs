//! Who has nothing to do uses no CPU: an instance with silent connections over rings, sets that wait for them, and workers.

use super::one_cpu::one_cpu;
use crate::harness::case::Case;
use crate::harness::container::Container;
use crate::harness::context::Context;
use crate::harness::host;
use crate::harness::inspect::Inspected;
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::group("local_idle::silent_connections", |context| {
            idle(context, &[])
        })
        .limit(120),
        Case::group("local_idle::silent_connections_on_one_cpu", |context| {
            idle(context, &[one_cpu()?])
        })
        .limit(120),
    ]
}

/// A server with silent clients that it waits for in an epoll set.
fn idle(context: &Context, options: &[String]) -> Result<()> {
    const COUNT: &str = "200";
    const WINDOW: Duration = Duration::from_secs(3);
    /// Of the clock that CPU time is told by, a hundredth of a second each.
    const TICKS_MAX: u64 = 2;
    let group = context.group()?;
    let on = || context.on(group.runtime()).options(options);
    let server = on().program("bench_idle", ["server", "7000"]).start()?;
    let network = format!("container:{}", server.name);
    let hold = ["hold", "127.0.0.1", "7000", COUNT, "each"];
    let client = on().network(&network).program("bench_idle", hold).start()?;
    client.wait_for_log("holding")?;
    let tasks = processes_of(context, &client)?;
    context.eventually(context.remaining(), || {
        let before = cpu_ticks(&tasks)?;
        thread::sleep(WINDOW);
        let used = cpu_ticks(&tasks)? - before;
        ensure!(
            used <= TICKS_MAX,
            "{used} hundredths of a second in {WINDOW:?} of {tasks:?}"
        );
        Ok(())
    })
}

/// The instance of a container, its home tasks, and whatever else the instance has started.
fn processes_of(context: &Context, container: &Container) -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::from([Inspected::of(context, container)?.instance_pid()?]);
    loop {
        let all = host::processes()?;
        let is_new = |pid: &i32| !found.contains(pid);
        let children: Vec<i32> = all
            .into_keys()
            .filter(is_new)
            .filter(|pid| host::parent(*pid).is_ok_and(|parent| found.contains(&parent)))
            .collect();
        if children.is_empty() {
            ensure!(found.len() > 2, "no home tasks: {found:?}");
            return Ok(found);
        }
        found.extend(children);
    }
}

/// What all threads of these processes have used so far.
fn cpu_ticks(processes: &BTreeSet<i32>) -> Result<u64> {
    let mut sum = 0;
    for pid in processes {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        // Fields 14 and 15 of stat(5); the name was the second.
        let times = rest.split_whitespace().skip(11).take(2);
        for time in times {
            sum += time.parse::<u64>()?;
        }
    }
    Ok(sum)
}
