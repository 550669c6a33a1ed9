//! What is left to see of a sample that failed: the state and the last words of its containers.

use anyhow::Result;
use pegasus_tests::harness::command::finish;
use pegasus_tests::harness::context::Context;
use std::time::Duration;

/// The sample's own time may be over.
const LIMIT: Duration = Duration::from_secs(10);

/// For the terminal; a sample's containers are about to be removed.
pub fn collect(context: &Context) -> String {
    try_collect(context).unwrap_or_else(|fault| format!("nothing is known: {fault:#}"))
}

fn try_collect(context: &Context) -> Result<String> {
    let ask = |args: &[&str]| finish(context.docker_command().args(args), b"", LIMIT);
    let filter = format!("label={}", context.label());
    let format = "{{.Names}}\t{{.Command}}\t{{.Status}}";
    let list = ["ps", "--all", "--filter", &filter, "--format", format];
    let mut text = String::new();
    for line in ask(&list)?.text().lines() {
        let name = line.split('\t').next().unwrap_or_default();
        let logs = ask(&["logs", "--tail", "8", name])?;
        text += &format!("\n-- {line}\n{}{}", logs.stdout, logs.stderr);
    }
    Ok(text)
}
