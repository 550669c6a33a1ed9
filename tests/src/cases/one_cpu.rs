//! Containers of a group confined to one CPU, where workers run threads in turns: whatever a program can see is what it sees
//! under runc.

use super::local_tcp::{PLAYED, agree, at_once, first_difference, fused, play_with, with_ipv6};
use super::seeing::{pegasus, series};
use crate::harness::case::Case;
use crate::harness::container::Container;
use crate::harness::context::Context;
use crate::harness::site::REFERENCE;
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::thread;
use std::time::Duration;

/// Programs that are not about connections, with their arguments.
const ALONE: &[(&str, &[&str])] = &[
    ("turns", &[]),
    ("futexes", &[]),
    ("threads", &[]),
    ("processes", &[]),
    ("signal_handlers", &[]),
    ("signal_restart", &[]),
    ("signal_queue", &[]),
    ("signal_fpu", &[]),
    ("faults", &[]),
    ("timers", &[]),
    ("go_services", &["a", "b"]),
];

pub fn cases() -> Vec<Case> {
    let alone = ALONE.iter().map(|(program, args)| {
        Case::own(format!("one_cpu::{program}"), move |context| {
            compare(context, program, args)
        })
    });
    let together = PLAYED.iter().map(|program| {
        Case::own(format!("one_cpu::{program}"), move |context| {
            compare(context, program, &["threads", "fork"])
        })
        .limit(120)
    });
    let apart = PLAYED.iter().map(|program| {
        Case::own(
            format!("one_cpu::{program}_between_containers"),
            move |context| between_containers(context, program),
        )
        .limit(120)
    });
    let more = [
        Case::own("one_cpu::takes_turns", takes_turns),
        Case::own("one_cpu::killed_in_turns", killed_in_turns),
        Case::own("one_cpu::paused_in_turns", paused_in_turns),
        Case::own("one_cpu::workers_killed", workers_killed),
    ];
    alone.chain(together).chain(apart).chain(more).collect()
}

/// The first and the last CPU that this process may use: the same for all who ask.
pub(super) fn cpus() -> Result<(u32, u32)> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .context("no Cpus_allowed_list in /proc/self/status")?;
    let mut numbers = list
        .trim()
        .split([',', '-'])
        .map(|cpu| cpu.parse().context("no CPU"));
    let first = numbers.next().context("no CPU")??;
    Ok((first, numbers.next_back().unwrap_or(Ok(first))?))
}

/// One CPU that this process may use: the same for all who ask.
pub fn one_cpu() -> Result<String> {
    cpus().map(|(_, last)| format!("--cpuset-cpus={last}"))
}

fn compare(context: &Context, program: &str, args: &[&str]) -> Result<()> {
    let confined = one_cpu()?;
    let run = |runtime: &str| {
        with_ipv6(context.on(runtime))
            .options([&confined])
            .program(program, args)
            .run()?
            .expect(0)
    };
    let (expected, found) = at_once(|| run(REFERENCE), || fused(context, run))?;
    ensure!(!expected.stdout.is_empty(), "{}", expected.describe());
    ensure!(
        found.stdout == expected.stdout,
        "{program} differs from runc\n{}\n{}",
        first_difference(&expected.stdout, &found.stdout),
        found.describe()
    );
    Ok(())
}

fn between_containers(context: &Context, program: &str) -> Result<()> {
    let confined = one_cpu()?;
    let play = |runtime: &str| play_with(context, [runtime; 2], program, &[], &[&confined]);
    let (expected, found) = at_once(|| play(REFERENCE), || fused(context, play))?;
    agree(program, &expected, &found)
}

/// A pair of a group that exchanges single bytes as fast as it can, for a minute at most.
pub(super) fn chatty<'c, 'a>(
    context: &'c Context<'a>,
    runtime: &str,
    confined: &str,
) -> Result<(Container<'c, 'a>, Container<'c, 'a>)> {
    let server = context
        .on(runtime)
        .options([confined])
        .program("bench_echo", ["server", "7000"])
        .start()?;
    server.wait_for_log("listening")?;
    let client = context
        .on(runtime)
        .options([confined])
        .network(&format!("container:{}", server.name))
        .program("bench_echo", ["client", "127.0.0.1", "7000", "60000"])
        .start()?;
    Ok((server, client))
}

/// A counter of a container, from `pegasus metrics`.
pub(super) fn counter(context: &Context, name: &str, container: &Container) -> Result<f64> {
    let text = pegasus(context, &["metrics"])?.expect(0)?.stdout;
    let labels = [("container", container.id()?)];
    let labels = labels.each_ref().map(|(name, id)| (*name, id.as_str()));
    series(&text, name, &labels)?.with_context(|| format!("no {name}:\n{text}"))
}

pub(super) const SWITCHES: &str = "pegasus_container_switches_total";

fn takes_turns(context: &Context) -> Result<()> {
    let group = context.group()?;
    let (server, client) = chatty(context, group.runtime(), &one_cpu()?)?;
    for container in [&server, &client] {
        context.eventually(Duration::from_secs(20), || {
            let switches = counter(context, SWITCHES, container)?;
            ensure!(switches > 10_000.0, "only {switches} switches");
            let trips = counter(context, "pegasus_container_trips_home_total", container)?;
            ensure!(trips > 0.0, "never at home");
            Ok(())
        })?;
    }
    Ok(())
}

/// Who is killed while a worker runs it is gone, and nobody else is; what it had is used again.
fn killed_in_turns(context: &Context) -> Result<()> {
    const ROUNDS: u32 = 6;
    let group = context.group()?;
    let (bystanders, _client) = chatty(context, group.runtime(), &one_cpu()?)?;
    for round in 0..ROUNDS {
        let (server, client) = chatty(context, group.runtime(), &one_cpu()?)?;
        context.eventually(Duration::from_secs(20), || {
            let switches = counter(context, SWITCHES, &client)?;
            ensure!(switches > 1000.0, "only {switches} switches");
            Ok(())
        })?;
        let (victim, other) = if round % 2 == 0 {
            (server, client)
        } else {
            (client, server)
        };
        victim.docker(&["kill"])?.expect(0)?;
        ensure!(victim.wait()? == 137, "not killed");
        for gone in [victim, other] {
            gone.docker(&["rm", "--force"])?.expect(0)?;
        }
        let before = counter(context, SWITCHES, &bystanders)?;
        context.eventually(Duration::from_secs(20), || {
            let after = counter(context, SWITCHES, &bystanders)?;
            ensure!(after > before + 1000.0, "the neighbours stand still");
            Ok(())
        })?;
    }
    Ok(())
}

/// A paused container rests although a worker ran it, and goes on afterwards.
fn paused_in_turns(context: &Context) -> Result<()> {
    const SETTLED: Duration = Duration::from_millis(500);
    let group = context.group()?;
    let (server, client) = chatty(context, group.runtime(), &one_cpu()?)?;
    let switches = || counter(context, SWITCHES, &client);
    context.eventually(Duration::from_secs(20), || {
        ensure!(switches()? > 1000.0, "no turns yet");
        Ok(())
    })?;
    client.docker(&["pause"])?.expect(0)?;
    thread::sleep(SETTLED);
    let paused = switches()?;
    thread::sleep(SETTLED);
    ensure!(switches()? == paused, "it goes on while it is paused");
    client.docker(&["unpause"])?.expect(0)?;
    context.eventually(Duration::from_secs(20), || {
        ensure!(switches()? > paused + 1000.0, "it rests for ever");
        Ok(())
    })?;
    drop(server);
    Ok(())
}

/// Where somebody kills the workers, the threads that they run are lost, and their processes with them. Others stay at home from then
/// on, and a group goes on.
fn workers_killed(context: &Context) -> Result<()> {
    const KILLED: i32 = 137;
    let group = context.group()?;
    let confined = one_cpu()?;
    let (server, client) = chatty(context, group.runtime(), &confined)?;
    context.eventually(Duration::from_secs(20), || {
        let switches = counter(context, SWITCHES, &client)?;
        ensure!(switches > 1000.0, "only {switches} switches");
        Ok(())
    })?;
    let monitor = monitor_of(&server)?;
    signal::kill(Pid::from_raw(monitor), Signal::SIGKILL)?;
    // Of two that exchange messages one at least is away; the other one ends with the connection.
    let statuses = [server.wait()?, client.wait()?];
    ensure!(statuses.contains(&KILLED), "statuses {statuses:?}");
    let (server, client) = chatty(context, group.runtime(), &confined)?;
    client.docker(&["kill"])?.expect(0)?;
    ensure!(client.wait()? == KILLED, "not killed");
    server.docker(&["rm", "--force"])?.expect(0)?;
    Ok(())
}

/// The process with the workers of a container's instance: of those, a child as the container's home task is.
fn monitor_of(container: &Container) -> Result<i32> {
    let id = container.id()?;
    let read = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    let parent_of = |pid| {
        let status = read(pid, "status").ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        parent.trim().parse::<i32>().ok()
    };
    let pids: Vec<i32> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let instances: Vec<i32> = pids
        .iter()
        .filter(|&&pid| read(pid, "cgroup").is_ok_and(|path| path.contains(&id)))
        .filter_map(|&pid| parent_of(pid))
        .collect();
    pids.into_iter()
        .filter(|&pid| read(pid, "comm").is_ok_and(|name| name == "pegasus-workers\n"))
        .find(|&pid| parent_of(pid).is_some_and(|parent| instances.contains(&parent)))
        .context("no monitor")
}
