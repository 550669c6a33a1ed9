//! Killed processes and containers: what was theirs of the memory that connections live in is free again soon afterwards,
//! and their neighbours' connections go on.

use super::local_faults::places;
use super::local_tcp::at_once;
use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Result, ensure};

pub fn cases() -> Vec<Case> {
    let between = |name: &str, victim: Victim, threads: bool| {
        Case::group(format!("local_killed::{name}"), move |context| {
            container(context, victim, threads)
        })
        .limit(120)
    };
    vec![
        Case::each("local_killed::processes", processes).limit(120),
        between("client", Victim::Client, false),
        between("client_with_threads", Victim::Client, true),
        between("server", Victim::Server, false),
        between("server_with_threads", Victim::Server, true),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Client,
    Server,
}

/// Processes of one container, while others of it transfer.
fn processes(context: &Context) -> Result<()> {
    // In a shared instance nobody else may be at work with its connections: what is in use is counted.
    let run = |runtime: &str| -> Result<String> {
        let args = ["each".to_owned(), places()];
        let spec = context.on(runtime).program("tcp_killed", args);
        Ok(spec.run()?.expect(0)?.stdout)
    };
    let said = if context.is_shared() {
        run(context.group()?.runtime())?
    } else {
        run(context.runtime())?
    };
    let round = [
        "one thread",
        "many threads",
        "ends itself with many threads",
        "its parent does not wait",
        "its child is killed as well",
    ]
    .map(|kind| format!("{kind}: all is free again: 1"));
    let mut expected = vec!["the neighbours transfer".to_owned()];
    expected.extend(round.iter().chain(&round).cloned());
    expected.push("the neighbours have transferred: 1".to_owned());
    expected.push("the neighbours' status: 0".to_owned());
    let found: Vec<_> = said.lines().collect();
    ensure!(found == expected, "{said}");
    Ok(())
}

/// One of two containers with many connections, beside a third one whose processes transfer.
fn container(context: &Context, victim: Victim, threads: bool) -> Result<()> {
    let group = context.group()?;
    let places = places();
    let on = || context.on(group.runtime());
    let beside = on()
        .program("tcp_killed", ["neighbours", &places])
        .start()?;
    beside.wait_for_log("the neighbours transfer")?;
    let role = |own: Victim| match (own == victim, threads) {
        (true, true) => ["victim", "threads"],
        (true, false) => ["victim", "alone"],
        (false, _) => ["survivor", "alone"],
    };
    let args = |side: &'static str, own| {
        let [first, second] = role(own);
        let lost = if threads { "items" } else { "nothing" };
        [side, first, second, lost, places.as_str()].map(str::to_owned)
    };
    // Whichever of the two is killed, their network stays.
    let network = on().command(["sleep", "300"]).start()?;
    let network = format!("container:{}", network.name);
    let start = |side, own| {
        on().network(&network)
            .program("tcp_killed", args(side, own))
            .start()
    };
    let server = start("serve", Victim::Server)?;
    let client = start("join", Victim::Client)?;
    let (dead, survivor) = match victim {
        Victim::Client => (client, server),
        Victim::Server => (server, client),
    };
    survivor.wait_for_log("to be killed now")?;
    dead.docker(&["kill"])?;
    let (status, ()) = at_once(
        || survivor.wait(),
        || {
            // Its engine's part of the container does not matter.
            dead.docker(&["rm", "--force"]).map(drop)
        },
    )?;
    let said = survivor.logs()?;
    ensure!(
        status == 0 && said.contains("the other container: all is free again: 1"),
        "exit status {status}: {said}"
    );
    beside.docker(&["kill", "--signal", "TERM"])?;
    let status = beside.wait()?;
    let said = beside.logs()?;
    ensure!(
        status == 0 && said.contains("the neighbours have transferred: 1"),
        "exit status {status}: {said}"
    );
    Ok(())
}
