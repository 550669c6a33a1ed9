//! Why an installation was refused or failed. Every variant leaves `daemon.json` as it was.

use std::path::PathBuf;
use thiserror::Error;

/// What kept [`install`](crate::install) or [`uninstall`](crate::uninstall) from doing its work.
#[derive(Debug, Error)]
pub enum InstallError {
    #[error("{} is not valid JSON (line {line}, column {column}): {reason}; it was left as it is", path.display())]
    Unparsable {
        path: PathBuf,
        line: usize,
        column: usize,
        reason: String,
    },
    #[error("{} does not hold a JSON object; it was left as it is", path.display())]
    NotAnObject { path: PathBuf },
    #[error("\"runtimes\" in {} is not a JSON object; the file was left as it is", path.display())]
    RuntimesNotAnObject { path: PathBuf },
    #[error("{} is a symbolic link to a file that does not exist", path.display())]
    DanglingLink { path: PathBuf },
    #[error("runtime `{name}` in {} already means {existing}; choose another --name", path.display())]
    NameTaken {
        name: String,
        path: PathBuf,
        existing: String,
    },
    #[error("`{name}` cannot name a runtime: {reason}")]
    BadName { name: String, reason: &'static str },
    #[error("`{value}` cannot be passed through the engine as {what}: {reason}")]
    BadArgument {
        what: &'static str,
        value: String,
        reason: &'static str,
    },
    #[error("runtime `{name}` is the engine's default-runtime in {}; change that first", path.display())]
    IsDefault { name: String, path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} was written, but the engine (pid {pid}) could not be told to reload", path.display())]
    Signal {
        pid: i32,
        path: PathBuf,
        source: nix::Error,
    },
}
