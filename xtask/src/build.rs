//! Building the runtime.

use crate::progress::Step;
use crate::state::workspace;
use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Builds `pegasus` for release and returns its path.
pub fn pegasus() -> Result<PathBuf> {
    let step = Step::begin("building pegasus (release)");
    let mut command = cargo();
    command.args([
        "build",
        "--release",
        "--package",
        "pegasus",
        "--bin",
        "pegasus",
        "--quiet",
    ]);
    command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the build failed");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_ours =
            message["reason"] == "compiler-artifact" && message["target"]["name"] == "pegasus";
        is_ours
            .then(|| message["executable"].as_str().map(PathBuf::from))
            .flatten()
    });
    step.done("");
    executable.context("cargo did not say where it put pegasus")
}
