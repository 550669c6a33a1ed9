//! `cargo xtask bench`: Pegasus against runc, in one interleaved run, into docs/BENCHMARKS.md.
//!
//! Each comparison alternates between the two runtimes, changing who goes first, so that whatever
//! else the machine does falls on both. What counts is the ratio of the medians; the spread shown is
//! the distance between the quartiles.

mod jobs;
mod report;

use crate::site::{self, Prepared};
use crate::{setup, state};
use anyhow::{Result, ensure};
use pegasus_tests::harness::context::{Context, Shared};
use report::{Comparison, Table};
use std::time::Duration;

/// No measurement takes longer.
const LIMIT: Duration = Duration::from_secs(3600);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    choice: site::Choice,
    /// How often each comparison is repeated
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only measurements whose name contains one of these; the report is then printed, not written
    filters: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::run(setup::EVERYTHING)?;
    let prepared = site::prepare(&arguments.choice)?;
    let table = measure(&prepared, arguments)?;
    let text = table.render()?;
    println!("\n{text}");
    if arguments.filters.is_empty() && prepared.site.pegasus.is_some() {
        let path = state::workspace().join("docs/BENCHMARKS.md");
        std::fs::write(&path, text)?;
        println!("written to {}", path.display());
    }
    prepared.engine.stop()
}

fn measure(prepared: &Prepared, arguments: &Arguments) -> Result<Table> {
    let shared = Shared::new(prepared.site.clone());
    let mut table = Table::default();
    let is_chosen = |name: &str| {
        arguments.filters.is_empty()
            || arguments
                .filters
                .iter()
                .any(|filter| name.contains(filter.as_str()))
    };
    for job in jobs::COMPARED.iter().filter(|job| is_chosen(job.name)) {
        let step = crate::progress::Step::begin(job.name);
        let context = Context::new(
            &shared,
            format!("bench-{}", job.slug),
            prepared.site.runtimes.own.clone(),
            LIMIT,
        );
        let comparison = compare(&context, job, arguments.rounds, &step);
        context.clean_up()?;
        let comparison = comparison?;
        step.done(&comparison.summary());
        table.comparisons.push(comparison);
    }
    for job in jobs::ABSOLUTE.iter().filter(|job| is_chosen(job.name)) {
        let step = crate::progress::Step::begin(job.name);
        if prepared.site.runtimes.groups.is_empty() {
            step.done("this runtime has no shared instances");
            continue;
        }
        let context = Context::new(
            &shared,
            format!("bench-{}", job.slug),
            prepared.site.runtimes.own.clone(),
            LIMIT,
        );
        let figure = (job.measure)(&context);
        context.clean_up()?;
        let figure = figure?;
        step.done(&figure.found);
        table.figures.push(figure);
    }
    Ok(table)
}

/// One unmeasured run of each side, then `rounds` of both in alternating order.
fn compare(
    context: &Context,
    job: &jobs::Compared,
    rounds: usize,
    step: &crate::progress::Step,
) -> Result<Comparison> {
    ensure!(rounds > 0, "--rounds must be at least 1");
    let sides = [pegasus_tests::harness::site::REFERENCE, context.runtime()];
    let mut samples: [Vec<f64>; 2] = Default::default();
    for side in sides {
        (job.measure)(context, side)?;
    }
    for round in 0..rounds {
        step.note(&format!("round {} of {rounds}", round + 1));
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            samples[side].push((job.measure)(context, sides[side])?);
        }
    }
    let [reference, subject] = samples;
    Ok(Comparison {
        name: job.name,
        unit: job.unit,
        ratio_max: job.ratio_max,
        reference,
        subject,
    })
}
