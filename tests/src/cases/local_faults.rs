//! Connections in memory when something is wrong with the memory: a side that writes nonsense into its rings, pools that are
//! used up. What the programs do to it is not to be done, and there is no runc to compare with; what comes of it is written down.

use super::local_tcp::{first_difference, play};
use crate::harness::case::Case;
use crate::harness::container::Spec;
use crate::harness::context::Context;
use anyhow::{Context as _, Result, ensure};
use pegasus_contract::layout::{
    BUFFERS_MAX, CONNECTION_LEN, CONNECTIONS_BASE, CONNECTIONS_MAX, ITEMS_MAX, POOLS_BASE,
    SETS_MAX, SOCKET_LEN, SOCKETS_BASE, SOCKETS_MAX,
};
use pegasus_contract::socket::{ConnectionRecord, EndRecord, PoolsHeader, SocketRecord};
use std::mem::offset_of;

pub fn cases() -> Vec<Case> {
    let between = |name: &str, body: fn(&Context) -> Result<()>| {
        Case::group(format!("local_faults::{name}"), body).limit(120)
    };
    vec![
        between("hostile_rings", hostile_rings),
        between("hostile_rings_at_any_time", hostile_at_any_time),
        between("buffers_used_up", buffers_used_up),
        between("pools_used_up", pools_used_up),
        between("memory_of_a_neighbour", memory_of_a_neighbour),
        Case::own("local_faults::buffers_used_up_by_one", |context| {
            let args = ["fork".to_owned(), "buffers".to_owned(), places()];
            let said = context.container().program("tcp_pools", args).output()?;
            agree(&said, &buffers())
        }),
    ]
}

/// For `tests/programs/places.h`.
pub fn places() -> String {
    let pools = [
        (offset_of!(PoolsHeader, sockets), SOCKETS_MAX),
        (offset_of!(PoolsHeader, connections), CONNECTIONS_MAX),
        (offset_of!(PoolsHeader, buffers), BUFFERS_MAX),
        (offset_of!(PoolsHeader, items), ITEMS_MAX),
        (offset_of!(PoolsHeader, sets), SETS_MAX),
    ];
    let rings = offset_of!(ConnectionRecord, rings);
    let mut numbers = vec![
        CONNECTIONS_BASE,
        CONNECTION_LEN,
        offset_of!(ConnectionRecord, in_use),
        offset_of!(ConnectionRecord, ends),
        size_of::<EndRecord>(),
        offset_of!(EndRecord, socket),
        rings,
        (offset_of!(ConnectionRecord, inline) - rings) / 2,
        SOCKETS_BASE,
        SOCKET_LEN,
        SOCKETS_MAX,
        offset_of!(SocketRecord, local_port),
        offset_of!(SocketRecord, remote_port),
    ];
    numbers.extend(pools.iter().flat_map(|(at, max)| [POOLS_BASE + at, *max]));
    let texts: Vec<String> = numbers.iter().map(usize::to_string).collect();
    texts.join(",")
}

/// Plays a scenario between two containers; in the same group another connection goes on, and new containers come.
fn play_beside(context: &Context, program: &str, scenarios: &[&str]) -> Result<String> {
    let group = context.group()?;
    let redis = context
        .on(group.runtime())
        .command(["redis-server", "--save", ""])
        .start()?;
    redis.wait_for_log("Ready to accept connections")?;
    let client = context
        .on(group.runtime())
        .network(&format!("container:{}", redis.name))
        .command(["redis-cli", "-r", "-1", "-i", "0.01", "incr", "asked"])
        .start()?;
    let asked = || -> Result<u64> { Ok(redis.ask(["redis-cli", "get", "asked"])?.parse()?) };
    client.wait_for_log("1\n")?;
    let places = places();
    let args = [scenarios, &[&places]].concat();
    let [served, joined] = play(context, [group.runtime(); 2], program, &args)?;
    let before = asked()?;
    context.eventually(context.remaining(), || {
        ensure!(asked()? > before, "the neighbours do not go on");
        Ok(())
    })?;
    ensure!(client.inspect("{{.State.Running}}")? == "true");
    let hello = context
        .on(group.runtime())
        .program("hello", [""; 0])
        .run()?;
    ensure!(hello.status == 0, "{}", hello.describe());
    Ok(format!("{served}{joined}"))
}

fn agree(said: &str, expected: &str) -> Result<()> {
    let lines = |text: &str| {
        let told = text.lines().filter(|line| !line.starts_with("== "));
        told.collect::<Vec<_>>().join("\n")
    };
    let (said, expected) = (lines(said), lines(expected));
    ensure!(
        said == expected,
        "not as written down (\"runc\")\n{}\nall of it:\n{said}",
        first_difference(&expected, &said)
    );
    Ok(())
}

fn hostile_rings(context: &Context) -> Result<()> {
    let said = play_beside(context, "tcp_hostile", &["each", "asleep"])?;
    let reading = [
        "tail far ahead",
        "tail at the last number",
        "tail before head",
        "tail further than a ring is long",
        "bytes in a buffer that is none",
    ];
    let writing = [
        "head after tail",
        "head at the last number",
        "head further back than a ring is long",
        "a buffer that is none",
    ];
    const RESET: &str = "Connection reset by peer";
    let read = reading.map(|what| format!("server: {what}: {RESET}, then {RESET}"));
    let written = writing.map(|what| format!("server: {what}: {RESET}, then Broken pipe"));
    let asleep = reading.map(|what| format!("server: asleep, {what}: {RESET}"));
    let over = "client: its own ends are over: 1".to_owned();
    // Each scenario is played with a connection that is new, and with one that is not. First what the server says.
    let each = || read.clone().into_iter().chain(written.clone());
    let server = each()
        .chain(each())
        .chain(asleep.clone())
        .chain(asleep.clone());
    let expected: Vec<String> = server.chain([over.clone(), over]).collect();
    agree(&said, &expected.join("\n"))
}

fn hostile_at_any_time(context: &Context) -> Result<()> {
    let said = play_beside(context, "tcp_hostile", &["anything"])?;
    agree(
        &said,
        "server: lives\nserver: lives\nclient: lives\nclient: lives",
    )
}

/// What the two sides say of more connections than there are buffers for.
fn buffers() -> String {
    let both = |side: &str, last: &str| {
        [
            "not all that was offered was taken: 1, and no buffer is left: 1",
            "what was sent has come: 1",
            "buffers in use in the end: 0",
            last,
        ]
        .map(|line| format!("{side}: {line}"))
        .join("\n")
    };
    let server = both("server", "one more takes 3000, buffers in use: 1");
    let client = both("client", "and 3000 come");
    format!("{server}\n{client}")
}

fn buffers_used_up(context: &Context) -> Result<()> {
    let said = play_beside(context, "tcp_pools", &["buffers"])?;
    agree(&said, &buffers())
}

fn pools_used_up(context: &Context) -> Result<()> {
    let said = play_beside(context, "tcp_pools", &["each"])?;
    let mut expected = Vec::new();
    // The one call that has an error for it is epoll_ctl(2).
    for (pool, added, ring) in [
        ("sockets", "0", "0"),
        ("connections", "0", "0"),
        ("buffers", "0", "1"),
        ("items", "Cannot allocate memory", "1"),
        ("sets", "0", "1"),
    ] {
        for (what, added, ring) in [(pool, added, ring), ("later", "0", "1")] {
            expected.extend([
                format!("server: {what}: to be added: {added}"),
                format!("server: {what}: nothing to read: 0"),
                format!("server: {what}: something to read: 1"),
                format!("server: {what}: over a ring: {ring}"),
            ]);
        }
    }
    agree(&said, &expected.join("\n"))
}

/// For the calls that the vkernel answers, a neighbour's memory is not there: as under runc an address that nobody has.
fn memory_of_a_neighbour(context: &Context) -> Result<()> {
    const NOBODYS: &str = "0x600000000000";
    let group = context.group()?;
    let on = || context.on(group.runtime());
    let neighbour = on().program("neighbour", ["hold"]).start()?;
    neighbour.wait_for_log("held at ")?;
    let said = neighbour.logs()?;
    let (_, address) = said.split_once("held at ").context("no address")?;
    let address = address.split_whitespace().next().context("no address")?;
    let probe = |spec: Spec<'_, '_>, address: &str| -> Result<String> {
        Ok(spec
            .program("neighbour", ["probe", address])
            .run()?
            .expect(0)?
            .stdout)
    };
    let expected = probe(context.reference(), NOBODYS)?;
    for address in [address, NOBODYS] {
        let found = probe(on(), address)?;
        ensure!(
            found == expected,
            "{address}\n{}\nall of it:\n{found}",
            first_difference(&expected, &found)
        );
    }
    neighbour.docker(&["kill", "--signal", "TERM"])?.expect(0)?;
    ensure!(neighbour.wait()? == 0, "{}", neighbour.logs()?);
    let said = neighbour.logs()?;
    ensure!(said.contains("unchanged: 1"), "{said}");
    Ok(())
}
