//! `pegasus install docker`: makes this program a runtime of an engine.
//!
//! What is written where, and what is refused, is `pegasus-docker`'s.

use super::{Outcome, OutputError, print_line};
use crate::placement::IsolationChoice;
use clap::{Args, Subcommand};
use pegasus_docker::{DAEMON_JSON, InstallError, InstallReport, InstallRequest, Isolation, Mode};
use std::path::PathBuf;

/// Make this program a runtime of a container engine
#[derive(Debug, Args)]
pub struct Install {
    #[command(subcommand)]
    engine: Engine,
}

#[derive(Debug, Subcommand)]
enum Engine {
    /// Docker: adds an entry to its daemon.json and tells a running engine
    Docker(Docker),
}

#[derive(Debug, Args)]
struct Docker {
    #[command(flatten)]
    entry: Entry,
    /// Fusion group of the containers that this runtime starts
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// How containers of the group are kept apart
    #[arg(long, value_enum)]
    isolation: Option<IsolationChoice>,
}

/// Which entry of which file.
#[derive(Debug, Args)]
pub struct Entry {
    /// The runtime's name, as in `docker run --runtime NAME`
    #[arg(long, default_value = "pegasus")]
    pub name: String,
    /// The engine's configuration file
    #[arg(long, default_value = DAEMON_JSON)]
    pub daemon_json: PathBuf,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Entry {
    pub fn mode(&self) -> Mode {
        if self.dry_run {
            Mode::DryRun
        } else {
            Mode::Apply
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum InstallCommandError {
    #[error("cannot tell where this program is installed")]
    OwnPath(#[source] std::io::Error),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

pub fn run(arguments: &Install) -> Outcome {
    let Engine::Docker(docker) = &arguments.engine;
    Ok(install(docker)?)
}

fn install(docker: &Docker) -> Result<u8, InstallCommandError> {
    let program = std::env::current_exe().map_err(InstallCommandError::OwnPath)?;
    let report = pegasus_docker::install(&InstallRequest {
        name: docker.entry.name.clone(),
        group: docker.group.clone(),
        isolation: docker.isolation.map(isolation),
        daemon_json: docker.entry.daemon_json.clone(),
        mode: docker.entry.mode(),
        ..InstallRequest::new(program)
    })?;
    show(&report)?;
    Ok(0)
}

/// Says what was done; after a dry run, also what would be written.
pub fn show(report: &InstallReport) -> Result<(), OutputError> {
    print_line(&report.to_string())?;
    if report.mode == Mode::DryRun {
        print_line(report.contents.trim_end())?;
    }
    Ok(())
}

fn isolation(choice: IsolationChoice) -> Isolation {
    match choice {
        IsolationChoice::Auto => Isolation::Auto,
        IsolationChoice::Mpk => Isolation::Mpk,
        IsolationChoice::None => Isolation::None,
    }
}
