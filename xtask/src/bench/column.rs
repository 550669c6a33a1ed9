//! The runtimes that are compared, each with what the engine calls it.

use pegasus_tests::harness::site::{REFERENCE, Site};

/// Which runtime's figures stand in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Reference,
    Subject,
    Gvisor,
}

impl Kind {
    pub fn title(self) -> &'static str {
        match self {
            Self::Reference => "runc",
            Self::Subject => "pegasus",
            Self::Gvisor => "gVisor",
        }
    }
}

/// One column of the tables.
#[derive(Debug, Clone)]
pub struct Column {
    pub kind: Kind,
    /// The engine's names of the runtime; more than one if there is more than one group.
    runtimes: Vec<String>,
}

impl Column {
    /// The name to use after so many faults: what a crash has left in one group's instance must not
    /// spoil the next job.
    pub fn runtime(&self, faults: usize) -> &str {
        &self.runtimes[faults % self.runtimes.len()]
    }
}

/// runc, Pegasus with all containers of a measurement in one group, and gVisor when there is one.
/// When the suite itself is checked (`--runtime runc`), runc stands in both of the first two.
pub fn columns(site: &Site, gvisor: Option<String>) -> Vec<Column> {
    let groups = site.runtimes.groups.iter();
    let mut subjects: Vec<String> = groups.map(|group| group.runtime.clone()).collect();
    if subjects.is_empty() {
        subjects.push(site.runtimes.own.clone());
    }
    let first = [
        (Kind::Reference, vec![REFERENCE.to_owned()]),
        (Kind::Subject, subjects),
    ];
    let third = gvisor.map(|runtime| (Kind::Gvisor, vec![runtime]));
    let all = first.into_iter().chain(third);
    all.map(|(kind, runtimes)| Column { kind, runtimes })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_moves_on_to_the_next_group() {
        let column = Column {
            kind: Kind::Subject,
            runtimes: ["a", "b"].map(str::to_owned).to_vec(),
        };
        assert_eq!(
            [0, 1, 2].map(|faults| column.runtime(faults)),
            ["a", "b", "a"]
        );
    }
}
