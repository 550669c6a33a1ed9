//! Connections between processes of one group, which may go over shared memory once they are made:
//! whatever a program can see of them is what it sees under runc.
//!
//! The programs play both sides of their scenarios, as threads and as parent and child, and one side
//! each in two containers with one network. See `tests/programs/tcp_pair.h`.

use crate::harness::case::Case;
use crate::harness::container::Spec;
use crate::harness::context::Context;
use crate::harness::site::REFERENCE;
use anyhow::{Context as _, Result, anyhow, ensure};
use std::thread;
use std::time::Duration;

pub const PLAYED: &[&str] = &[
    "tcp_accept",
    "tcp_addresses",
    "tcp_close",
    "tcp_flags",
    "tcp_options",
    "tcp_calls",
    "tcp_memory",
    "tcp_threads",
    "tcp_inherit",
    "tcp_signals",
    "tcp_many",
    "epoll_modes",
    "epoll_threads",
    "epoll_mix",
];

/// The port of the one server of its network namespace.
const PORT: &str = "7000";

pub fn cases() -> Vec<Case> {
    let together = PLAYED.iter().map(|program| {
        Case::each(format!("local_tcp::{program}"), move |context| {
            compare(context, program, &["threads", "fork"])
        })
        .limit(120)
    });
    let apart = PLAYED.iter().map(|program| {
        Case::own(
            format!("local_tcp::{program}_between_containers"),
            move |context| between_containers(context, program),
        )
        .limit(120)
    });
    let more = [
        Case::each("local_tcp::replaced", |context| {
            compare(context, "tcp_inherit", &["replace"])
        }),
        Case::each("local_tcp::killed", |context| {
            compare(context, "tcp_kill", &[])
        }),
        Case::own("local_tcp::strangers", strangers).limit(120),
        Case::own("local_tcp::killed_container", killed_container),
        Case::own("local_tcp::hundred_thousand", hundred_thousand).limit(180),
        Case::each("local_tcp::soak", soak).limit(120),
        Case::own("local_tcp::soak_between_containers", soak_between).limit(120),
        Case::each("local_tcp::bridge", bridge),
        Case::each("local_tcp::bridge_with_dropped_packets", dropped),
    ];
    together.chain(apart).chain(more).collect()
}

/// Such containers have IPv6 on their loopback interface, whatever the engine's own default.
pub fn with_ipv6<'c, 'a>(spec: Spec<'c, 'a>) -> Spec<'c, 'a> {
    spec.options(["--sysctl=net.ipv6.conf.all.disable_ipv6=0"])
}

/// Does both at the same time: they mostly wait.
pub fn at_once<A: Send, B>(
    one: impl FnOnce() -> Result<A> + Send,
    other: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        (one.join(), other)
    });
    Ok((one.map_err(|_| anyhow!("a thread panicked"))??, other?))
}

fn compare(context: &Context, program: &str, args: &[&str]) -> Result<()> {
    let build = |spec| with_ipv6(spec).program(program, args);
    let (expected, found) = at_once(
        || build(context.reference()).run()?.expect(0),
        || build(context.container()).run()?.expect(0),
    )?;
    ensure!(!expected.stdout.is_empty(), "{}", expected.describe());
    ensure!(
        found.stdout == expected.stdout,
        "{program} differs from runc\n{}\n{}",
        first_difference(&expected.stdout, &found.stdout),
        found.describe()
    );
    Ok(())
}

/// What the two sides of a program printed in two containers with one network, each of a runtime.
pub(super) fn play(
    context: &Context,
    runtimes: [&str; 2],
    program: &str,
    args: &[&str],
) -> Result<[String; 2]> {
    play_with(context, runtimes, program, args, &[])
}

/// [`play`] with more options for both containers.
pub fn play_with(
    context: &Context,
    runtimes: [&str; 2],
    program: &str,
    args: &[&str],
    options: &[&str],
) -> Result<[String; 2]> {
    let words = |role| std::iter::once(role).chain(args.iter().copied());
    let server = with_ipv6(context.on(runtimes[0]))
        .options(options)
        .program(program, words("serve"))
        .start()?;
    let client = context
        .on(runtimes[1])
        .options(options)
        .network(&format!("container:{}", server.name))
        .program(program, words("join"))
        .run()?;
    ensure!(
        client.status == 0,
        "{program} under {runtimes:?}: {}\n== the server's side\n{}",
        client.describe(),
        server.docker(&["logs"])?.describe()
    );
    let status = server.wait()?;
    let logs = server.docker(&["logs"])?;
    server.docker(&["rm", "--force"])?;
    ensure!(
        status == 0,
        "{program} under {runtimes:?}: exit status {status} of the server's side\n{}",
        logs.describe()
    );
    Ok([logs.stdout, client.stdout])
}

/// Does `body` with a runtime whose containers are fused, in a group of this case's own; with the
/// runtime under test as it is, if that one cannot fuse.
pub fn fused<T>(context: &Context, body: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    if context.site().runtimes.groups.is_empty() {
        return body(context.runtime());
    }
    let group = context.group()?;
    body(group.runtime())
}

fn between_containers(context: &Context, program: &str) -> Result<()> {
    let (expected, found) = at_once(
        || play(context, [REFERENCE; 2], program, &[]),
        || fused(context, |runtime| play(context, [runtime; 2], program, &[])),
    )?;
    agree(program, &expected, &found)
}

pub fn agree(program: &str, expected: &[String; 2], found: &[String; 2]) -> Result<()> {
    for (side, (found, expected)) in ["server", "client"].iter().zip(found.iter().zip(expected)) {
        ensure!(
            found == expected,
            "the {side}'s side of {program} differs from runc\n{}",
            first_difference(expected, found)
        );
    }
    Ok(())
}

/// Containers that share a network and no address space, and ones of which only one is fused.
fn strangers(context: &Context) -> Result<()> {
    let own = context.runtime();
    for program in ["tcp_accept", "tcp_close", "tcp_calls"] {
        let ((expected, found), (served, joined)) = at_once(
            || {
                at_once(
                    || play(context, [REFERENCE; 2], program, &[]),
                    || play(context, [own; 2], program, &[]),
                )
            },
            || {
                fused(context, |runtime| {
                    at_once(
                        || play(context, [runtime, REFERENCE], program, &[]),
                        || play(context, [REFERENCE, runtime], program, &[]),
                    )
                })
            },
        )?;
        for found in [found, served, joined] {
            agree(program, &expected, &found)?;
        }
    }
    Ok(())
}

/// The scenario and line where two outputs part.
pub fn first_difference(expected: &str, found: &str) -> String {
    let mut scenario = "";
    let mut found = found.lines();
    for line in expected.lines() {
        if line.starts_with("== ") {
            scenario = line;
        }
        let other = found.next().unwrap_or("(its end)");
        if line != other {
            return format!("{scenario}\nrunc:  {line}\nfound: {other}");
        }
    }
    format!("more: {}", found.next().unwrap_or_default())
}

fn killed_container(context: &Context) -> Result<()> {
    fused(context, |runtime| {
        let server = context.on(runtime).program("tcp_kill", ["serve"]).start()?;
        let client = context
            .on(runtime)
            .network(&format!("container:{}", server.name))
            .program("tcp_kill", ["join"])
            .start()?;
        server.wait_for_log("the client streams")?;
        thread::sleep(Duration::from_millis(300));
        client.docker(&["kill"])?;
        let status = server.wait()?;
        let logs = server.logs()?;
        ensure!(
            status == 0 && logs.contains("nothing that was sent is lost: 1, then end of file"),
            "exit status {status}: {logs}\n== client\n{}",
            client.logs()?
        );
        Ok(())
    })
}

fn is_ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

fn hundred_thousand(context: &Context) -> Result<()> {
    let thousands = if is_ci() { "100" } else { "20" };
    let [served, _] = fused(context, |runtime| {
        play(
            context,
            [runtime; 2],
            "tcp_many",
            &["open_and_close", thousands],
        )
    })?;
    ensure!(served.contains("descriptors left open: 0"), "{served}");
    Ok(())
}

fn soak_seconds() -> &'static str {
    if is_ci() { "20" } else { "4" }
}

fn soak(context: &Context) -> Result<()> {
    let said = context
        .container()
        .program("tcp_soak", ["fork", if is_ci() { "10" } else { "4" }])
        .output()?;
    ensure!(
        said.lines().all(|line| line == "not a byte was lost"),
        "{said}"
    );
    Ok(())
}

fn soak_between(context: &Context) -> Result<()> {
    let said = fused(context, |runtime| {
        play(context, [runtime; 2], "tcp_soak", &[soak_seconds()])
    })?;
    ensure!(
        said.iter().all(|said| said.trim() == "not a byte was lost"),
        "{said:?}"
    );
    Ok(())
}

fn ask(context: &Context, address: &str, limit_ms: &str) -> Result<String> {
    context
        .container()
        .network("bridge")
        .program("tcp_bridge", ["ask", address, PORT, limit_ms])
        .output()
}

fn bridge(context: &Context) -> Result<()> {
    let server = context
        .container()
        .network("bridge")
        .program("tcp_bridge", ["serve", PORT])
        .start()?;
    server.wait_for_log("listening")?;
    for _ in 0..2 {
        let said = ask(context, &server.address()?, "10000")?;
        ensure!(said == "answered, then 0", "{said}");
    }
    Ok(())
}

/// The packet filter of the engine's network decides who can connect, fused or not.
fn dropped(context: &Context) -> Result<()> {
    let server = context
        .container()
        .network("bridge")
        .program("tcp_bridge", ["serve", PORT])
        .start()?;
    server.wait_for_log("listening")?;
    let address = server.address()?;
    let filter = |verb: &str| {
        let network = format!("--net=/proc/{}/ns/net", context.site().engine_pid);
        let rule = ["iptables", "--wait", verb, "FORWARD", "--protocol", "tcp"];
        let what = ["--destination", &address, "--dport", PORT, "--jump", "DROP"];
        context
            .host(
                "nsenter",
                &[&[network.as_str()], &rule[..], &what[..]].concat(),
            )?
            .expect(0)
            .context("the engine's packet filter")
    };
    filter("--insert")?;
    let without = ask(context, &address, "1500");
    filter("--delete")?;
    let without = without?;
    ensure!(without == "no answer: SYN_SENT", "{without}");
    let with = ask(context, &address, "10000")?;
    ensure!(with == "answered, then 0", "{with}");
    Ok(())
}
