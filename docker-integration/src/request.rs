//! What a caller may ask for, and the rules a request must keep before any file is looked at.
//!
//! Docker 20.10 passes `runtimeArgs` through a shell script that quotes nothing, so names, groups
//! and paths are limited to characters that mean themselves to a shell.

use crate::{DAEMON_JSON, InstallError, PIDFILE};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Whether a call writes, or only says what it would write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Apply,
    DryRun,
}

/// The value of the runtime's `--isolation` flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    Auto,
    Mpk,
    None,
}

impl Isolation {
    pub const ALL: [Self; 3] = [Self::Auto, Self::Mpk, Self::None];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Mpk => "mpk",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Isolation {
    type Err = InstallError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|isolation| isolation.as_str() == text)
            .ok_or_else(|| InstallError::BadArgument {
                what: "--isolation",
                value: text.to_owned(),
                reason: "it is auto, mpk or none",
            })
    }
}

/// A runtime entry to add to, or update in, an engine's configuration.
#[derive(Debug, Clone)]
pub struct InstallRequest {
    /// As in `docker run --runtime NAME`.
    pub name: String,
    /// Absolute path of the `pegasus` program.
    pub runtime_path: PathBuf,
    /// `--group`, if the runtime shall fuse what it starts.
    pub group: Option<String>,
    /// `--isolation`, if other than the runtime's own default.
    pub isolation: Option<Isolation>,
    pub daemon_json: PathBuf,
    pub pidfile: PathBuf,
    pub mode: Mode,
}

impl InstallRequest {
    /// A runtime called `pegasus` with default flags in the default engine.
    pub fn new(runtime_path: impl Into<PathBuf>) -> Self {
        Self {
            name: "pegasus".to_owned(),
            runtime_path: runtime_path.into(),
            group: None,
            isolation: None,
            daemon_json: DAEMON_JSON.into(),
            pidfile: PIDFILE.into(),
            mode: Mode::Apply,
        }
    }

    /// The flags that go before the runtime's command.
    pub fn runtime_args(&self) -> Vec<String> {
        let group = self
            .group
            .iter()
            .flat_map(|group| ["--group".to_owned(), group.clone()]);
        let isolation = self
            .isolation
            .iter()
            .flat_map(|i| ["--isolation".to_owned(), i.to_string()]);
        group.chain(isolation).collect()
    }

    pub(crate) fn check(&self) -> Result<(), InstallError> {
        if self.name == "runc" {
            return Err(InstallError::BadName {
                name: self.name.clone(),
                reason: "the engine reserves it",
            });
        }
        if self.name.is_empty() || !self.name.chars().all(is_plain) {
            let reason = "use letters, digits, `.`, `_` and `-`";
            return Err(InstallError::BadName {
                name: self.name.clone(),
                reason,
            });
        }
        if let Some(group) = &self.group
            && (group.is_empty() || group.starts_with('-') || !group.chars().all(is_plain))
        {
            let reason = "use letters, digits, `.`, `_` and `-`";
            return Err(InstallError::BadArgument {
                what: "--group",
                value: group.clone(),
                reason,
            });
        }
        let path = self.runtime_path.to_string_lossy();
        let path_fault = if !self.runtime_path.is_absolute() {
            Some("it must be absolute")
        } else if !path.chars().all(|c| is_plain(c) || c == '/' || c == '+') {
            Some("it holds characters that a shell would interpret")
        } else {
            None
        };
        match path_fault {
            Some(reason) => Err(InstallError::BadArgument {
                what: "the runtime's path",
                value: path.into_owned(),
                reason,
            }),
            None => Ok(()),
        }
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// A runtime entry to take out of an engine's configuration.
#[derive(Debug, Clone)]
pub struct UninstallRequest {
    pub name: String,
    pub daemon_json: PathBuf,
    pub pidfile: PathBuf,
    pub mode: Mode,
}

impl UninstallRequest {
    /// The runtime `name` of the default engine.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            daemon_json: DAEMON_JSON.into(),
            pidfile: PIDFILE.into(),
            mode: Mode::Apply,
        }
    }
}
