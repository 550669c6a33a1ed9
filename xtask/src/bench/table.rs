//! The figures of one row in one mode, and how they are judged.

use super::column::Kind;
use super::mode::Mode;
use super::rows::Bound;
use super::statistics::{describe, median, short};

/// What one runtime gave.
#[derive(Debug, Clone)]
pub enum Cell {
    Samples(Vec<f64>),
    /// There are none: a sample failed
    Failed,
}

/// A line of a table.
#[derive(Debug)]
pub struct Line {
    pub name: &'static str,
    pub unit: &'static str,
    pub mode: Mode,
    pub bound: Bound,
    pub cells: Vec<(Kind, Cell)>,
}

impl Line {
    fn cell(&self, kind: Kind) -> Option<&Cell> {
        let found = self.cells.iter().find(|(other, _)| *other == kind);
        found.map(|(_, cell)| cell)
    }

    fn median(&self, kind: Kind) -> Option<f64> {
        match self.cell(kind)? {
            Cell::Samples(samples) => Some(median(samples)),
            Cell::Failed => None,
        }
    }

    /// The runtime's median over runc's.
    pub fn ratio(&self, kind: Kind) -> Option<f64> {
        Some(self.median(kind)? / self.median(Kind::Reference)?)
    }

    /// Median and spread, or why there is none.
    pub fn text(&self, kind: Kind) -> String {
        match self.cell(kind) {
            Some(Cell::Samples(samples)) => describe(samples),
            Some(Cell::Failed) => "failed".to_owned(),
            None => "–".to_owned(),
        }
    }

    pub fn ratio_text(&self, kind: Kind) -> String {
        self.ratio(kind)
            .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))
    }

    /// Whether a bound is kept; `None` where there is none. What failed keeps none.
    pub fn is_met(&self) -> Option<bool> {
        let ratio = self.ratio(Kind::Subject);
        match self.bound {
            Bound::AtLeast(least) => Some(ratio.is_some_and(|ratio| ratio >= least)),
            Bound::AtMost(most) => Some(ratio.is_some_and(|ratio| ratio <= most)),
            Bound::OwnAtLeast(least) => Some(
                self.median(Kind::Subject)
                    .is_some_and(|value| value >= least),
            ),
            Bound::Report | Bound::Skip => None,
        }
    }

    pub fn wanted(&self) -> String {
        match self.bound {
            Bound::AtLeast(least) => format!("≥ {least}"),
            Bound::AtMost(most) => format!("≤ {most}"),
            Bound::OwnAtLeast(least) => format!("itself ≥ {least}"),
            Bound::Report | Bound::Skip => "–".to_owned(),
        }
    }

    /// The bound, if it is one of the ratio to runc's throughput.
    pub fn wanted_ratio(&self) -> Option<f64> {
        match self.bound {
            Bound::AtLeast(least) => Some(least),
            _ => None,
        }
    }

    /// Whether more is better, so that a longer bar is.
    pub fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }

    /// For the terminal.
    pub fn summary(&self) -> String {
        let reference = self.median(Kind::Reference).map_or("failed".into(), short);
        let subject = self.median(Kind::Subject).map_or("failed".into(), short);
        let gvisor = self.cell(Kind::Gvisor).map_or_else(String::new, |_| {
            format!(", gVisor {}", self.ratio_text(Kind::Gvisor))
        });
        format!(
            "{reference} {} → {subject}, ratio {} (wanted {}){gvisor}",
            self.unit,
            self.ratio_text(Kind::Subject),
            self.wanted()
        )
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn line(bound: Bound, reference: f64, subject: Option<f64>) -> Line {
        let subject = subject.map_or_else(|| Cell::Failed, |value| Cell::Samples(vec![value]));
        Line {
            name: "echo",
            unit: "round trips/s",
            mode: Mode::Shared,
            bound,
            cells: vec![
                (Kind::Reference, Cell::Samples(vec![reference])),
                (Kind::Subject, subject),
            ],
        }
    }

    #[test]
    fn bounds_are_of_the_ratio_or_of_the_value() {
        let met = |bound, subject| line(bound, 2.0, subject).is_met();
        assert_eq!(met(Bound::AtLeast(2.0), Some(4.0)), Some(true));
        assert_eq!(met(Bound::AtLeast(2.1), Some(4.0)), Some(false));
        assert_eq!(met(Bound::AtMost(0.5), Some(1.0)), Some(true));
        assert_eq!(met(Bound::OwnAtLeast(0.95), Some(0.96)), Some(true));
        assert_eq!(met(Bound::Report, Some(1.0)), None);
    }

    #[test]
    fn a_failure_meets_nothing() {
        let line = line(Bound::AtLeast(1.0), 2.0, None);
        assert_eq!(line.is_met(), Some(false));
        assert_eq!(
            (line.text(Kind::Subject), line.ratio(Kind::Subject)),
            ("failed".to_owned(), None)
        );
        assert_eq!(line.text(Kind::Gvisor), "–");
    }
}
