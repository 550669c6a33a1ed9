//! More busy threads than CPUs, on several CPUs: workers run them in turns, and each is killed, paused and started like any other.

use super::local_tcp::{PLAYED, agree, at_once, fused, play_with};
use super::one_cpu::{SWITCHES, chatty, counter, cpus};
use crate::harness::case::Case;
use crate::harness::container::Container;
use crate::harness::context::Context;
use crate::harness::site::REFERENCE;
use anyhow::{Result, ensure};
use std::time::Duration;

/// Pairs that exchange messages beside the one that a case is about, on two CPUs.
const NEIGHBOURS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);

pub fn cases() -> Vec<Case> {
    let apart = PLAYED.iter().map(|program| {
        Case::own(
            format!("crowd::{program}_between_containers"),
            move |context| between_containers(context, program),
        )
        .limit(180)
    });
    let more = [
        Case::own("crowd::takes_turns", takes_turns),
        Case::own("crowd::killed_in_turns", killed_in_turns).limit(180),
        Case::own("crowd::paused_in_turns", paused_in_turns),
    ];
    apart.chain(more).collect()
}

fn two_cpus() -> Result<String> {
    let (first, last) = cpus()?;
    Ok(format!("--cpuset-cpus={first},{last}"))
}

type Pair<'c, 'a> = (Container<'c, 'a>, Container<'c, 'a>);

fn crowd<'c, 'a>(context: &'c Context<'a>, runtime: &str) -> Result<Vec<Pair<'c, 'a>>> {
    let confined = two_cpus()?;
    (0..NEIGHBOURS)
        .map(|_| chatty(context, runtime, &confined))
        .collect()
}

/// Until workers have run a container for some time from now on.
fn await_turns(context: &Context, container: &Container) -> Result<()> {
    let before = counter(context, SWITCHES, container)?;
    context.eventually(PATIENCE, || {
        let switches = counter(context, SWITCHES, container)?;
        ensure!(
            switches > before + 1000.0,
            "only {switches} switches after {before}"
        );
        Ok(())
    })
}

fn between_containers(context: &Context, program: &str) -> Result<()> {
    let confined = two_cpus()?;
    let play = |runtime: &str| {
        let _crowd = (runtime != REFERENCE)
            .then(|| crowd(context, runtime))
            .transpose()?;
        play_with(context, [runtime; 2], program, &[], &[&confined])
    };
    let (expected, found) = at_once(|| play(REFERENCE), || fused(context, play))?;
    agree(program, &expected, &found)
}

fn takes_turns(context: &Context) -> Result<()> {
    let group = context.group()?;
    let pairs = crowd(context, group.runtime())?;
    for (server, client) in &pairs {
        await_turns(context, server)?;
        await_turns(context, client)?;
    }
    Ok(())
}

/// Who is killed is gone, and nobody else is; what it had is used again.
fn killed_in_turns(context: &Context) -> Result<()> {
    const ROUNDS: u32 = 4;
    let group = context.group()?;
    let bystanders = crowd(context, group.runtime())?;
    for round in 0..ROUNDS {
        let (server, client) = chatty(context, group.runtime(), &two_cpus()?)?;
        await_turns(context, &client)?;
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
        for (_, client) in &bystanders {
            await_turns(context, client)?;
        }
    }
    Ok(())
}

fn paused_in_turns(context: &Context) -> Result<()> {
    const SETTLED: Duration = Duration::from_millis(500);
    let group = context.group()?;
    let pairs = crowd(context, group.runtime())?;
    let (_, client) = &pairs[0];
    await_turns(context, client)?;
    client.docker(&["pause"])?.expect(0)?;
    std::thread::sleep(SETTLED);
    let switches = || counter(context, SWITCHES, client);
    let paused = switches()?;
    std::thread::sleep(SETTLED);
    ensure!(switches()? == paused, "it goes on while it is paused");
    client.docker(&["unpause"])?.expect(0)?;
    await_turns(context, client)
}
