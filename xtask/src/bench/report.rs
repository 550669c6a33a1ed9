//! The text of docs/BENCHMARKS.md.

use super::column::Kind;
use super::mode::{MODES, Mode};
use super::plot::{Bars, Chart};
use super::statistics::{describe, median};
use super::table::{Cell, Line};
use anyhow::Result;
use std::fmt::Write as _;

/// Samples of one job under both runtimes; the less the better.
#[derive(Debug)]
pub struct Comparison {
    pub name: &'static str,
    pub unit: &'static str,
    pub ratio_max: f64,
    pub reference: Vec<f64>,
    pub subject: Vec<f64>,
}

/// A property with its bound.
#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    pub wanted: String,
    pub found: String,
    pub is_met: bool,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Report {
    pub machine: Vec<(&'static str, String)>,
    /// gVisor's version, or why it was not measured.
    pub gvisor: String,
    pub rounds: usize,
    pub lines: Vec<Line>,
    pub comparisons: Vec<Comparison>,
    pub figures: Vec<Figure>,
}

const HEAD: &str =
    "# Measurements\n\nWritten by `cargo xtask bench`; do not edit.\n\n## Machine\n\n";

const METHOD: &str = "\n## Method\n\n\
    All runtimes run under one Docker Engine, from one image and with the same options, by turns within one run; the order changes each round. \
    One unmeasured run of each comes first. Given are medians ± the distance between the quartiles; what counts is the ratio of the medians. \
    Work is timed inside the containers, except for the start of one. Each sample of what containers say to each other has containers of its own and \
    measures one second. Pegasus has all containers of a sample in one fusion group (`--isolation none`).\n";

impl Comparison {
    pub fn ratio(&self) -> f64 {
        median(&self.subject) / median(&self.reference)
    }

    pub fn is_met(&self) -> bool {
        self.ratio() <= self.ratio_max
    }

    pub fn summary(&self) -> String {
        format!(
            "{:.2} × runc, at most {:.2} is wanted",
            self.ratio(),
            self.ratio_max
        )
    }
}

fn mark(is_met: Option<bool>) -> &'static str {
    match is_met {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "–",
    }
}

/// Name of a mode's chart below docs/.
pub fn plot_path(mode: Mode) -> String {
    format!("plots/{}.svg", mode.slug())
}

impl Report {
    /// The whole file.
    pub fn render(&self) -> Result<String> {
        let mut text = HEAD.to_owned();
        for (what, value) in &self.machine {
            writeln!(text, "* {what}: {value}")?;
        }
        writeln!(text, "* gVisor: {}", self.gvisor)?;
        text.push_str(METHOD);
        writeln!(text, "\nRounds: {}. {}", self.rounds, self.count_met())?;
        for mode in MODES {
            self.render_mode(&mut text, mode)?;
        }
        self.render_failures(&mut text)?;
        self.render_comparisons(&mut text)?;
        self.render_figures(&mut text)?;
        Ok(text)
    }

    fn count_met(&self) -> String {
        let lines = self.lines.iter().filter_map(Line::is_met);
        let comparisons = self.comparisons.iter().map(Comparison::is_met);
        let figures = self.figures.iter().map(|figure| figure.is_met);
        let all: Vec<bool> = lines.chain(comparisons).chain(figures).collect();
        let met = all.iter().filter(|is_met| **is_met).count();
        format!("Of {} bounds {met} are met.", all.len())
    }

    fn lines_in(&self, mode: Mode) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.mode == mode)
    }

    fn render_mode(&self, text: &mut String, mode: Mode) -> Result<()> {
        if self.lines_in(mode).next().is_none() {
            return Ok(());
        }
        writeln!(text, "\n## Between containers: {}\n", mode.title())?;
        if self.chart(mode).is_some() {
            writeln!(text, "![Ratios to runc]({})\n", plot_path(mode))?;
        }
        text.push_str(
            "| what | unit | runc | pegasus | gVisor | pegasus / runc | wanted | met | gVisor / runc |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for line in self.lines_in(mode) {
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                line.name,
                line.unit,
                line.text(Kind::Reference),
                line.text(Kind::Subject),
                line.text(Kind::Gvisor),
                line.ratio_text(Kind::Subject),
                line.wanted(),
                mark(line.is_met()),
                line.ratio_text(Kind::Gvisor),
            )?;
        }
        Ok(())
    }

    /// Which runtime failed where; the terminal has said why.
    fn render_failures(&self, text: &mut String) -> Result<()> {
        let cells = self.lines.iter().flat_map(|line| {
            let failed = line.cells.iter();
            let failed = failed.filter(|(_, cell)| matches!(cell, Cell::Failed));
            failed.map(move |(kind, _)| (line, kind.title()))
        });
        for (index, (line, kind)) in cells.enumerate() {
            if index == 0 {
                text.push_str("\n## Failed\n\n");
            }
            writeln!(text, "* {kind}: {} ({})", line.name, line.mode.title())?;
        }
        Ok(())
    }

    fn render_comparisons(&self, text: &mut String) -> Result<()> {
        if self.comparisons.is_empty() {
            return Ok(());
        }
        text.push_str(
            "\n## Files and CPU\n\nHere each container has an own instance.\n\n\
             | what | unit | runc | pegasus | ratio | at most | met |\n|---|---|---|---|---|---|---|\n",
        );
        for row in &self.comparisons {
            let (reference, subject) = (describe(&row.reference), describe(&row.subject));
            writeln!(
                text,
                "| {} | {} | {reference} | {subject} | {:.2} | {:.2} | {} |",
                row.name,
                row.unit,
                row.ratio(),
                row.ratio_max,
                mark(Some(row.is_met()))
            )?;
        }
        Ok(())
    }

    fn render_figures(&self, text: &mut String) -> Result<()> {
        if self.figures.is_empty() {
            return Ok(());
        }
        text.push_str("\n## Pegasus alone\n\n| what | wanted | found | met |\n|---|---|---|---|\n");
        for row in &self.figures {
            let is_met = mark(Some(row.is_met));
            writeln!(
                text,
                "| {} | {} | {} | {is_met} |",
                row.name, row.wanted, row.found
            )?;
        }
        Ok(())
    }

    /// Throughput in a mode as bars, if there is any.
    pub fn chart(&self, mode: Mode) -> Option<Chart> {
        let rows: Vec<Bars> = self
            .lines_in(mode)
            .filter(|line| line.is_rate())
            .map(|line| Bars {
                label: line.name.to_owned(),
                values: vec![line.ratio(Kind::Subject), line.ratio(Kind::Gvisor)],
                wanted: line.wanted_ratio(),
            })
            .collect();
        (!rows.is_empty()).then(|| Chart {
            title: format!("Throughput over runc's: {}", mode.title()),
            names: vec![Kind::Subject.title(), Kind::Gvisor.title()],
            rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Bound;
    use super::super::table::tests::line;
    use super::*;

    #[test]
    fn a_ratio_is_judged_by_its_bound() {
        let row = Comparison {
            name: "x",
            unit: "s",
            ratio_max: 1.1,
            reference: vec![1.0, 2.0, 3.0],
            subject: vec![2.2, 2.2, 9.0],
        };
        assert!((row.ratio() - 1.1).abs() < 1e-9 && row.is_met());
    }

    #[test]
    fn the_file_has_a_table_for_each_mode_with_lines() {
        let report = Report {
            machine: vec![("CPU", "2 × x".to_owned())],
            lines: vec![
                line(Bound::AtLeast(2.0), 10.0, Some(30.0)),
                line(Bound::AtLeast(2.0), 10.0, None),
            ],
            ..Report::default()
        };
        let text = report.render().unwrap();
        let row =
            "| echo | round trips/s | 10.00 ± 0.000 | 30.00 ± 0.000 | – | 3.00 | ≥ 2 | yes | – |";
        assert!(text.contains(row), "{text}");
        assert!(
            text.contains("| failed | – | – | ≥ 2 | **no** | – |"),
            "{text}"
        );
        assert!(text.contains("Of 2 bounds 1 are met."), "{text}");
        assert!(
            text.contains("* pegasus: echo (two CPUs, one network namespace)"),
            "{text}"
        );
        assert!(
            text.contains("plots/shared-network.svg") && !text.contains("bridge"),
            "{text}"
        );
        assert!(report.chart(Mode::Bridge).is_none());
        assert_eq!(report.chart(Mode::Shared).unwrap().rows.len(), 2);
    }
}
