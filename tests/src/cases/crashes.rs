//! Things that go wrong in one container, or are killed, while neighbours go on.

use super::seeing::{pegasus, series};
use crate::harness::case::Case;
use crate::harness::container::Container;
use crate::harness::context::{Context, GroupGuard};
use crate::harness::host;
use crate::harness::inspect::Inspected;
use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::group("crashes::neighbour_of_crashes", |context| {
            beside_redis(context, crash)
        })
        .limit(120),
        Case::group("crashes::neighbour_of_descriptor_exhaustion", |context| {
            beside_redis(context, exhaust)
        })
        .limit(120),
        Case::group("crashes::neighbour_of_unknown_calls", |context| {
            beside_redis(context, unknown)
        })
        .limit(120),
        Case::group("crashes::neighbour_of_thread_exhaustion", |context| {
            beside_redis(context, threads)
        })
        .limit(120),
        Case::group("crashes::neighbour_of_memory_exhaustion", |context| {
            beside_redis(context, memory)
        })
        .limit(120),
        Case::group("crashes::neighbours_that_compute", |context| {
            beside_computation(context, &[])
        })
        .limit(120),
        Case::group("crashes::neighbours_that_compute_on_one_cpu", |context| {
            beside_computation(context, &[super::one_cpu::one_cpu()?])
        })
        .limit(120),
        Case::each("crashes::kill_first_process", kill_first),
        Case::group("crashes::kill_home_task", kill_home),
        Case::group("crashes::kill_anchor", kill_anchor),
        Case::group("crashes::kill_instance", kill_instance).limit(120),
        Case::each("crashes::kill_shim", kill_shim),
    ]
}

type Deed = fn(&Context, &GroupGuard) -> Result<()>;

/// Does `deed` in the group of a redis that is being asked all the while.
fn beside_redis(context: &Context, deed: Deed) -> Result<()> {
    let group = context.group()?;
    let redis = context
        .on(group.runtime())
        .command(["redis-server", "--save", ""])
        .start()?;
    redis.wait_for_log("Ready to accept connections")?;
    redis.ask(["redis-cli", "set", "alive", "yes"])?;
    deed(context, &group)?;
    ensure!(redis.ask(["redis-cli", "get", "alive"])? == "yes");
    let latency = redis.ask([
        "sh",
        "-c",
        "redis-benchmark -n 2000 -q -t get | tr '\\r' '\\n' | grep 'per second'",
    ])?;
    ensure!(latency.contains("requests per second"), "{latency}");
    ensure!(redis.inspect("{{.State.Running}}")? == "true");
    Ok(())
}

fn crash(context: &Context, group: &GroupGuard) -> Result<()> {
    for how in ["segv", "fpe", "ill", "overflow", "jump", "blocked"] {
        let expected = context.reference().program("faults", [how]).run()?;
        let found = context.on(group.runtime()).program("faults", [how]).run()?;
        ensure!(
            found.status == expected.status,
            "{how}: {} instead of {}",
            found.status,
            expected.status
        );
    }
    Ok(())
}

fn exhaust(context: &Context, group: &GroupGuard) -> Result<()> {
    let hog = context
        .on(group.runtime())
        .program("descriptors", ["hold"])
        .start()?;
    hog.wait_for_log("holding")?;
    ensure!(
        context
            .on(group.runtime())
            .shell("exec 3< /etc/passwd; head -1 <&3")
            .output()?
            .starts_with("root:")
    );
    Ok(())
}

fn unknown(context: &Context, group: &GroupGuard) -> Result<()> {
    let done = context
        .on(group.runtime())
        .program("unknown_calls", [""; 0])
        .run()?
        .expect(0)?;
    ensure!(
        done.stdout
            .contains("call 4096: -1 Function not implemented"),
        "{}",
        done.describe()
    );
    Ok(())
}

fn threads(context: &Context, group: &GroupGuard) -> Result<()> {
    let script = "import threading, time\n\
        threading.stack_size(65536)\n\
        try:\n\
        \x20   for n in range(1000): threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n\
        except RuntimeError as e: print('refused', e)\n\
        else: print('all')\n";
    let done = context
        .on(group.runtime())
        .options(["--pids-limit", "100"])
        .command(["python3", "-c", script])
        .run()?
        .expect(0)?;
    ensure!(done.stdout.starts_with("refused"), "{}", done.describe());
    Ok(())
}

fn memory(context: &Context, group: &GroupGuard) -> Result<()> {
    let script = "import mmap, resource\n\
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n\
        kept = []\n\
        try:\n\
        \x20   while True: kept.append(mmap.mmap(-1, 64 << 20))\n\
        except (OSError, MemoryError): print('refused after', len(kept) > 4, len(kept) < 17)\n";
    let done = context
        .on(group.runtime())
        .command(["python3", "-c", script])
        .run()?
        .expect(0)?;
    ensure!(
        done.stdout == "refused after True True\n",
        "{}",
        done.describe()
    );
    Ok(())
}

/// Two that compute without end do not keep a pair that talks over a ring from doing so.
fn beside_computation(context: &Context, options: &[String]) -> Result<()> {
    let group = context.group()?;
    let on = || context.on(group.runtime()).options(options);
    let computing = (0..2)
        .map(|_| on().program("bench_busy", [""; 0]).start())
        .collect::<Result<Vec<_>>>()?;
    for one in &computing {
        one.wait_for_log("computing")?;
    }
    let server = on().program("bench_echo", ["server", "7000"]).start()?;
    server.wait_for_log("listening")?;
    let client = on()
        .network(&format!("container:{}", server.name))
        .program("bench_echo", ["client", "127.0.0.1", "7000", "60000"])
        .start()?;
    let labels = [("container", client.id()?)];
    let labels = labels.each_ref().map(|(name, id)| (*name, id.as_str()));
    let sent = || -> Result<f64> {
        let text = pegasus(context, &["metrics"])?.expect(0)?.stdout;
        let sent = series(&text, "pegasus_container_ring_sent_bytes_total", &labels)?;
        sent.with_context(|| format!("nothing over rings:\n{text}"))
    };
    // It goes on, again and again, while they compute.
    let mut before = context.eventually(context.remaining(), sent)?;
    for _ in 0..3 {
        before = context.eventually(context.remaining(), || {
            let now = sent()?;
            ensure!(now > before + 100.0, "the pair stands still at {now}");
            Ok(now)
        })?;
    }
    ensure!(client.inspect("{{.State.Running}}")? == "true");
    Ok(())
}

fn kill_pid(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("killing {pid}"))
}

/// After a violent end the engine knows the status, removal works and nothing is left behind.
fn ends_well(context: &Context, container: &Container) -> Result<()> {
    let status = container.wait()?;
    ensure!(status == 137, "exit status {status}");
    let id = container.id()?;
    container.docker(&["rm", "--force"])?;
    context.eventually(Duration::from_secs(10), || {
        let left: Vec<_> = host::cgroup_directories(&format!("{}/{id}", context.site().cgroup));
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    })
}

fn kill_first(context: &Context) -> Result<()> {
    let container = context.container().shell("sleep 300 & sleep 300").start()?;
    kill_pid(container.pid()?)?;
    ends_well(context, &container)?;
    ensure!(context.container().command(["echo", "next"]).output()? == "next");
    Ok(())
}

/// Host pids of the container's home task and of its instance.
fn pids(context: &Context, container: &Container) -> Result<(i32, i32)> {
    let inspected = Inspected::of(context, container)?;
    ensure!(
        inspected.0["instance"] == "shared",
        "not fused: {:#}",
        inspected.0
    );
    Ok((inspected.main_pid()?, inspected.instance_pid()?))
}

fn survivor_answers(survivor: &Container) -> Result<()> {
    ensure!(
        survivor.inspect("{{.State.Running}}")? == "true",
        "the neighbour has ended: {}",
        survivor.logs()?
    );
    ensure!(survivor.ask(["echo", "here"])? == "here");
    Ok(())
}

fn pair<'c, 'a>(
    context: &'c Context<'a>,
    group: &GroupGuard,
) -> Result<(Container<'c, 'a>, Container<'c, 'a>)> {
    let start = || {
        context
            .on(group.runtime())
            .command(["sleep", "300"])
            .start()
    };
    Ok((start()?, start()?))
}

fn kill_home(context: &Context) -> Result<()> {
    let group = context.group()?;
    let (victim, survivor) = pair(context, &group)?;
    kill_pid(pids(context, &victim)?.0)?;
    ends_well(context, &victim)?;
    survivor_answers(&survivor)?;
    ensure!(
        context
            .on(group.runtime())
            .command(["echo", "next"])
            .output()?
            == "next"
    );
    Ok(())
}

fn kill_anchor(context: &Context) -> Result<()> {
    let group = context.group()?;
    let (victim, survivor) = pair(context, &group)?;
    let (home, _) = pids(context, &victim)?;
    kill_pid(victim.pid()?)?;
    ends_well(context, &victim)?;
    context.eventually(Duration::from_secs(5), || {
        ensure!(
            !host::is_alive(home),
            "home task {home} lives on without its anchor"
        );
        Ok(())
    })?;
    survivor_answers(&survivor)
}

fn kill_instance(context: &Context) -> Result<()> {
    let group = context.group()?;
    let (one, other) = pair(context, &group)?;
    let (home, instance) = pids(context, &one)?;
    kill_pid(instance)?;
    ends_well(context, &one)?;
    ends_well(context, &other)?;
    ensure!(!host::is_alive(home));
    ensure!(
        context
            .on(group.runtime())
            .command(["echo", "next"])
            .output()?
            == "next"
    );
    Ok(())
}

fn kill_shim(context: &Context) -> Result<()> {
    let container = context.container().command(["sleep", "300"]).start()?;
    let (pid, id) = (container.pid()?, container.id()?);
    let shim = host::processes()?
        .into_iter()
        .find(|(_, line)| line.contains("containerd-shim") && line.contains(&id));
    kill_pid(shim.context("no shim")?.0)?;
    context.eventually(Duration::from_secs(20), || {
        ensure!(!host::is_alive(pid), "process {pid} outlived its shim");
        ensure!(container.inspect("{{.State.Running}}")? == "false");
        Ok(())
    })?;
    ensure!(context.container().command(["echo", "next"]).output()? == "next");
    Ok(())
}
