//! `cargo xtask test`: set-up, unit tests, end-to-end suite, one count at the end.

use crate::state::workspace;
use crate::{build, setup, site};
use anyhow::{Context as _, Result};
use clap::ValueEnum;
use pegasus_tests::harness::runner::SkipPolicy;
use pegasus_tests::{Options, Summary, cases};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    site: site::Choice,
    /// Which tests
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    /// Only tests whose name contains one of these
    filters: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    All,
    /// `cargo test` of the workspace
    Unit,
    /// The end-to-end suite
    E2e,
}

/// Packages that cargo cannot test: the freestanding image has no test harness to link with.
const UNTESTABLE: &[&str] = &["pegasus-image"];

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    setup::run(setup::EVERYTHING)?;
    let mut total = Summary::default();
    if arguments.part != Part::E2e {
        add(&mut total, unit_tests(&arguments.filters)?);
        add(&mut total, models(&arguments.filters)?);
    }
    if arguments.part != Part::Unit {
        let skips = if std::env::var("CI").as_deref() == Ok("true") {
            SkipPolicy::Strict
        } else {
            SkipPolicy::Allow
        };
        let prepared = site::prepare(&arguments.site)?;
        let options = Options {
            filters: arguments.filters.clone(),
            skips,
        };
        add(
            &mut total,
            pegasus_tests::run(&prepared.site, cases::all(), &options),
        );
        prepared.engine.stop()?;
    }
    println!("\nfinished in {:.0} s", began.elapsed().as_secs_f64());
    print!("{} passed, {} failed", total.passed, total.failed);
    println!(
        "{}",
        if total.skipped > 0 {
            format!(", {} skipped", total.skipped)
        } else {
            String::new()
        }
    );
    Ok(if total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn add(total: &mut Summary, part: Summary) {
    total.passed += part.passed;
    total.failed += part.failed;
    total.skipped += part.skipped;
    total.failures.extend(part.failures);
}

fn unit_tests(filters: &[String]) -> Result<Summary> {
    println!("\nunit tests");
    let mut command = build::cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    for package in UNTESTABLE {
        command.args(["--exclude", package]);
    }
    command.arg("--").args(filters);
    counted(command)
}

/// The lock-free parts under the model checker. It has atomics of its own, so everything is built once more, elsewhere.
fn models(filters: &[String]) -> Result<Summary> {
    println!("\nmodels");
    let mut command = build::cargo();
    command
        .args(["test", "--package", "pegasus-sync", "--release"])
        .args(["--test", "loom", "--"])
        .args(filters)
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", workspace().join("target/loom"));
    counted(command)
}

/// `cargo test` with its own output; counts what it says.
fn counted(mut command: Command) -> Result<Summary> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut summary = Summary::default();
    for line in BufReader::new(child.stdout.take().context("no stdout")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(counts) = line.strip_prefix("test result: ") {
            summary.passed += count(counts, "passed");
            summary.failed += count(counts, "failed");
            summary.skipped += count(counts, "ignored");
        }
    }
    if !child.wait()?.success() && summary.failed == 0 {
        summary.failed = 1;
        summary.failures.push("cargo test".to_owned());
        println!("test cargo test ... FAILED (it did not build, or a test program crashed)");
    }
    Ok(summary)
}

/// The number before `word` in `ok. 17 passed; 0 failed; …`.
fn count(counts: &str, word: &str) -> usize {
    let words: Vec<&str> = counts.split([' ', ';']).collect();
    words
        .windows(2)
        .find(|pair| pair[1] == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_counts_of_a_result_line() {
        let line =
            "ok. 17 passed; 2 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        let counts =
            ["passed", "failed", "ignored", "missing"].map(|word| super::count(line, word));
        assert_eq!(counts, [17, 2, 3, 0]);
    }
}
