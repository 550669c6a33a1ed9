//! What is measured: the rows of the project's table of least results.

use super::heap;
use super::report::Figure;
use anyhow::{Context as _, Result, ensure};
use pegasus_tests::harness::container::Container;
use pegasus_tests::harness::context::Context;
use pegasus_tests::harness::host;
use pegasus_tests::harness::inspect::Inspected;
use std::fs;
use std::time::{Duration, Instant};

/// A job that both runtimes do; the fewer of its unit the better.
#[derive(Debug)]
pub struct Compared {
    pub name: &'static str,
    pub slug: &'static str,
    pub unit: &'static str,
    pub ratio_max: f64,
    pub measure: fn(&Context, &str) -> Result<f64>,
}

/// A property of Pegasus alone.
#[derive(Debug)]
pub struct Absolute {
    pub name: &'static str,
    pub slug: &'static str,
    pub measure: fn(&Context) -> Result<Figure>,
}

pub const COMPARED: &[Compared] = &[
    Compared {
        name: "getppid(2) in a loop",
        slug: "getppid",
        unit: "ns per call",
        ratio_max: 1.7,
        measure: getppid,
    },
    Compared {
        name: "Python's start-up, 50 times",
        slug: "python",
        unit: "s",
        ratio_max: 1.1,
        measure: python,
    },
    Compared {
        name: "tar of a source tree",
        slug: "tar",
        unit: "s",
        ratio_max: 1.1,
        measure: tar,
    },
    Compared {
        name: "sha256 of 1 GiB",
        slug: "sha256",
        unit: "s",
        ratio_max: 1.1,
        measure: sha256,
    },
    Compared {
        name: "docker run … /bin/true",
        slug: "start",
        unit: "s",
        ratio_max: 1.0,
        measure: start,
    },
];

pub const ABSOLUTE: &[Absolute] = &[
    Absolute {
        name: "calls through rewritten sites, redis-benchmark",
        slug: "rewritten",
        measure: rewritten,
    },
    Absolute {
        name: "memory of a second sleep container",
        slug: "memory",
        measure: memory,
    },
    Absolute {
        name: "CPU of an idle shared instance",
        slug: "idle",
        measure: idle,
    },
    Absolute {
        name: "shared heap of an idle connection, nothing ever sent",
        slug: "heap-silent",
        measure: heap::silent,
    },
    Absolute {
        name: "shared heap of an idle connection, after one exchange",
        slug: "heap-used",
        measure: heap::used_once,
    },
];

fn getppid(context: &Context, runtime: &str) -> Result<f64> {
    Ok(context
        .on(runtime)
        .program("getppid_loop", [""; 0])
        .output()?
        .parse()?)
}

/// Times a script within a container, so that the container's own start does not count.
fn timed(context: &Context, runtime: &str, prepare: &str, job: &str) -> Result<f64> {
    let script =
        format!("{prepare}; begin=$(date +%s.%N); {job}; end=$(date +%s.%N); echo $begin $end");
    let said = context
        .on(runtime)
        .command(["/bin/bash", "-c", &script])
        .output()?;
    let times: Vec<f64> = said
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| said.clone())?;
    ensure!(times.len() == 2, "{said}");
    Ok(times[1] - times[0])
}

fn python(context: &Context, runtime: &str) -> Result<f64> {
    timed(
        context,
        runtime,
        ":",
        "for i in $(seq 50); do python3 -c 'import json, subprocess' || exit 1; done",
    )
}

/// Python's library stands for a source tree: some 1500 files.
fn tar(context: &Context, runtime: &str) -> Result<f64> {
    timed(
        context,
        runtime,
        "cat $(find /usr/lib/python3.11 -type f) > /dev/null",
        "for i in 1 2 3 4 5; do tar -cf /tmp/t.tar -C /usr/lib python3.11 || exit 1; done",
    )
}

fn sha256(context: &Context, runtime: &str) -> Result<f64> {
    timed(
        context,
        runtime,
        "truncate -s 1G /tmp/gib",
        "sha256sum /tmp/gib > /dev/null",
    )
}

fn start(context: &Context, runtime: &str) -> Result<f64> {
    let began = Instant::now();
    for _ in 0..3 {
        context
            .on(runtime)
            .command(["/bin/true"])
            .run()?
            .expect(0)?;
    }
    Ok(began.elapsed().as_secs_f64() / 3.0)
}

fn rewritten(context: &Context) -> Result<Figure> {
    let group = context.group()?;
    let server = context
        .on(group.runtime())
        .command(["redis-server", "--save", ""])
        .start()?;
    server.wait_for_log("Ready to accept connections")?;
    let network = format!("container:{}", server.name);
    let bench = [
        "redis-benchmark",
        "-n",
        "300000",
        "-c",
        "50",
        "-q",
        "-t",
        "set,get",
    ];
    context
        .on(group.runtime())
        .network(&network)
        .command(bench)
        .run()?
        .expect(0)?;
    let (rewritten, trapped) = Inspected::of(context, &server)?.calls();
    ensure!(rewritten + trapped > 0, "nothing was counted");
    let share = 100.0 * rewritten as f64 / (rewritten + trapped) as f64;
    Ok(Figure {
        name: "calls through rewritten sites in a redis-benchmark run",
        wanted: "at least 99.9 %".to_owned(),
        found: format!("{share:.3} % of {}", rewritten + trapped),
        is_met: share >= 99.9,
    })
}

fn sleepers<'c, 'a>(
    context: &'c Context<'a>,
    runtime: &str,
    count: usize,
) -> Result<Vec<Container<'c, 'a>>> {
    (0..count)
        .map(|_| context.on(runtime).command(["sleep", "600"]).start())
        .collect()
}

/// Proportional set size of an address space, which its sharers would otherwise count each.
fn memory_kib(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .context("no Pss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The shared address space's growth, and the anchor beside it.
fn memory(context: &Context) -> Result<Figure> {
    let group = context.group()?;
    let total = |containers: &[Container]| -> Result<u64> {
        let instance = memory_kib(Inspected::of(context, &containers[0])?.main_pid()?)?;
        let anchors = containers
            .iter()
            .map(|container| memory_kib(container.pid()?))
            .sum::<Result<u64>>();
        Ok(instance + anchors?)
    };
    let mut containers = sleepers(context, group.runtime(), 1)?;
    std::thread::sleep(Duration::from_secs(1));
    let one = total(&containers)?;
    containers.extend(sleepers(context, group.runtime(), 1)?);
    std::thread::sleep(Duration::from_secs(1));
    let added = total(&containers)?.saturating_sub(one);
    Ok(Figure {
        name: "memory that a second sleep container adds to a shared instance (Pss, its anchor included)",
        wanted: "at most 2 MiB".to_owned(),
        found: format!("{:.2} MiB", added as f64 / 1024.0),
        is_met: added <= 2048,
    })
}

/// Scheduler time of every task that shares the address space of `pid`, in nanoseconds, and how
/// often they were switched to.
fn cpu_of_sharers(pid: i32) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for other in host::processes()?.into_keys() {
        let shares = pegasus_tests::harness::kcmp::share_address_space(pid, other).unwrap_or(false);
        for task in fs::read_dir(format!("/proc/{other}/task"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|_| shares)
        {
            let text = fs::read_to_string(task.path().join("schedstat"))?;
            let fields: Vec<u64> = text
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            sum.0 += fields.first().copied().unwrap_or(0);
            sum.1 += fields.get(2).copied().unwrap_or(0);
        }
    }
    Ok(sum)
}

fn idle(context: &Context) -> Result<Figure> {
    let group = context.group()?;
    let containers = sleepers(context, group.runtime(), 10)?;
    let pid = Inspected::of(context, &containers[0])?.main_pid()?;
    std::thread::sleep(Duration::from_secs(3));
    let before = cpu_of_sharers(pid)?;
    std::thread::sleep(Duration::from_secs(10));
    let after = cpu_of_sharers(pid)?;
    let (used_ns, switches) = (after.0 - before.0, after.1 - before.1);
    Ok(Figure {
        name: "CPU used by an idle shared instance with 10 idle containers over 10 s",
        wanted: "0".to_owned(),
        found: format!("{used_ns} ns in {switches} time slices"),
        is_met: used_ns == 0,
    })
}
