//! Fusion groups: one address space, otherwise separate containers.

use crate::harness::case::Case;
use crate::harness::container::Container;
use crate::harness::context::Context;
use crate::harness::host;
use crate::harness::inspect::{self, Inspected};
use crate::harness::kcmp::share_address_space;
use anyhow::{Result, ensure};
use std::time::Duration;

const SEPARATE: [&str; 6] = ["pid", "mnt", "net", "uts", "ipc", "cgroup"];

pub fn cases() -> Vec<Case> {
    vec![
        Case::group("fusion::redis_pair_in_one_address_space", redis_pair).limit(120),
        Case::group("fusion::inspect_tells_the_address_space", inspect),
        Case::own("fusion::own_instances_are_apart", unfused),
        Case::group("fusion::groups_are_apart", groups_apart),
        Case::group("fusion::namespaces_are_separate", namespaces),
        Case::group("fusion::each_is_pid_1", pid_1),
        Case::group("fusion::never_with_more_privilege", privileged),
        Case::group("fusion::many_containers", many).limit(180),
        Case::group("fusion::isolation_none_is_said", said),
        Case::group("fusion::trace_and_counters", trace),
    ]
}

fn sleeper<'c, 'a>(
    context: &'c Context<'a>,
    runtime: &str,
    options: &[&str],
) -> Result<Container<'c, 'a>> {
    context
        .on(runtime)
        .options(options)
        .command(["sleep", "300"])
        .start()
}

fn are_fused(one: &Container, other: &Container) -> Result<bool> {
    Ok(share_address_space(one.pid()?, other.pid()?)?)
}

fn main_pid(context: &Context, container: &Container) -> Result<i32> {
    Inspected::of(context, container)?.main_pid()
}

fn redis_pair(context: &Context) -> Result<()> {
    let group = context.group()?;
    let server = context
        .on(group.runtime())
        .command(["redis-server", "--save", "", "--protected-mode", "no"])
        .start()?;
    server.wait_for_log("Ready to accept connections")?;
    let network = format!("container:{}", server.name);
    let client = context
        .on(group.runtime())
        .network(&network)
        .command(["redis-cli", "--raw", "blpop", "never", "0"])
        .start()?;
    context.eventually(Duration::from_secs(10), || {
        ensure!(
            server
                .ask(["redis-cli", "client", "list"])?
                .contains("cmd=blpop")
        );
        Ok(())
    })?;
    let (one, other) = (main_pid(context, &server)?, main_pid(context, &client)?);
    ensure!(
        one != other && share_address_space(one, other)?,
        "processes {one} and {other} do not share their address space"
    );
    let bench = [
        "redis-benchmark",
        "-n",
        "20000",
        "-c",
        "10",
        "-q",
        "-t",
        "set,get",
    ];
    let done = context
        .on(group.runtime())
        .network(&network)
        .command(bench)
        .run()?
        .expect(0)?;
    ensure!(
        done.stdout.matches("requests per second").count() >= 2,
        "{}",
        done.describe()
    );
    server.ask(["redis-cli", "lpush", "never", "woken"])?;
    ensure!(client.wait()? == 0 && client.logs()?.contains("woken"));
    Ok(())
}

fn inspect(context: &Context) -> Result<()> {
    let group = context.group()?;
    let (one, other) = (
        sleeper(context, group.runtime(), &[])?,
        sleeper(context, group.runtime(), &[])?,
    );
    let found = Inspected::of(context, &one)?;
    ensure!(found.sharers() == [other.id()?], "{:#}", found.0);
    ensure!(
        found.0["instance"] == "shared" && found.0["group"] == group.name(),
        "{:#}",
        found.0
    );
    let text = inspect::text(context, &one)?;
    ensure!(
        text.contains(group.name()) && text.contains(&other.id()?[..12]),
        "{text}"
    );
    let apart = context
        .on(&context.site().runtimes.own)
        .command(["sleep", "300"])
        .start()?;
    let found = Inspected::of(context, &apart)?;
    ensure!(
        found.sharers().is_empty() && found.0["instance"] == "own",
        "{:#}",
        found.0
    );
    Ok(())
}

fn unfused(context: &Context) -> Result<()> {
    let (one, other) = (
        sleeper(context, context.runtime(), &[])?,
        sleeper(context, context.runtime(), &[])?,
    );
    ensure!(
        !are_fused(&one, &other)?,
        "two own instances share an address space"
    );
    Ok(())
}

fn groups_apart(context: &Context) -> Result<()> {
    let (group, another) = (context.group()?, context.group()?);
    let (one, other) = (
        sleeper(context, group.runtime(), &[])?,
        sleeper(context, another.runtime(), &[])?,
    );
    let (first, second) = (main_pid(context, &one)?, main_pid(context, &other)?);
    ensure!(
        !share_address_space(first, second)?,
        "two groups share an address space"
    );
    Ok(())
}

fn namespaces(context: &Context) -> Result<()> {
    let group = context.group()?;
    let (one, other) = (
        sleeper(context, group.runtime(), &["--cgroupns", "private"])?,
        sleeper(context, group.runtime(), &["--cgroupns", "private"])?,
    );
    let own = i32::try_from(std::process::id())?;
    let (first, second) = (main_pid(context, &one)?, main_pid(context, &other)?);
    ensure!(share_address_space(first, second)?);
    for name in SEPARATE {
        let links = [
            host::namespace(first, name)?,
            host::namespace(second, name)?,
            host::namespace(own, name)?,
        ];
        ensure!(
            links[0] != links[1] && links[0] != links[2] && links[1] != links[2],
            "{name}: {links:?}"
        );
        // The anchor, which the engine sees, is in the same ones.
        ensure!(
            host::namespace(one.pid()?, name)? == links[0],
            "{name} of the anchor differs"
        );
    }
    let marks = [&one, &other]
        .map(|container| container.ask(["sh", "-c", "echo $HOSTNAME > /mark; cat /mark"]));
    let [first, second] = marks;
    ensure!(first? != second?, "one file system");
    Ok(())
}

fn pid_1(context: &Context) -> Result<()> {
    let group = context.group()?;
    let script = "echo pid $$; ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; sleep 300";
    let (one, other) = (
        context.on(group.runtime()).shell(script).start()?,
        context.on(group.runtime()).shell(script).start()?,
    );
    for container in [&one, &other] {
        let logs = container.wait_for_log("sh\n")?;
        ensure!(logs.starts_with("pid 1\n"), "{logs}");
        let shown = container.ask(["ps", "-eo", "pid,args"])?;
        ensure!(
            !shown.contains("pegasus") && shown.lines().count() <= 4,
            "{shown}"
        );
    }
    Ok(())
}

/// Containers that could take their neighbours over get instances of their own.
fn privileged(context: &Context) -> Result<()> {
    let group = context.group()?;
    let plain = sleeper(context, group.runtime(), &[])?;
    let main = main_pid(context, &plain)?;
    let settings: [&[&str]; 5] = [
        &["--privileged"],
        &["--cap-add", "SYS_PTRACE"],
        &["--cap-add", "SYS_ADMIN"],
        &["--cap-add", "SYS_RAWIO"],
        &["--pid", "host"],
    ];
    for options in settings {
        if options.contains(&"--privileged") && !context.grants_privileged()? {
            continue;
        }
        let other = sleeper(context, group.runtime(), options)?;
        ensure!(
            !share_address_space(main, other.pid()?)?,
            "{options:?} was fused"
        );
        ensure!(
            !share_address_space(main, main_pid(context, &other)?)?,
            "{options:?} was fused"
        );
        other.docker(&["rm", "--force"])?;
    }
    Ok(())
}

fn many(context: &Context) -> Result<()> {
    let group = context.group()?;
    let containers = (0..16)
        .map(|_| sleeper(context, group.runtime(), &[]))
        .collect::<Result<Vec<_>>>()?;
    let first = main_pid(context, &containers[0])?;
    for container in &containers[1..] {
        ensure!(
            share_address_space(first, main_pid(context, container)?)?,
            "{} is not fused",
            container.name
        );
    }
    containers
        .iter()
        .try_for_each(|container| container.docker(&["rm", "--force"]).map(drop))
}

/// The one sentence about running without isolation.
fn said(context: &Context) -> Result<()> {
    let group = context.group()?;
    let container = sleeper(context, group.runtime(), &[])?;
    let found = Inspected::of(context, &container)?;
    ensure!(found.0["isolation"] == "none", "{:#}", found.0);
    let text = inspect::text(context, &container)?;
    ensure!(
        text.contains("isolation") && text.contains("none"),
        "{text}"
    );
    Ok(())
}

/// A loop of calls is counted, nearly all of them through rewritten sites, and can be watched.
fn trace(context: &Context) -> Result<()> {
    let group = context.group()?;
    let script = "import os, time\nwhile True:\n  os.getppid(); os.stat('/')\n  time.sleep(0.0005)";
    let container = context
        .on(group.runtime())
        .command(["python3", "-c", script])
        .start()?;
    context.eventually(Duration::from_secs(20), || {
        let found = Inspected::of(context, &container)?;
        let (rewritten, trapped) = found.calls();
        ensure!(
            rewritten > 1000 && rewritten > trapped * 20,
            "{rewritten} rewritten, {trapped} trapped: {:#}",
            found.0
        );
        Ok(())
    })?;
    let root = context.site().runtime_root().display().to_string();
    let mut command = std::process::Command::new("timeout");
    command
        .args(["--signal", "INT", "2"])
        .arg(context.pegasus()?)
        .args(["--root", &root, "trace", &container.id()?]);
    let shown = crate::harness::command::finish(&mut command, b"", context.remaining())?;
    ensure!(
        shown.stdout.contains("getppid") && shown.stdout.contains("clock_nanosleep"),
        "{}",
        shown.describe()
    );
    Ok(())
}
