//! `cargo xtask conformance`: suites written by others, under runc and under Pegasus, outcome by outcome.
//!
//! [`pegasus_tests::conformance`] has the suites and the comparison; this runs them on a prepared machine and
//! prints every difference. A whole run writes docs/COMPATIBILITY.md ([`report`]).

mod go;
mod report;

use crate::state::workspace;
use crate::{image, setup, site};
use anyhow::Result;
use pegasus_tests::conformance::pair::{Pair, Run, compare, reference};
use pegasus_tests::conformance::reasons::{Known, known};
use pegasus_tests::conformance::{Difference, END, Pace, Program, Suite, suites};
use pegasus_tests::harness::context::{Context, Shared};
use pegasus_tests::harness::site::{CONFORMANCE_IMAGE, REFERENCE, Site};
use report::{Row, Section};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    site: site::Choice,
    /// Only what every run of the tests runs
    #[arg(long)]
    quick: bool,
    /// Only in this placement: own or shared
    #[arg(long)]
    placement: Option<String>,
    /// Print what the programs printed
    #[arg(long)]
    verbose: bool,
    /// Only programs whose name (`suite/program`) contains one of these
    filters: Vec<String>,
}

/// A placement's name and the engine's runtime for it.
type Placement = (&'static str, String);

/// One run of the command.
struct Session<'a> {
    arguments: &'a Arguments,
    shared: Shared,
    placements: Vec<Placement>,
    known: Vec<Known>,
    /// Entries of the list that were looked for, and those that were found.
    due: BTreeSet<usize>,
    met: BTreeSet<usize>,
    defects: usize,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    setup::run(setup::EVERYTHING)?;
    let prepared = site::prepare(&arguments.site)?;
    let cache = prepared.cache()?;
    image::ensure_conformance(&prepared.engine, &cache)?;
    let all = suites(go::ensure(&cache)?);
    let mut session = Session {
        arguments,
        placements: placements(&prepared.site, arguments.placement.as_deref()),
        shared: Shared::new(prepared.site.clone()),
        known: known()?,
        due: BTreeSet::new(),
        met: BTreeSet::new(),
        defects: 0,
    };
    let mut sections = Vec::new();
    for suite in &all {
        sections.push(session.suite(suite.as_ref())?);
    }
    let stale = session.stale();
    for entry in &stale {
        println!("  STALE  {entry}: no such difference any more; take it out of reasons.txt");
    }
    let is_whole =
        arguments.filters.is_empty() && !arguments.quick && arguments.placement.is_none();
    if is_whole {
        let path = workspace().join("docs/COMPATIBILITY.md");
        std::fs::write(&path, report::write(&sections)?)?;
        println!("\nwritten: {}", path.display());
    }
    let tests: usize = sections.iter().map(Section::tests).sum();
    println!(
        "\n{tests} tests compared in {:.0} s: {} differences without a reason, {} stale reasons",
        began.elapsed().as_secs_f64(),
        session.defects,
        stale.len()
    );
    prepared.engine.stop()?;
    Ok(if session.defects == 0 && stale.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn placements(site: &Site, only: Option<&str>) -> Vec<Placement> {
    let own = [("own", site.runtimes.own.clone())];
    let shared = site.runtimes.shared.iter();
    let shared = shared.map(|group| ("shared", group.runtime.clone()));
    let all = own.into_iter().chain(shared);
    all.filter(|(name, _)| only.is_none_or(|only| only == *name))
        .collect()
}

impl Session<'_> {
    fn suite(&mut self, suite: &dyn Suite) -> Result<Section> {
        println!("\n{}", suite.title());
        let mut section = Section::new(suite.title());
        for program in suite.programs() {
            if self.is_chosen(suite, &program) {
                section.rows.extend(self.program(suite, &program)?);
            }
        }
        Ok(section)
    }

    fn is_chosen(&self, suite: &dyn Suite, program: &Program) -> bool {
        let name = format!("{}/{}", suite.name(), program.name);
        let filters = &self.arguments.filters;
        let is_named = filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
        is_named && (!self.arguments.quick || program.pace == Pace::Quick)
    }

    /// One row for each placement.
    fn program(&mut self, suite: &dyn Suite, program: &Program) -> Result<Vec<Row>> {
        // The reference and the second look have each the time of a run.
        let limit = program.limit;
        let context = self.context(suite, program, "runc", REFERENCE, limit);
        let reference = reference(&context, suite, program, CONFORMANCE_IMAGE)?;
        context.clean_up()?;
        let mut rows = Vec::new();
        for (placement, runtime) in self.placements.clone() {
            let began = Instant::now();
            let context = self.context(suite, program, placement, &runtime, 3 * limit);
            let pair = compare(&context, suite, program, &reference, CONFORMANCE_IMAGE)?;
            context.clean_up()?;
            let row = self.judge(suite, program, placement, &pair);
            println!(
                "  {} ({:.1} s)",
                row.line(&format!("{}/{} [{placement}]", suite.name(), program.name)),
                began.elapsed().as_secs_f64()
            );
            self.show(&row, &reference, &pair);
            rows.push(row);
        }
        Ok(rows)
    }

    fn context(
        &self,
        suite: &dyn Suite,
        program: &Program,
        placement: &str,
        runtime: &str,
        limit: Duration,
    ) -> Context<'_> {
        let slug = format!("ct-{}-{}-{placement}", suite.name(), program.name);
        let slug = slug.replace('/', "-");
        Context::new(&self.shared, slug, runtime.to_owned(), limit)
    }

    fn judge(
        &mut self,
        suite: &dyn Suite,
        program: &Program,
        placement: &'static str,
        pair: &Pair,
    ) -> Row {
        let entries = self.known.iter().enumerate();
        let about: Vec<(usize, &Known)> = entries
            .filter(|(_, entry)| entry.is_about(placement, suite.name(), &program.name))
            .collect();
        self.due.extend(about.iter().map(|(index, _)| *index));
        let covering = |difference: &Difference| {
            let mut covering = about.iter();
            covering.find(|(_, entry)| entry.covers(&difference.test))
        };
        let mut row = Row::new(&program.name, placement, pair);
        for difference in &pair.steady {
            // A program that reports a failing test ends with another status.
            let is_end = difference.test == END;
            match covering(difference) {
                Some((index, entry)) => {
                    self.met.insert(*index);
                    row.known.push((difference.clone(), entry.reason.clone()));
                }
                None if is_end && pair.steady.len() > 1 && !pair.found.is_cut_off() => {}
                None => row.defects.push(difference.clone()),
            }
        }
        let seldom = pair.unsteady.iter().filter_map(covering);
        self.met.extend(seldom.map(|(index, _)| *index));
        self.defects += row.defects.len();
        row
    }

    fn show(&self, row: &Row, reference: &Run, pair: &Pair) {
        for difference in &row.defects {
            println!("         DIFFERENT {difference}");
        }
        for (difference, reason) in &row.known {
            println!("         known     {difference} ({reason})");
        }
        for difference in &row.unsteady {
            println!("         unsteady  {difference}");
        }
        if self.arguments.verbose {
            println!(
                "-- runc\n{}\n-- found\n{}",
                reference.shown, pair.found.shown
            );
        }
    }

    fn stale(&self) -> Vec<String> {
        let missing = self.due.difference(&self.met);
        missing.map(|index| self.known[*index].name()).collect()
    }
}
