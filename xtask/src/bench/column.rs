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
    /// The engine's name of the runtime.
    pub runtime: String,
}

/// runc, Pegasus with all containers of a measurement in one group, and gVisor when there is one.
/// When the suite itself is checked (`--runtime runc`), runc stands in both of the first two.
pub fn columns(site: &Site, gvisor: Option<String>) -> Vec<Column> {
    let group = site.runtimes.groups.first();
    let subject = group.map_or(&site.runtimes.own, |group| &group.runtime);
    let first = [
        (Kind::Reference, REFERENCE.to_owned()),
        (Kind::Subject, subject.clone()),
    ];
    let third = gvisor.map(|runtime| (Kind::Gvisor, runtime));
    let all = first.into_iter().chain(third);
    all.map(|(kind, runtime)| Column { kind, runtime })
        .collect()
}
