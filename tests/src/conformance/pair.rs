//! Running a program under the reference runtime and under the one under test.

use super::{Difference, END, Outcomes, Program, Suite};
use crate::harness::command::Finished;
use crate::harness::container::Spec;
use crate::harness::context::Context;
use crate::harness::site::REFERENCE;
use anyhow::{Result, ensure};

const CUT_OFF: &str = "not within its limit";

/// One run of a program.
#[derive(Debug, Clone)]
pub struct Run {
    pub outcomes: Outcomes,
    /// What it printed, for looking into a difference.
    pub shown: String,
}

impl Run {
    /// Whether it was ended from outside, so that the tests that follow are missing.
    pub fn is_cut_off(&self) -> bool {
        self.outcomes.get(END) == Some(CUT_OFF)
    }
}

/// Both runs of a program, and what differs every time.
#[derive(Debug, Clone)]
pub struct Pair {
    pub reference: Run,
    pub found: Run,
    pub steady: Vec<Difference>,
    /// What differed the first time only.
    pub unsteady: Vec<Difference>,
}

/// Runs `program` on `runtime`. That it does not end in time is an outcome like others.
pub fn run(
    context: &Context<'_>,
    suite: &dyn Suite,
    program: &Program,
    runtime: &str,
    image: &str,
) -> Run {
    let spec = describe(context.on(runtime), program, image);
    let (outcomes, shown) = match spec.run() {
        Ok(done) => (read(suite, &done), done.describe()),
        Err(fault) => {
            let mut outcomes = Outcomes::default();
            outcomes.add(END, CUT_OFF);
            (outcomes, format!("{fault:#}"))
        }
    };
    Run { outcomes, shown }
}

fn describe<'c, 'a>(spec: Spec<'c, 'a>, program: &Program, image: &str) -> Spec<'c, 'a> {
    let spec = spec
        .image(image)
        .options(&program.options)
        .command(&program.command);
    if program.input.is_empty() {
        spec
    } else {
        spec.input(program.input.as_bytes())
    }
}

fn read(suite: &dyn Suite, done: &Finished) -> Outcomes {
    let mut outcomes = suite.outcomes(&done.stdout);
    outcomes.add(END, format!("exit status {}", done.status));
    outcomes
}

/// The run that others are compared with. Fails when the program could not do its work.
pub fn reference(
    context: &Context<'_>,
    suite: &dyn Suite,
    program: &Program,
    image: &str,
) -> Result<Run> {
    let done = run(context, suite, program, REFERENCE, image);
    let wanted = program.status.map(|status| format!("exit status {status}"));
    let is_as_wanted = wanted.is_none_or(|wanted| done.outcomes.get(END) == Some(wanted.as_str()));
    ensure!(
        is_as_wanted,
        "{} did not do its work under {REFERENCE}: {}",
        program.name,
        done.shown
    );
    Ok(done)
}

/// Compares with a reference that has been run. What differs is run once more under both, so that what a
/// test does once in a while is not taken for a difference between runtimes.
pub fn compare(
    context: &Context<'_>,
    suite: &dyn Suite,
    program: &Program,
    reference: &Run,
    image: &str,
) -> Result<Pair> {
    let found = run(context, suite, program, context.runtime(), image);
    let first = reference.outcomes.differences(&found.outcomes);
    let mut pair = Pair {
        reference: reference.clone(),
        found,
        steady: Vec::new(),
        unsteady: Vec::new(),
    };
    if first.is_empty() {
        return Ok(pair);
    }
    let again = run(context, suite, program, REFERENCE, image);
    let found_again = run(context, suite, program, context.runtime(), image);
    let second = again.outcomes.differences(&found_again.outcomes);
    (pair.steady, pair.unsteady) = first
        .into_iter()
        .partition(|difference| second.iter().any(|other| other.test == difference.test));
    Ok(pair)
}
