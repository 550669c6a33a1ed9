//! Fusion groups: one address space, otherwise separate containers.

use crate::harness::case::{Case, SkipCause, skip};
use crate::harness::container::Container;
use crate::harness::context::Context;
use crate::harness::host;
use crate::harness::kcmp::share_address_space;
use anyhow::{Context as _, Result, ensure};
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

/// The pid that the engine sees is the anchor's in a shared instance; the container's first
/// process is what `pegasus inspect` names.
fn main_pid(context: &Context, container: &Container) -> Result<i32> {
    let inspected = inspected(context, container)?;
    let pid = inspected["pid"]
        .as_i64()
        .or_else(|| inspected["main_pid"].as_i64())
        .context("inspect names no pid")?;
    Ok(i32::try_from(pid)?)
}

fn inspected(context: &Context, container: &Container) -> Result<serde_json::Value> {
    let pegasus = context.pegasus()?;
    let root = engine_root(context)?;
    let done = context
        .host(
            pegasus,
            &[
                "--root",
                &root,
                "inspect",
                "--format",
                "json",
                &container.id()?,
            ],
        )?
        .expect(0)?;
    serde_json::from_str(&done.stdout).with_context(|| done.describe())
}

/// Where the engine tells its runtimes to keep their state.
fn engine_root(context: &Context) -> Result<String> {
    let exec_root = context.site().socket.with_file_name("exec");
    Ok(exec_root.join("runtime-runc/moby").display().to_string())
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
    let (first, second) = (inspected(context, &one)?, inspected(context, &other)?);
    let same = |key: &str| first[key] == second[key] && !first[key].is_null();
    ensure!(
        same("instance") || same("instance_pid") || same("address_space"),
        "{first:#}\n{second:#}"
    );
    let text = context
        .host(
            context.pegasus()?,
            &["--root", &engine_root(context)?, "inspect", &one.id()?],
        )?
        .expect(0)?;
    ensure!(text.stdout.contains(group.name()), "{}", text.describe());
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

fn said(context: &Context) -> Result<()> {
    let group = context.group()?;
    let container = sleeper(context, group.runtime(), &[])?;
    let text = context
        .host(
            context.pegasus()?,
            &[
                "--root",
                &engine_root(context)?,
                "inspect",
                &container.id()?,
            ],
        )?
        .expect(0)?;
    ensure!(
        text.stdout.contains("isolation") && text.stdout.contains("none"),
        "{}",
        text.describe()
    );
    Ok(())
}

fn trace(context: &Context) -> Result<()> {
    let group = context.group()?;
    let container = context
        .on(group.runtime())
        .shell("while :; do :; read -t 0.01 x < /dev/zero; done")
        .start()
        .or_else(|_| sleeper(context, group.runtime(), &[]))?;
    context.eventually(Duration::from_secs(10), || {
        let found = inspected(context, &container)?;
        let counters = &found["counters"];
        let sum = ["rewritten", "trapped"]
            .iter()
            .filter_map(|key| counters[key].as_u64())
            .sum::<u64>();
        ensure!(sum > 0, "no call was counted: {found:#}");
        Ok(())
    })?;
    let help = context.host(context.pegasus()?, &["trace", "--help"])?;
    if help.status != 0 {
        return Err(skip(SkipCause::Setup, "pegasus trace does not exist yet"));
    }
    Ok(())
}
