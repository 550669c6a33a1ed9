//! `pegasus spec`: write a `config.json` to start from.

use super::Outcome;
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::Spec;
use std::path::{Path, PathBuf};

const FILE: &str = "config.json";

#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("file {0:?} exists; remove it first")]
    Exists(PathBuf),
    #[error("cannot write {path:?}")]
    Write { path: PathBuf, source: OciSpecError },
}

pub fn run(arguments: &liboci_cli::Spec) -> Outcome {
    let bundle = arguments.bundle.as_deref().unwrap_or(Path::new("."));
    let path = bundle.join(FILE);
    if path.exists() {
        return Err(SpecError::Exists(path).into());
    }
    specification(arguments.rootless)
        .save(&path)
        .map_err(|source| SpecError::Write { path, source })?;
    Ok(0)
}

/// What runc writes: a shell on a terminal, in a read-only root file system.
fn specification(rootless: bool) -> Spec {
    let mut spec = if rootless {
        Spec::rootless(
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        )
    } else {
        Spec::default()
    };
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(true));
    }
    spec.set_hostname(Some("pegasus".to_owned()));
    spec
}
