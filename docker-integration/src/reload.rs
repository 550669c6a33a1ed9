//! Telling a running engine that its configuration has changed.
//!
//! An engine reads its runtimes again on SIGHUP. A pidfile may be stale and its number may belong to
//! another program by now, so the process is looked at before it is signalled.

use crate::InstallError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// What became of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// Nothing was written, so there is nothing to read again.
    NotNeeded,
    /// The engine with this pid was told to reload.
    Signalled(i32),
    /// No pidfile, or no such process: an engine started later reads the file by itself.
    NotRunning,
    /// The pidfile's process is something else; it was left alone.
    NotAnEngine(i32),
    /// The engine reads another configuration file; it was left alone.
    OtherConfig(i32, PathBuf),
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNeeded => write!(f, "no reload is needed"),
            Self::Signalled(pid) => write!(f, "told the running engine (pid {pid}) to reload"),
            Self::NotRunning => write!(
                f,
                "no engine is running, the next one to start will know it"
            ),
            Self::NotAnEngine(pid) => write!(
                f,
                "no engine is running (pid {pid} of its pidfile is another program)"
            ),
            Self::OtherConfig(pid, file) => {
                write!(
                    f,
                    "the running engine (pid {pid}) was left alone, for it reads {} instead",
                    file.display()
                )
            }
        }
    }
}

/// Signals the engine of `pidfile` if it is one that reads `daemon_json`.
pub fn reload(pidfile: &Path, daemon_json: &Path) -> Result<Reload, InstallError> {
    let pid = fs::read_to_string(pidfile)
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok());
    let Some(pid) = pid.filter(|pid| *pid > 1) else {
        return Ok(Reload::NotRunning);
    };
    let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return Ok(Reload::NotRunning);
    };
    let words: Vec<String> = command
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    if !is_engine(&words) {
        return Ok(Reload::NotAnEngine(pid));
    }
    let config = config_file_of(&words).unwrap_or_else(|| crate::DAEMON_JSON.into());
    if !is_same_file(&config, daemon_json) {
        return Ok(Reload::OtherConfig(pid, config));
    }
    kill(Pid::from_raw(pid), Signal::SIGHUP)
        .map(|()| Reload::Signalled(pid))
        .map_err(|source| InstallError::Signal {
            pid,
            path: daemon_json.to_owned(),
            source,
        })
}

fn is_engine(command: &[String]) -> bool {
    let program = command.first().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|name| name == "dockerd")
}

/// The value of `--config-file` on an engine's command line.
fn config_file_of(command: &[String]) -> Option<PathBuf> {
    let mut words = command.iter();
    while let Some(word) = words.next() {
        if word == "--config-file" {
            return words.next().map(PathBuf::from);
        }
        if let Some(value) = word.strip_prefix("--config-file=") {
            return Some(value.into());
        }
    }
    None
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}
