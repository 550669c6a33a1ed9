//! Conformance: suites written by others, run under runc and under the runtime under test, outcome by outcome.
//!
//! A [`Suite`] knows its [`Program`]s and how to read what one printed. [`pair`] runs one and compares; [`reasons`]
//! holds the differences that are known and documented. `cargo xtask conformance` runs everything and writes
//! docs/COMPATIBILITY.md; [`crate::cases`] has the quick part.

pub mod go;
mod outcome;
pub mod pair;
mod programs;
mod python;
pub mod reasons;
mod stress;

pub use outcome::{Difference, Outcomes};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Name of the outcome that stands for a program's end.
pub const END: &str = "(end)";

/// One container to run: a program that tests many things, or does one piece of work.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: String,
    /// Options of `docker run`.
    pub options: Vec<String>,
    pub command: Vec<String>,
    pub input: String,
    pub limit: Duration,
    /// How it must end under the reference runtime: else it did not do its work, and nothing is compared.
    pub status: Option<i32>,
    pub pace: Pace,
}

/// Whether a program is short and steady enough for every run of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    Quick,
    Slow,
}

/// A family of programs whose output is read in the same way.
pub trait Suite: Send + Sync {
    /// One word, the first part of the names of its programs.
    fn name(&self) -> &'static str;
    /// Its heading.
    fn title(&self) -> &'static str;
    fn programs(&self) -> Vec<Program>;
    /// The tests that a program ran, from its standard output.
    fn outcomes(&self, stdout: &str) -> Outcomes;
}

impl Program {
    fn new(name: &str, command: &[&str], limit_s: u64) -> Self {
        Self {
            name: name.to_owned(),
            options: Vec::new(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            input: String::new(),
            limit: Duration::from_secs(limit_s),
            status: None,
            pace: Pace::Slow,
        }
    }

    fn options(mut self, options: &[&str]) -> Self {
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self
    }
}

/// All suites. `go_tests` is where Go's test programs have been built.
pub fn suites(go_tests: PathBuf) -> Vec<Box<dyn Suite>> {
    vec![
        Box::new(python::Python),
        Box::new(stress::Stress),
        Box::new(go::Go { tests: go_tests }),
        Box::new(programs::Programs),
    ]
}

/// What every run of the tests runs; its programs are in the test image.
pub fn quick() -> (Arc<dyn Suite>, Vec<Program>) {
    let suite = python::Python;
    let programs = suite.programs().into_iter();
    let programs = programs.filter(|program| program.pace == Pace::Quick);
    (Arc::new(suite), programs.collect())
}
