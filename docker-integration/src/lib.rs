//! Registers Pegasus as a runtime of a Docker Engine, and removes it again.
//!
//! An engine learns of a runtime from `daemon.json`: an entry `{"path": …, "runtimeArgs": […]}`
//! under `runtimes`. [`install`] merges such an entry into the file and [`uninstall`] takes it out;
//! both keep every other key and their order, write atomically, and tell a running engine to
//! reload. The file belongs to the machine's owner: one that does not parse is refused, with the
//! place of the fault, and left exactly as it was.
//!
//! ```no_run
//! use pegasus_docker::{InstallRequest, install};
//! let mut request = InstallRequest::new("/usr/local/bin/pegasus");
//! request.group = Some("web".to_owned());
//! println!("{}", install(&request)?); // one sentence: what was done
//! # Ok::<(), pegasus_docker::InstallError>(())
//! ```
//!
//! Neighbours: the `pegasus install docker` command calls this crate, and so does xtask for the
//! engines it starts. It never starts or stops an engine and never writes outside the directory of
//! `daemon.json`.
#![forbid(unsafe_code)]

mod config;
mod error;
mod file;
mod reload;
mod request;
#[cfg(test)]
mod tests;

pub use config::Change;
pub use error::InstallError;
pub use reload::Reload;
pub use request::{InstallRequest, Isolation, Mode, UninstallRequest};

use config::Config;
use std::fmt;
use std::path::PathBuf;

/// Where an engine reads its configuration unless told otherwise.
pub const DAEMON_JSON: &str = "/etc/docker/daemon.json";
/// Where an engine writes its process id unless told otherwise.
pub const PIDFILE: &str = "/var/run/docker.pid";

/// What [`install`] or [`uninstall`] did. `Display` says it in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallReport {
    pub name: String,
    pub change: Change,
    /// The file that was (or, in a dry run, would be) written; links are resolved.
    pub daemon_json: PathBuf,
    /// The copy of the owner's file, when this call made one.
    pub backup: Option<PathBuf>,
    pub reload: Reload,
    pub mode: Mode,
    /// The whole file as it is now, or would be after a dry run.
    pub contents: String,
}

/// Adds or updates the runtime entry that `request` describes.
///
/// Doing it twice changes nothing the second time: the file is not written and the engine is not
/// signalled.
///
/// # Errors
/// The file is left untouched by every error.
pub fn install(request: &InstallRequest) -> Result<InstallReport, InstallError> {
    request.check()?;
    apply(
        &request.name,
        &request.daemon_json,
        &request.pidfile,
        request.mode,
        |config| config.set_runtime(&request.name, &request.runtime_path, request.runtime_args()),
    )
}

/// Removes the runtime entry `request.name`; an entry that is not there is no error.
///
/// # Errors
/// The file is left untouched by every error. The engine's default runtime is not removed: the
/// engine would not start again.
pub fn uninstall(request: &UninstallRequest) -> Result<InstallReport, InstallError> {
    apply(
        &request.name,
        &request.daemon_json,
        &request.pidfile,
        request.mode,
        |config| config.remove_runtime(&request.name),
    )
}

fn apply(
    name: &str,
    daemon_json: &std::path::Path,
    pidfile: &std::path::Path,
    mode: Mode,
    edit: impl FnOnce(&mut Config) -> Result<Change, InstallError>,
) -> Result<InstallReport, InstallError> {
    let target = file::resolve(daemon_json)?;
    let original = file::read(&target)?;
    let mut config = Config::parse(&target, original.as_deref())?;
    let change = edit(&mut config)?;
    let contents = config.render();
    let mut backup = None;
    let mut reload = Reload::NotNeeded;
    if change != Change::Nothing && mode == Mode::Apply {
        backup = file::back_up(&target)?;
        file::write(&target, contents.as_bytes())?;
        reload = reload::reload(pidfile, daemon_json)?;
    }
    Ok(InstallReport {
        name: name.to_owned(),
        change,
        daemon_json: target,
        backup,
        reload,
        mode,
        contents,
    })
}

impl fmt::Display for InstallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, file) = (&self.name, self.daemon_json.display());
        let verb = match (self.change, self.mode) {
            (Change::Nothing, _) => {
                return write!(
                    f,
                    "Runtime `{name}` in {file} is already as asked; nothing was changed."
                );
            }
            (Change::Added, Mode::Apply) => "Added",
            (Change::Updated, Mode::Apply) => "Updated",
            (Change::Removed, Mode::Apply) => "Removed",
            (Change::Added, Mode::DryRun) => "Would add",
            (Change::Updated, Mode::DryRun) => "Would update",
            (Change::Removed, Mode::DryRun) => "Would remove",
        };
        write!(f, "{verb} runtime `{name}` in {file}")?;
        if let Some(backup) = &self.backup {
            write!(f, " (the file as it was is kept in {})", backup.display())?;
        }
        match &self.reload {
            Reload::NotNeeded => write!(f, "."),
            other => write!(f, "; {other}."),
        }
    }
}
