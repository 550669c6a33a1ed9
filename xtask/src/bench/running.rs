//! Taking samples: the runtimes by turns, each sample with containers of its own.

use super::column::{Column, Kind};
use super::mode::Mode;
use super::rows::{Job, Row};
use super::stage::Stage;
use super::table::{self, Line};
use super::{evidence, placement};
use crate::progress::Step;
use anyhow::{Result, ensure};
use pegasus_tests::harness::context::{Context, Shared};
use std::cell::Cell;
use std::time::Duration;

/// No sample takes longer: what does hangs, and says so.
const SAMPLE_LIMIT: Duration = Duration::from_secs(60);
/// The measured part of a sample.
const LENGTH: Duration = Duration::from_millis(1000);
/// That of the unmeasured run, which finds files in no cache, and tells rates.
const FIRST_LENGTH: Duration = Duration::from_millis(200);

/// What all samples of a run have in common.
#[derive(Debug)]
pub struct Laboratory<'a> {
    pub shared: &'a Shared,
    pub columns: Vec<Column>,
    pub rounds: usize,
    /// How often a sample of Pegasus has failed.
    pub faults: Cell<usize>,
}

/// The samples of one runtime: a vector per round.
#[derive(Debug, Default)]
struct Series {
    rounds: Vec<Vec<f64>>,
    last: Option<Vec<f64>>,
    fault: Option<String>,
}

impl Laboratory<'_> {
    /// One unmeasured run of each runtime, then the rounds. A runtime that fails is out of the job, and
    /// the job goes on: one crash must not cost the figures of an hour.
    pub fn measure(&self, job: &Job, mode: Mode) -> Result<Vec<Line>> {
        ensure!(self.rounds > 0, "--rounds must be at least 1");
        let step = Step::begin(format!("{} ({})", job.slug, mode.letter()));
        let columns: Vec<&Column> = self
            .columns
            .iter()
            .filter(|column| job.has_gvisor || column.kind != Kind::Gvisor)
            .collect();
        let mut series: Vec<Series> = columns.iter().map(|_| Series::default()).collect();
        for round in 0..=self.rounds {
            step.note(&format!("round {round} of {}", self.rounds));
            for turn in 0..columns.len() {
                let index = whose_turn(round, turn, columns.len());
                self.take(job, mode, columns[index], &mut series[index], round);
            }
        }
        let lines = lines_of(job, mode, &columns, &series);
        step.done(&summary(&lines));
        for (column, one) in columns.iter().zip(&series) {
            if let Some(fault) = &one.fault {
                eprintln!("  {} failed {fault}", column.kind.title());
            }
        }
        Ok(lines)
    }

    /// One sample; round 0 is not counted.
    fn take(&self, job: &Job, mode: Mode, column: &Column, series: &mut Series, round: usize) {
        if series.fault.is_some() {
            return;
        }
        let runtime = column.runtime(self.faults.get());
        let slug = format!("bench-{}-{runtime}-{round}", job.slug);
        let own = self.shared.site.runtimes.own.clone();
        let context = Context::new(self.shared, slug, own, SAMPLE_LIMIT);
        let stage = Stage {
            context: &context,
            runtime,
            mode,
            length: if round == 0 { FIRST_LENGTH } else { LENGTH },
            last: series.last.clone(),
        };
        let mut sample = self.values(job, &stage, round == 0 && column.kind == Kind::Subject);
        if let Err(fault) = sample {
            sample = Err(fault.context(evidence::collect(&context)));
        }
        let cleaned = context.clean_up();
        match sample.and_then(|values| cleaned.map(|()| values)) {
            Ok(values) => {
                if round > 0 {
                    series.rounds.push(values.clone());
                }
                series.last = Some(values);
            }
            Err(fault) => {
                series.fault = Some(format!("in round {round}: {fault:#}"));
                if column.kind == Kind::Subject {
                    self.faults.set(self.faults.get() + 1);
                }
            }
        }
    }

    /// One value for each row; `is_checked` asks whether they are of fused containers.
    fn values(&self, job: &Job, stage: &Stage, is_checked: bool) -> Result<Vec<f64>> {
        let values = (job.measure)(stage)?;
        let (found, wanted) = (values.len(), job.rows.len());
        ensure!(found == wanted, "{found} values for {wanted} rows");
        if is_checked && !self.shared.site.runtimes.groups.is_empty() {
            placement::ensure_fused(stage.context)?;
        }
        Ok(values)
    }
}

/// Who goes first changes from round to round, and each comes before each other in half of them.
fn whose_turn(round: usize, turn: usize, count: usize) -> usize {
    if round.is_multiple_of(2) {
        turn
    } else {
        count - 1 - turn
    }
}

fn lines_of(job: &Job, mode: Mode, columns: &[&Column], series: &[Series]) -> Vec<Line> {
    let cell = |one: &Series, index: usize| match &one.fault {
        Some(_) => table::Cell::Failed,
        None => table::Cell::Samples(one.rounds.iter().map(|values| values[index]).collect()),
    };
    let line = |(index, row): (usize, &'static Row)| Line {
        name: row.name,
        unit: row.unit,
        mode,
        bound: row.bounds[mode.index()],
        cells: columns
            .iter()
            .zip(series)
            .map(|(column, one)| (column.kind, cell(one, index)))
            .collect(),
    };
    job.rows.iter().enumerate().map(line).collect()
}

/// What is said of a job when it is over.
fn summary(lines: &[Line]) -> String {
    let texts = lines.iter().map(Line::summary);
    texts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_alternate() {
        let order = |round| [0, 1, 2].map(|turn| whose_turn(round, turn, 3));
        assert_eq!(order(0), [0, 1, 2]);
        assert_eq!(order(1), [2, 1, 0]);
    }
}
