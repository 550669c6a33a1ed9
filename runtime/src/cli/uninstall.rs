//! `pegasus uninstall docker`: takes a runtime out of an engine again.

use super::Outcome;
use super::install::{Entry, InstallCommandError, show};
use clap::{Args, Subcommand};
use pegasus_docker::UninstallRequest;

/// Take a runtime out of a container engine
#[derive(Debug, Args)]
pub struct Uninstall {
    #[command(subcommand)]
    engine: Engine,
}

#[derive(Debug, Subcommand)]
enum Engine {
    /// Docker: removes the entry from its daemon.json and tells a running engine
    Docker(Entry),
}

pub fn run(arguments: &Uninstall) -> Outcome {
    let Engine::Docker(entry) = &arguments.engine;
    Ok(uninstall(entry)?)
}

fn uninstall(entry: &Entry) -> Result<u8, InstallCommandError> {
    let report = pegasus_docker::uninstall(&UninstallRequest {
        daemon_json: entry.daemon_json.clone(),
        mode: entry.mode(),
        ..UninstallRequest::new(entry.name.clone())
    })?;
    show(&report)?;
    Ok(0)
}
