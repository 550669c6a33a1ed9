//! The quick part of the conformance suites; `cargo xtask conformance` runs them whole.

use crate::conformance::pair::{compare, reference};
use crate::conformance::reasons::known;
use crate::conformance::{Difference, END, Program, Suite, quick};
use crate::harness::case::Case;
use crate::harness::context::Context;
use crate::harness::site::TEST_IMAGE;
use anyhow::{Result, ensure};
use std::sync::Arc;

pub fn cases() -> Vec<Case> {
    let (suite, programs) = quick();
    let case = |program: Program| {
        let suite = Arc::clone(&suite);
        let name = format!("conformance::{}_{}", suite.name(), program.name);
        // Both runs, and both once more.
        let limit_s = 4 * program.limit.as_secs();
        Case::each(name, move |context| {
            judge(context, suite.as_ref(), &program)
        })
        .limit(limit_s)
    };
    programs.into_iter().map(case).collect()
}

fn judge(context: &Context<'_>, suite: &dyn Suite, program: &Program) -> Result<()> {
    let placement = if context.is_shared() { "shared" } else { "own" };
    let expected = reference(context, suite, program, TEST_IMAGE)?;
    let pair = compare(context, suite, program, &expected, TEST_IMAGE)?;
    let known = known()?;
    let has_reason = |difference: &&Difference| {
        known.iter().any(|entry| {
            entry.is_about(placement, suite.name(), &program.name) && entry.covers(&difference.test)
        })
    };
    let (known, new): (Vec<_>, Vec<_>) = pair.steady.iter().partition(has_reason);
    // A program that reports a failing test ends with another status.
    let new: Vec<String> = new
        .into_iter()
        .filter(|difference| known.is_empty() || difference.test != END)
        .map(Difference::to_string)
        .collect();
    ensure!(
        new.is_empty(),
        "differs from runc:\n{}\n{}",
        new.join("\n"),
        pair.found.shown
    );
    Ok(())
}
