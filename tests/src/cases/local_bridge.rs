//! What a shared instance knows about the bridges that its containers are on.

use crate::harness::case::Case;
use crate::harness::container::Container;
use crate::harness::context::Context;
use crate::harness::inspect::Inspected;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub fn cases() -> Vec<Case> {
    vec![
        Case::group("local_bridge::members_on_one_bridge", one_bridge),
        Case::group("local_bridge::members_without_a_bridge", no_bridge),
        Case::own("local_bridge::own_instances_have_no_neighbours", own),
    ]
}

fn sleeper<'c, 'a>(
    context: &'c Context<'a>,
    runtime: &str,
    network: &str,
) -> Result<Container<'c, 'a>> {
    context
        .on(runtime)
        .network(network)
        .command(["sleep", "300"])
        .start()
}

/// All addresses of a container that the instance knows of.
fn addresses(context: &Context, container: &Container) -> Result<Vec<Value>> {
    let found = Inspected::of(context, container)?.0;
    let list = found["addresses"].as_array();
    Ok(list
        .with_context(|| format!("no addresses in {found:#}"))?
        .clone())
}

/// The bridge behind the address that the engine has given to a container.
fn bridge(context: &Context, container: &Container) -> Result<u64> {
    let given = container.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")?;
    let list = addresses(context, container)?;
    list.iter()
        .find(|known| known["address"] == given.as_str())
        .and_then(|known| known["bridge"].as_u64())
        .filter(|bridge| *bridge != 0)
        .with_context(|| format!("no bridge behind {given}: {list:?}"))
}

fn one_bridge(context: &Context) -> Result<()> {
    let name = context.unique();
    context
        .docker(["network", "create", "--label", &context.label(), &name])?
        .expect(0)?;
    let outcome = compare(context, &name);
    context.clean_up()?;
    context.docker(["network", "rm", &name])?.expect(0)?;
    outcome
}

fn compare(context: &Context, other_network: &str) -> Result<()> {
    let group = context.group()?;
    let start = |network: &str| sleeper(context, group.runtime(), network);
    let (one, other) = (start("bridge")?, start("bridge")?);
    let (far, inner) = (
        start(other_network)?,
        start(&format!("container:{}", one.name))?,
    );
    let shared = bridge(context, &one)?;
    ensure!(bridge(context, &other)? == shared);
    let apart = bridge(context, &far)?;
    ensure!(
        apart != shared,
        "both networks are said to be bridge {apart}"
    );
    // Who has joined a network namespace has its addresses.
    ensure!(addresses(context, &inner)? == addresses(context, &one)?);
    // A record that was freed is the next container's alone.
    other.docker(&["rm", "--force"])?;
    let next = start(other_network)?;
    ensure!(bridge(context, &next)? == apart);
    ensure!(bridge(context, &one)? == shared);
    Ok(())
}

fn no_bridge(context: &Context) -> Result<()> {
    let group = context.group()?;
    for network in ["none", "host"] {
        let container = sleeper(context, group.runtime(), network)?;
        let known = addresses(context, &container)?;
        ensure!(
            known.iter().all(|address| address["bridge"].is_null()),
            "{network}: {known:?}"
        );
        ensure!(network == "host" || known.is_empty(), "{known:?}");
    }
    Ok(())
}

fn own(context: &Context) -> Result<()> {
    let container = sleeper(context, &context.site().runtimes.own, "bridge")?;
    let known = addresses(context, &container)?;
    ensure!(known.is_empty(), "{known:?}");
    Ok(())
}
