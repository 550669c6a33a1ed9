//! Medians, spreads and the text of docs/BENCHMARKS.md.

use anyhow::Result;
use std::fmt::Write as _;
use std::fs;

/// Samples of one job under both runtimes.
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

#[derive(Debug, Default)]
pub struct Table {
    pub comparisons: Vec<Comparison>,
    pub figures: Vec<Figure>,
}

/// The value below which `share` of the samples lie, interpolated.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = share * (sorted.len() - 1) as f64;
    let (below, above) = (
        sorted[position.floor() as usize],
        sorted[position.ceil() as usize],
    );
    below + (above - below) * position.fract()
}

/// Median and distance between the quartiles.
fn describe(samples: &[f64]) -> String {
    let spread = quantile(samples, 0.75) - quantile(samples, 0.25);
    format!("{} ± {}", short(quantile(samples, 0.5)), short(spread))
}

fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

impl Comparison {
    pub fn ratio(&self) -> f64 {
        quantile(&self.subject, 0.5) / quantile(&self.reference, 0.5)
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

fn mark(is_met: bool) -> &'static str {
    if is_met { "yes" } else { "**no**" }
}

impl Table {
    /// The whole file.
    pub fn render(&self) -> Result<String> {
        let mut text =
            String::from("# Measurements\n\nWritten by `cargo xtask bench`; do not edit.\n\n");
        writeln!(text, "Machine: {}\n", machine())?;
        text.push_str(
            "Method: both runtimes under one Docker Engine, alternating within one run (who goes first changes each \
             round), one unmeasured run of each before. Given are medians ± the distance between the quartiles; what \
             counts is the ratio of the medians. Jobs are timed inside the container, except for the start of one.\n\n",
        );
        text.push_str("| what | unit | runc | pegasus | ratio | at most | met |\n|---|---|---|---|---|---|---|\n");
        for row in &self.comparisons {
            let (reference, subject) = (describe(&row.reference), describe(&row.subject));
            let (ratio, bound) = (row.ratio(), row.ratio_max);
            writeln!(
                text,
                "| {} | {} | {reference} | {subject} | {ratio:.2} | {bound:.2} | {} |",
                row.name,
                row.unit,
                mark(row.is_met())
            )?;
        }
        text.push_str("\n| what | wanted | found | met |\n|---|---|---|---|\n");
        for row in &self.figures {
            writeln!(
                text,
                "| {} | {} | {} | {} |",
                row.name,
                row.wanted,
                row.found,
                mark(row.is_met)
            )?;
        }
        let rounds = self
            .comparisons
            .first()
            .map_or(0, |row| row.reference.len());
        writeln!(text, "\nRounds of each comparison: {rounds}.")?;
        Ok(text)
    }
}

/// Processor, its number, memory and kernel.
fn machine() -> String {
    let field = |file: &str, key: &str| -> String {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with(key))
            .and_then(|line| line.split_once(':'));
        line.map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory_kib: u64 = field("/proc/meminfo", "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0);
    let is_guest = field("/proc/cpuinfo", "flags")
        .split(' ')
        .any(|flag| flag == "hypervisor");
    format!(
        "{cpus} × {}{}, {} GiB, Linux {}",
        field("/proc/cpuinfo", "model name"),
        if is_guest { " (virtual machine)" } else { "" },
        (memory_kib + (1 << 19)) >> 20,
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&samples, 0.5), 2.5);
        assert_eq!(quantile(&samples, 0.0), 1.0);
        assert_eq!(quantile(&samples, 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
    }

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
}
