//! A container's life through the engine: start in the background, exec, logs, stop, kill, remove.

use crate::harness::case::Case;
use crate::harness::context::Context;
use crate::harness::host;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

const STOP_PROMPTLY: Duration = Duration::from_secs(6);

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("lifecycle::detached_and_logs", detached),
        Case::each("lifecycle::exec", exec),
        Case::each("lifecycle::exec_statuses", exec_statuses),
        Case::each("lifecycle::exec_many_at_once", exec_many),
        Case::each("lifecycle::exec_as_user_with_environment", exec_options),
        Case::each("lifecycle::exec_privileged", exec_privileged),
        Case::each("lifecycle::exec_ends_with_pid_1", exec_ends),
        Case::each("lifecycle::exec_ends_with_a_killed_pid_1", exec_ends_killed),
        Case::each("lifecycle::exec_while_pid_1_ends", exec_into_the_end).limit(120),
        Case::each("lifecycle::stop_with_handler", stop_handled),
        Case::each("lifecycle::stop_by_default_action", stop_default),
        Case::each("lifecycle::stop_kills_after_its_time", stop_ignored),
        Case::each("lifecycle::kill_with_signals", kill),
        Case::each("lifecycle::remove_running", remove),
        Case::each("lifecycle::restart", restart),
        Case::each("lifecycle::create_then_start", create_then_start),
        Case::each("lifecycle::pause", pause),
        Case::each("lifecycle::top_and_stats", top),
        Case::each("lifecycle::copy_and_commit", copy),
        Case::each("lifecycle::health_check", health),
        Case::each("lifecycle::children_end_with_pid_1", children),
        Case::each("lifecycle::many_at_once", many).limit(120),
    ]
}

fn detached(context: &Context) -> Result<()> {
    let container = context
        .container()
        .shell("echo one; echo two >&2; sleep 0.3; echo three; sleep 300")
        .start()?;
    let logs = container.wait_for_log("three")?;
    ensure!(logs.contains("one\n") && logs.contains("two\n"), "{logs}");
    ensure!(container.inspect("{{.State.Status}}")? == "running");
    ensure!(host::is_alive(container.pid()?));
    Ok(())
}

fn exec(context: &Context) -> Result<()> {
    let container = context
        .container()
        .options(["-e", "FROM=run", "-w", "/usr"])
        .command(["sleep", "300"])
        .start()?;
    ensure!(container.ask(["pwd"])? == "/usr");
    ensure!(container.ask(["sh", "-c", "echo $FROM; cat /proc/1/comm"])? == "run\nsleep");
    ensure!(container.ask(["sh", "-c", "test $$ -gt 1 && echo later-pid"])? == "later-pid");
    container
        .exec(["sh", "-c", "echo kept > /tmp/file"])?
        .expect(0)?;
    ensure!(container.ask(["cat", "/tmp/file"])? == "kept");
    let first = container.pid()?;
    for name in ["pid", "mnt", "net", "uts", "ipc"] {
        let inside = container.ask(["readlink", &format!("/proc/self/ns/{name}")])?;
        ensure!(
            inside == host::namespace(first, name)?,
            "exec is in another {name} namespace"
        );
    }
    Ok(())
}

fn exec_statuses(context: &Context) -> Result<()> {
    let container = context.container().command(["sleep", "300"]).start()?;
    container.exec(["sh", "-c", "exit 17"])?.expect(17)?;
    container.exec(["sh", "-c", "kill -9 $$"])?.expect(137)?;
    let reference = context.reference().command(["sleep", "300"]).start()?;
    for program in ["no-such-program", "/no/such", "/etc/passwd", "/etc"] {
        let (expected, found) = (reference.exec([program])?, container.exec([program])?);
        ensure!(
            found.status == expected.status,
            "{}\n{}",
            expected.describe(),
            found.describe()
        );
    }
    container
        .exec(["/opt/programs/faults", "segv"])?
        .expect(139)?;
    ensure!(container.ask(["echo", "well"])? == "well");
    Ok(())
}

fn exec_many(context: &Context) -> Result<()> {
    let container = context.container().command(["sleep", "300"]).start()?;
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..6)
            .map(|n| {
                scope.spawn({
                    let container = &container;
                    move || container.ask(["sh", "-c", &format!("sleep 0.2; echo {n}")])
                })
            })
            .collect();
        for (n, thread) in started.into_iter().enumerate() {
            let said = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            ensure!(said == n.to_string(), "exec {n} said {said}");
        }
        Ok(())
    })
}

fn exec_options(context: &Context) -> Result<()> {
    let container = context.container().command(["sleep", "300"]).start()?;
    let done = container
        .exec_with(
            ["-u", "1000:1000", "-e", "X=y z", "-w", "/tmp"],
            ["sh", "-c", "id -u; echo $X; pwd; echo > /x || echo refused"],
        )?
        .expect(0)?;
    ensure!(
        done.stdout == "1000\ny z\n/tmp\nrefused\n",
        "{}",
        done.describe()
    );
    Ok(())
}

/// An exec'd process may be given more than the container has.
fn exec_privileged(context: &Context) -> Result<()> {
    let show = [
        "sh",
        "-c",
        "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status",
    ];
    let ask = |runtime: &str| -> Result<(String, String)> {
        let container = context
            .on(runtime)
            .options(["--cap-drop", "ALL"])
            .command(["sleep", "300"])
            .start()?;
        if !context.grants_privileged()? {
            return Ok((container.exec(show)?.expect(0)?.stdout, String::new()));
        }
        let privileged = container
            .exec_with(["--privileged"], show)?
            .expect(0)?
            .stdout;
        Ok((container.exec(show)?.expect(0)?.stdout, privileged))
    };
    let (expected, found) = (ask("runc")?, ask(context.runtime())?);
    ensure!(found == expected, "runc: {expected:?}\nfound: {found:?}");
    Ok(())
}

/// What has been exec'ed is killed with the container's first process, whoever runs it, and its client hears of it.
fn exec_ends(context: &Context) -> Result<()> {
    // One that outlives its own parent, another that has children, and one that is about to end by itself.
    let lasting = "(sleep 300 &); touch /stop/now; exec sleep 300";
    let ways = [
        (lasting, &[137][..]),
        ("sleep 300 & touch /stop/now; wait", &[137]),
        ("touch /stop/now", &[0, 137]),
    ];
    for user in ["root", "www-data"] {
        for (script, expected) in ways {
            for spec in [context.reference(), context.container()] {
                let first = "while [ ! -e /stop/now ]; do sleep 0.02; done; exit 3";
                let container = spec
                    .options(["--tmpfs", "/stop:mode=1777", "--user", user])
                    .shell(first)
                    .start()?;
                let done = container.exec_with(["--user", "root"], ["sh", "-c", script])?;
                ensure!(
                    expected.contains(&done.status),
                    "{user}: {}",
                    done.describe()
                );
                ensure!(container.wait()? == 3);
                container.docker(&["rm"])?;
            }
        }
    }
    Ok(())
}

fn exec_ends_killed(context: &Context) -> Result<()> {
    for spec in [context.reference(), context.container()] {
        for _ in 0..3 {
            let container = spec.clone().command(["sleep", "300"]).start()?;
            let done = std::thread::scope(|scope| {
                let client =
                    scope.spawn(|| container.exec(["sh", "-c", "echo > /tmp/up; sleep 300"]));
                context.eventually(Duration::from_secs(10), || {
                    container.exec(["test", "-e", "/tmp/up"])?.expect(0)
                })?;
                container.docker(&["kill"])?;
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))?
            })?;
            ensure!(done.status == 137, "{}", done.describe());
            ensure!(container.wait()? == 137);
        }
    }
    Ok(())
}

/// Whoever wants to exec just as the container ends is told something, and soon.
fn exec_into_the_end(context: &Context) -> Result<()> {
    for round in 0..8 {
        let lasts = format!("0.{round}5");
        let container = context.container().command(["sleep", &lasts]).start()?;
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        while container.exec(["sh", "-c", "true"])?.status == 0 {}
                        Ok(())
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| {
                client
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))?
            })
        })?;
        ensure!(container.wait()? == 0);
    }
    Ok(())
}

fn stop_handled(context: &Context) -> Result<()> {
    let container = context
        .container()
        .shell("trap 'echo stopping; exit 9' TERM; echo ready; while :; do sleep 0.1; done")
        .start()?;
    container.wait_for_log("ready")?;
    let began = Instant::now();
    container.docker(&["stop"])?;
    ensure!(
        began.elapsed() < STOP_PROMPTLY,
        "stop took {:?}",
        began.elapsed()
    );
    ensure!(
        container.wait()? == 9 && container.logs()?.contains("stopping"),
        "{}",
        container.logs()?
    );
    Ok(())
}

/// Pid 1 without a handler does not die of SIGTERM; a child of it does.
fn stop_default(context: &Context) -> Result<()> {
    let container = context
        .container()
        .options(["--stop-timeout", "1"])
        .command(["sleep", "300"])
        .start()?;
    container.docker(&["stop"])?;
    ensure!(container.wait()? == 137);
    let container = context
        .container()
        .options(["--init"])
        .shell("echo up; exec sleep 300")
        .start()?;
    container.wait_for_log("up")?;
    let began = Instant::now();
    container.docker(&["stop"])?;
    ensure!(container.wait()? == 143 && began.elapsed() < STOP_PROMPTLY);
    Ok(())
}

fn stop_ignored(context: &Context) -> Result<()> {
    let container = context
        .container()
        .shell("trap '' TERM; echo ready; while :; do sleep 0.1; done")
        .start()?;
    container.wait_for_log("ready")?;
    container.docker(&["stop", "--time", "1"])?;
    ensure!(container.wait()? == 137);
    Ok(())
}

fn kill(context: &Context) -> Result<()> {
    let script = "import signal, sys, time\nfor s in (1, 10, 12, 28, 34, 40, 64): signal.signal(s, lambda n, f: print('got', n, flush=True))\nprint('ready', flush=True)\nwhile True: time.sleep(60)";
    let container = context
        .container()
        .command(["python3", "-c", script])
        .start()?;
    container.wait_for_log("ready")?;
    for signal in ["HUP", "USR1", "12", "WINCH", "RTMIN", "40", "RTMAX"] {
        container.docker(&["kill", "--signal", signal])?;
    }
    for number in [1, 10, 12, 28, 34, 40, 64] {
        container.wait_for_log(&format!("got {number}\n"))?;
    }
    container.docker(&["kill"])?;
    ensure!(container.wait()? == 137);
    Ok(())
}

fn remove(context: &Context) -> Result<()> {
    let container = context.container().command(["sleep", "300"]).start()?;
    let (pid, name) = (container.pid()?, container.name.clone());
    container.docker(&["rm", "--force"])?;
    context.eventually(Duration::from_secs(5), || {
        ensure!(!host::is_alive(pid), "process {pid} is still alive");
        Ok(())
    })?;
    ensure!(
        context.docker(["inspect", &name])?.status != 0,
        "{name} still exists"
    );
    Ok(())
}

fn restart(context: &Context) -> Result<()> {
    let container = context
        .container()
        .shell("echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done")
        .start()?;
    container.wait_for_log("started")?;
    let before = container.pid()?;
    container.docker(&["restart", "--time", "5"])?;
    ensure!(container.pid()? != before);
    context.eventually(Duration::from_secs(5), || {
        ensure!(
            container.logs()?.matches("started").count() == 2,
            "{}",
            container.logs()?
        );
        Ok(())
    })
}

fn create_then_start(context: &Context) -> Result<()> {
    let container = context.container().shell("echo ran; exit 6").create()?;
    ensure!(container.inspect("{{.State.Status}}")? == "created");
    for _ in 0..2 {
        let done = context.docker(["start", "--attach", &container.name])?;
        ensure!(
            done.status == 6 && done.stdout == "ran\n",
            "{}",
            done.describe()
        );
    }
    Ok(())
}

fn pause(context: &Context) -> Result<()> {
    let container = context
        .container()
        .shell("i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done")
        .start()?;
    container.wait_for_log("tick 3")?;
    container.docker(&["pause"])?;
    let before = container.logs()?;
    std::thread::sleep(Duration::from_millis(600));
    let after = container.logs()?;
    container.docker(&["unpause"])?;
    ensure!(
        after.lines().count() <= before.lines().count() + 1,
        "it went on while paused"
    );
    let next = format!("tick {}", after.lines().count() + 3);
    container.wait_for_log(&next)?;
    Ok(())
}

fn top(context: &Context) -> Result<()> {
    let container = context.container().shell("sleep 300 & sleep 300").start()?;
    context.eventually(Duration::from_secs(5), || {
        let shown = container.docker(&["top"])?.stdout;
        ensure!(shown.matches("sleep 300").count() >= 2, "{shown}");
        Ok(())
    })?;
    let stats = context
        .docker([
            "stats",
            "--no-stream",
            "--format",
            "{{.PIDs}}",
            &container.name,
        ])?
        .expect(0)?;
    ensure!(stats.text().parse::<u32>()? >= 3, "{}", stats.describe());
    Ok(())
}

fn copy(context: &Context) -> Result<()> {
    let container = context
        .container()
        .shell("echo inside > /made; sleep 300")
        .start()?;
    context.eventually(Duration::from_secs(5), || {
        container.exec(["test", "-s", "/made"])?.expect(0)
    })?;
    let directory = context.scratch()?;
    context
        .docker([
            "cp",
            &format!("{}:/made", container.name),
            &directory.display().to_string(),
        ])?
        .expect(0)?;
    ensure!(std::fs::read_to_string(directory.join("made"))? == "inside\n");
    context
        .docker([
            "cp",
            &directory.join("made").display().to_string(),
            &format!("{}:/tmp/back", container.name),
        ])?
        .expect(0)?;
    ensure!(container.ask(["cat", "/tmp/back"])? == "inside");
    ensure!(container.docker(&["diff"])?.stdout.contains("A /made"));
    Ok(())
}

fn health(context: &Context) -> Result<()> {
    let options = [
        "--health-cmd",
        "test -e /healthy",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
    ];
    let container = context
        .container()
        .options(options)
        .shell("sleep 0.2; touch /healthy; sleep 300")
        .start()?;
    context.eventually(Duration::from_secs(20), || {
        let state = container.inspect("{{.State.Health.Status}}")?;
        ensure!(state == "healthy", "{state}");
        Ok(())
    })
}

fn children(context: &Context) -> Result<()> {
    let container = context
        .container()
        .shell(
            "sleep 12345 & setsid sleep 12345 & (sleep 12345 &) ; sleep 0.3; echo ready; sleep 0.3",
        )
        .start()?;
    container.wait_for_log("ready")?;
    container.wait()?;
    let cgroup = context.site().cgroup.clone();
    let id = container.id()?;
    context.eventually(Duration::from_secs(5), || {
        let left: Vec<_> = host::cgroup_directories(&format!("{cgroup}/{id}"))
            .into_iter()
            .collect();
        ensure!(left.is_empty(), "cgroups are left: {left:?}");
        Ok(())
    })
}

fn many(context: &Context) -> Result<()> {
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|n| {
                scope.spawn(move || -> Result<()> {
                    for round in 0..3 {
                        let said = context
                            .container()
                            .shell(&format!("echo {n}-{round}; exit 0"))
                            .output()?;
                        ensure!(said == format!("{n}-{round}"), "{said}");
                    }
                    Ok(())
                })
            })
            .collect();
        runs.into_iter().try_for_each(|run| {
            run.join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })
    })
}
