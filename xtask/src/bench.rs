//! `cargo xtask bench`: Pegasus against runc and gVisor, in one interleaved run, into
//! docs/BENCHMARKS.md and its charts.
//!
//! Each comparison goes through the runtimes by turns, changing who goes first, so that whatever
//! else the machine does falls on all. What counts is the ratio of the medians; the spread shown is
//! the distance between the quartiles.
//!
//! [`rows`] and [`jobs`] say what is measured and what is wanted, [`loads`] how, [`mode`] and
//! [`column`] in which ways and by which runtimes; [`running`] takes the samples, [`statistics`] and
//! [`table`] judge them, [`report`] and [`plot`] show them.

mod column;
mod evidence;
mod gvisor;
mod heap;
mod jobs;
mod loads;
mod machine;
mod mode;
mod placement;
mod plot;
mod report;
mod rows;
mod running;
mod stage;
mod statistics;
mod table;

use crate::site::{self, Prepared};
use crate::{progress::Step, setup, state};
use anyhow::{Result, ensure};
use mode::{MODES, Mode};
use pegasus_tests::harness::context::{Context, Shared};
use report::{Comparison, Figure, Report};
use running::Laboratory;
use std::cell::Cell;
use std::fs;
use std::time::Duration;

/// No job takes longer.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    choice: site::Choice,
    /// How often each comparison is repeated
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only this placement (a: two CPUs and one network, b: bridge, c: one CPU); nothing is written
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Leave gVisor out; nothing is written
    #[arg(long)]
    no_gvisor: bool,
    /// Only measurements whose name contains one of these; the report is then printed, not written
    filters: Vec<String>,
}

impl Arguments {
    /// Whether a measurement with one of these names is wanted.
    fn has_chosen<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> bool {
        let is_chosen = |name: &str| self.filters.iter().any(|filter| name.contains(filter));
        self.filters.is_empty() || names.into_iter().any(is_chosen)
    }

    fn modes(&self) -> impl Iterator<Item = Mode> {
        let only = self.mode;
        let all = MODES.into_iter();
        all.filter(move |mode| only.is_none_or(|only| only == *mode))
    }

    /// Whether this is the whole run, whose report replaces the one before.
    fn is_whole(&self) -> bool {
        self.filters.is_empty() && self.mode.is_none() && !self.no_gvisor
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    // Before our own preparations make some.
    let load = machine::load();
    setup::run(setup::EVERYTHING)?;
    let prepared = site::prepare(&arguments.choice)?;
    let mut report = measure(&prepared, arguments)?;
    report.machine.push(("load average at the start", load));
    println!("\n{}", report.render()?);
    if arguments.is_whole() && prepared.site.pegasus.is_some() {
        write(&report)?;
    }
    prepared.engine.stop()
}

/// The report and its charts, and no chart of an earlier run.
fn write(report: &Report) -> Result<()> {
    let docs = state::workspace().join("docs");
    for mode in MODES {
        let path = docs.join(report::plot_path(mode));
        if let Some(chart) = report.chart(mode) {
            fs::create_dir_all(path.parent().unwrap_or(&docs))?;
            fs::write(&path, chart.render())?;
        } else if path.exists() {
            fs::remove_file(&path)?;
        }
    }
    let path = docs.join("BENCHMARKS.md");
    fs::write(&path, report.render()?)?;
    println!("written to {}", path.display());
    Ok(())
}

fn measure(prepared: &Prepared, arguments: &Arguments) -> Result<Report> {
    let shared = Shared::new(prepared.site.clone());
    let mut report = Report {
        machine: machine::describe(&prepared.engine),
        rounds: arguments.rounds,
        ..Report::default()
    };
    measure_between_containers(prepared, &shared, arguments, &mut report)?;
    for job in jobs::COMPARED {
        if arguments.has_chosen([job.name, job.slug]) {
            report.comparisons.push(compare(&shared, job, arguments)?);
        }
    }
    // What is asked of shared instances alone.
    let has_groups = !prepared.site.runtimes.groups.is_empty();
    for job in jobs::ABSOLUTE.iter().filter(|_| has_groups) {
        if arguments.has_chosen([job.name, job.slug]) {
            report.figures.push(look(&shared, job)?);
        }
    }
    Ok(report)
}

/// A failure is a figure, too: it must not cost the others.
fn look(shared: &Shared, job: &jobs::Absolute) -> Result<Figure> {
    let step = Step::begin(job.name);
    let context = context(shared, job.slug);
    let figure = (job.measure)(&context);
    context.clean_up()?;
    let figure = figure.unwrap_or_else(|fault| {
        eprintln!("  {} failed: {fault:#}", job.name);
        Figure {
            name: job.name,
            wanted: "–".to_owned(),
            found: "failed".to_owned(),
            is_met: false,
        }
    });
    step.done(&figure.found);
    Ok(figure)
}

/// Everything that [`rows::JOBS`] lists.
fn measure_between_containers(
    prepared: &Prepared,
    shared: &Shared,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let is_chosen = |job: &rows::Job| {
        let names = job.rows.iter().map(|row| row.name);
        arguments.has_chosen(names.chain([job.slug]))
    };
    let chosen: Vec<&rows::Job> = rows::JOBS.iter().filter(|job| is_chosen(job)).collect();
    if chosen.is_empty() {
        return Ok(());
    }
    let gvisor = if arguments.no_gvisor {
        Err("left out".to_owned())
    } else {
        gvisor::ensure(prepared, shared)
    };
    report.gvisor = match &gvisor {
        Ok(_) => gvisor::description(),
        Err(reason) => format!("not measured: {reason}"),
    };
    let laboratory = Laboratory {
        shared,
        columns: column::columns(&prepared.site, gvisor.ok()),
        rounds: arguments.rounds,
        faults: Cell::new(0),
    };
    for mode in arguments.modes() {
        for job in chosen.iter().filter(|job| job.has_mode(mode)) {
            report.lines.extend(laboratory.measure(job, mode)?);
        }
    }
    Ok(())
}

fn context<'a>(shared: &'a Shared, slug: &str) -> Context<'a> {
    let own = shared.site.runtimes.own.clone();
    Context::new(shared, format!("bench-{slug}"), own, LIMIT)
}

/// One unmeasured run of each side, then `rounds` of both in alternating order.
fn compare(shared: &Shared, job: &jobs::Compared, arguments: &Arguments) -> Result<Comparison> {
    ensure!(arguments.rounds > 0, "--rounds must be at least 1");
    let step = Step::begin(job.name);
    let context = context(shared, job.slug);
    let taken = take(&context, job, arguments.rounds, &step);
    context.clean_up()?;
    // Without samples both sides are shown as failed.
    let [reference, subject] = taken.unwrap_or_else(|fault| {
        eprintln!("  {} failed: {fault:#}", job.name);
        Default::default()
    });
    let comparison = Comparison {
        name: job.name,
        unit: job.unit,
        ratio_max: job.ratio_max,
        reference,
        subject,
    };
    step.done(&comparison.summary());
    Ok(comparison)
}

/// The samples of runc and of the runtime under test.
fn take(
    context: &Context,
    job: &jobs::Compared,
    rounds: usize,
    step: &Step,
) -> Result<[Vec<f64>; 2]> {
    let sides = [pegasus_tests::harness::site::REFERENCE, context.runtime()];
    let mut samples: [Vec<f64>; 2] = Default::default();
    for round in 0..=rounds {
        step.note(&format!("round {round} of {rounds}"));
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let sample = (job.measure)(context, sides[side])?;
            if round > 0 {
                samples[side].push(sample);
            }
        }
    }
    Ok(samples)
}
