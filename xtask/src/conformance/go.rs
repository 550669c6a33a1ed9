//! Go's test programs, built with the machine's Go from the sources that Debian ships.

use crate::progress::Step;
use crate::shell;
use anyhow::{Context as _, Result};
use pegasus_tests::conformance::go::{GOROOT, PACKAGES, file_name};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds what is missing. They only change with Debian's packages, which `cache` does not outlive.
pub fn ensure(cache: &Path) -> Result<PathBuf> {
    let step = Step::begin("Go's tests");
    let directory = cache.join("go-tests");
    std::fs::create_dir_all(&directory)?;
    let mut built = 0;
    for package in PACKAGES {
        let file = directory.join(file_name(package));
        if file.exists() {
            continue;
        }
        step.note(package);
        let mut command = Command::new("go");
        command
            .args(["test", "-c", "-tags", "timetzdata", "-o"])
            .arg(&file)
            .arg(package)
            .current_dir(format!("{GOROOT}/src"))
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", cache.join("go-build"));
        shell::quiet_command(&mut command)
            .with_context(|| format!("building {package}'s tests"))?;
        built += 1;
    }
    step.done(&format!("{built} built"));
    Ok(directory)
}
