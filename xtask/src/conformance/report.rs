//! docs/COMPATIBILITY.md: a table for each suite, and every difference with its reason.

use crate::shell;
use anyhow::Result;
use pegasus_tests::conformance::Difference;
use pegasus_tests::conformance::pair::Pair;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One suite.
#[derive(Debug)]
pub struct Section {
    title: &'static str,
    pub rows: Vec<Row>,
}

/// One program in one placement.
#[derive(Debug, Clone)]
pub struct Row {
    program: String,
    placement: &'static str,
    tests: usize,
    pub known: Vec<(Difference, String)>,
    pub defects: Vec<Difference>,
    pub unsteady: Vec<Difference>,
}

impl Section {
    pub fn new(title: &'static str) -> Self {
        Self {
            title,
            rows: Vec::new(),
        }
    }

    pub fn tests(&self) -> usize {
        self.rows.iter().map(|row| row.tests).sum()
    }
}

impl Row {
    pub fn new(program: &str, placement: &'static str, pair: &Pair) -> Self {
        Self {
            program: program.to_owned(),
            placement,
            tests: pair.reference.outcomes.len(),
            known: Vec::new(),
            defects: Vec::new(),
            unsteady: pair.unsteady.clone(),
        }
    }

    fn different(&self) -> usize {
        self.known.len() + self.defects.len()
    }

    /// For the terminal.
    pub fn line(&self, name: &str) -> String {
        let mark = if self.defects.is_empty() {
            "ok"
        } else {
            "DIFFER"
        };
        let mut line = format!("{mark:<6} {name}: {} tests", self.tests);
        for (count, what) in [
            (self.defects.len(), "different"),
            (self.known.len(), "known to differ"),
            (self.unsteady.len(), "unsteady"),
        ] {
            if count > 0 {
                let _ = write!(line, ", {count} {what}");
            }
        }
        line
    }
}

const INTRODUCTION: &str = "\
# Compatibility

Written by `cargo xtask conformance`; do not edit.

Test suites and programs written by others run in the same image with the same options under runc and under
Pegasus: in an own instance and in a shared one. Compared is what each test came to, and how each program ended. What differs
is run once more under both; it counts if it differs again. A program's first process, its threads and its forks are in the vkernel;
what it executes from there is native (docs/LIMITS.md).
";

/// The whole file.
pub fn write(sections: &[Section]) -> Result<String> {
    let mut text = INTRODUCTION.to_owned();
    let kernel = shell::quiet("uname", ["-sr"])?;
    let tests: usize = sections.iter().map(Section::tests).sum();
    let rows = || sections.iter().flat_map(|section| &section.rows);
    let different: usize = rows().map(Row::different).sum();
    let defects: usize = rows().map(|row| row.defects.len()).sum();
    writeln!(
        text,
        "\nKernel: {}. Compared: {tests} outcomes; {different} differ, {defects} of them without a reason so far.",
        kernel.text()
    )?;
    for section in sections {
        write_section(&mut text, section)?;
    }
    Ok(text)
}

fn write_section(text: &mut String, section: &Section) -> Result<()> {
    writeln!(text, "\n## {}\n", section.title)?;
    writeln!(
        text,
        "| program | tests | own: same | own: different | shared: same | shared: different |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    let mut programs: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in &section.rows {
        programs.entry(&row.program).or_default().push(row);
    }
    for (program, rows) in programs {
        let cells = |placement: &str| {
            let row = rows.iter().find(|row| row.placement == placement);
            row.map_or("– | –".to_owned(), |row| {
                // A test that only Pegasus ran is different and not among the reference's.
                let same = row.tests.saturating_sub(row.different());
                format!("{same} | {}", row.different())
            })
        };
        let tests = rows.first().map_or(0, |row| row.tests);
        writeln!(
            text,
            "| {program} | {tests} | {} | {} |",
            cells("own"),
            cells("shared")
        )?;
    }
    let mut lines = Vec::new();
    for row in &section.rows {
        let of = |difference: &Difference, why: &str| {
            let Difference {
                test,
                expected,
                found,
            } = difference;
            let word =
                |outcome: &Option<String>| outcome.clone().unwrap_or_else(|| "not run".into());
            let line = format!(
                "| {} | {} | {test} | {} | {} | {why} |",
                row.program,
                row.placement,
                word(expected),
                word(found)
            );
            line.replace('\n', " ")
        };
        lines.extend(
            row.known
                .iter()
                .map(|(difference, reason)| of(difference, reason)),
        );
        lines.extend(
            row.defects
                .iter()
                .map(|difference| of(difference, "**a defect**")),
        );
    }
    if !lines.is_empty() {
        writeln!(
            text,
            "\n| program | placement | test | runc | pegasus | why |\n|---|---|---|---|---|---|"
        )?;
        writeln!(text, "{}", lines.join("\n"))?;
    }
    Ok(())
}
