//! gVisor as a third column: Debian's `runsc`, made known to the suite's engine.
//!
//! Its own network stack needs raw sockets and route tables that not every machine grants; with
//! `--network=host` it uses the sockets of the container's network namespace, as the others do.

use crate::progress::Step;
use crate::site::Prepared;
use crate::{setup, shell};
use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pegasus_tests::harness::context::{Context, Shared};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

const NAME: &str = "runsc";
/// Enough for a container that only says something.
const TRIAL_LIMIT: Duration = Duration::from_secs(30);

/// The engine's name of the runtime, or why there is none.
pub fn ensure(prepared: &Prepared, shared: &Shared) -> std::result::Result<String, String> {
    let found = installed()
        .and_then(|program| register(prepared, &program))
        .and_then(|()| try_out(prepared, shared));
    match found {
        Ok(()) => Ok(NAME.to_owned()),
        Err(fault) => {
            let root_cause = fault.to_string();
            let reason = root_cause.lines().next().unwrap_or_default();
            println!("  skip   gVisor: {fault:#}");
            Err(reason.to_owned())
        }
    }
}

fn installed() -> Result<std::path::PathBuf> {
    setup::run(setup::GVISOR).context("Debian's package runsc cannot be installed")?;
    shell::find(NAME).context("runsc is not on the path")
}

/// Adds it to the engine's configuration, which the engine reads again at SIGHUP.
fn register(prepared: &Prepared, program: &Path) -> Result<()> {
    let path = prepared.site.socket.with_file_name("daemon.json");
    let mut configuration: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    configuration["runtimes"][NAME] = json!({
        "path": program,
        "runtimeArgs": ["--network=host"],
    });
    fs::write(&path, serde_json::to_string_pretty(&configuration)?)?;
    kill(Pid::from_raw(prepared.engine.pid()?), Signal::SIGHUP)?;
    prepared.engine.wait_for_runtime(NAME)
}

fn try_out(prepared: &Prepared, shared: &Shared) -> Result<()> {
    let step = Step::begin("gVisor");
    let own = prepared.site.runtimes.own.clone();
    let context = Context::new(shared, "bench-gvisor".to_owned(), own, TRIAL_LIMIT);
    let tried = context.on(NAME).command(["true"]).output();
    context.clean_up()?;
    tried.context("it does not run a container on this machine")?;
    step.done(&version());
    Ok(())
}

/// What stands in the third column.
pub fn description() -> String {
    format!("{}, Debian's, with --network=host", version())
}

/// Its version as it says it, in one line.
fn version() -> String {
    let said = shell::quiet(NAME, ["--version"]);
    said.map(|done| done.text().lines().next().unwrap_or_default().to_owned())
        .unwrap_or_default()
}
