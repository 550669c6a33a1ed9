//! Running programs: quietly, with their output kept for the message when they fail.

use anyhow::{Context as _, Result, bail};
use pegasus_tests::harness::command::{Finished, finish};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longer than any step may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// Runs a program to its end; a status other than 0 is an error that shows what it printed.
pub fn quiet<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
) -> Result<Finished> {
    quiet_command(Command::new(program).args(args))
}

pub fn quiet_command(command: &mut Command) -> Result<Finished> {
    finish(command, b"", LIMIT)?.expect(0)
}

/// Runs a program whose failure is an answer too.
pub fn attempt<S: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = S>,
    limit: Duration,
) -> Result<Finished> {
    finish(Command::new(program).args(args), b"", limit)
}

/// Runs a program with its output shown.
pub fn shown(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!(
            "{} ended with {status}",
            command.get_program().to_string_lossy()
        );
    }
    Ok(())
}

/// Where a program is, searching PATH and the directories of system programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let directories = std::env::split_paths(&path).chain(system);
    directories
        .map(|directory| directory.join(program))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
