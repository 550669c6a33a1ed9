//! `cargo xtask …`: everything there is to do around the code.
//!
//! | command | what it does |
//! |---|---|
//! | `setup` | installs what is missing on a Debian or Ubuntu machine |
//! | `demo`  | from a fresh machine to two fused containers |
//! | `test`  | set-up, unit tests, end-to-end suite |
//! | `conformance` | other people's test suites, compared with runc, writes docs/COMPATIBILITY.md |
//! | `bench` | measures against runc, writes docs/BENCHMARKS.md |
//! | `engine`| runs the suite's own engine in the foreground, for trying things by hand |
//!
//! One module per command; the others are the parts they share: [`state`] (where things are kept),
//! [`progress`] (what is shown), [`shell`] (programs), [`engine`], [`image`], [`programs`].
#![forbid(unsafe_code)]

mod bench;
mod build;
mod conformance;
mod demo;
mod engine;
mod fingerprint;
mod image;
mod programs;
mod progress;
mod setup;
mod shell;
mod site;
mod state;
mod test;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "Set-up, demo, tests and measurements of Pegasus"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing on this machine
    Setup,
    /// From a fresh machine to two containers in one address space
    Demo,
    /// Run every test, or those whose name contains a FILTER
    Test(test::Arguments),
    /// Measure against runc
    Bench(bench::Arguments),
    /// Run other people's test suites under runc and under Pegasus, and compare
    Conformance(conformance::Arguments),
    /// Run the engine of the test suite in the foreground
    Engine(site::Choice),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(fault) => {
            eprintln!("error: {fault:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "containers need root; run this as root"
    );
    match command {
        Command::Setup => setup::run(setup::EVERYTHING).map(|()| ExitCode::SUCCESS),
        Command::Demo => demo::run().map(|()| ExitCode::SUCCESS),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Conformance(arguments) => conformance::run(&arguments),
        Command::Engine(arguments) => {
            site::run_in_foreground(&arguments).map(|()| ExitCode::SUCCESS)
        }
    }
}
