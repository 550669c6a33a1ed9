//! Adds up what containers do, from samples of what they have.
//!
//! The vkernel's counters of calls belong to processes, and go with them. A sum of those that live would
//! shrink; the ledger remembers each one's last value and adds up the differences. What happens between the last sample
//! and the end of a process is lost to it. Bytes are counted per container.

use super::sample::{ContainerSample, Flow, Sample, Source};
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct Ledger {
    accounts: HashMap<String, Account>,
}

#[derive(Debug, Default)]
struct Account {
    total: Flow,
    last: HashMap<Source, Flow>,
}

impl Ledger {
    /// Enters a sample. Containers that are not in it any more are forgotten.
    pub fn enter(&mut self, sample: &Sample) {
        let mut accounts = HashMap::with_capacity(sample.containers.len());
        for container in &sample.containers {
            let mut account = self.accounts.remove(&container.id).unwrap_or_default();
            account.enter(container);
            accounts.insert(container.id.clone(), account);
        }
        self.accounts = accounts;
    }

    /// What container `id` has done since it was first seen, and what it had done until then as far as that could be seen.
    pub fn total(&self, id: &str) -> Flow {
        self.accounts
            .get(id)
            .map(|account| account.total)
            .unwrap_or_default()
    }
}

impl Account {
    fn enter(&mut self, container: &ContainerSample) {
        let mut last = HashMap::with_capacity(container.flows.len());
        for (source, now) in &container.flows {
            if *source == Source::Rings {
                // A sample may miss a connection that is being closed; the next one has it.
                let before = self.last.get(source).copied().unwrap_or_default();
                self.total += *now - before;
                last.insert(*source, now.max(before));
                continue;
            }
            self.total += match self.last.get(source) {
                Some(before) if now.continues(before) => *now - *before,
                // New, or another one in the same place.
                _ => *now,
            };
            last.insert(*source, *now);
        }
        self.last = last;
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::container;
    use super::*;
    use std::time::Instant;

    fn sample(containers: Vec<ContainerSample>) -> Sample {
        Sample {
            taken: Instant::now(),
            containers,
            instances: Vec::new(),
            unreadable: 0,
        }
    }

    fn with(flows: &[(usize, u64)]) -> Sample {
        let mut one = container("one");
        one.flows = flows
            .iter()
            .map(|(process, signals)| {
                let flow = Flow {
                    signals: *signals,
                    ..Flow::default()
                };
                (Source::Process(*process, 1), flow)
            })
            .collect();
        sample(vec![one])
    }

    #[test]
    fn bytes_never_shrink() {
        let mut ledger = Ledger::default();
        let mut total = |bytes_sent| {
            let mut one = container("one");
            let flow = Flow {
                bytes_sent,
                ..Flow::default()
            };
            one.flows = vec![(Source::Rings, flow)];
            ledger.enter(&sample(vec![one]));
            ledger.total("one").bytes_sent
        };
        assert_eq!(total(100), 100);
        // One connection is missed, and seen again.
        assert_eq!(total(60), 100);
        assert_eq!(total(110), 110);
    }

    #[test]
    fn totals_never_shrink() {
        let mut ledger = Ledger::default();
        let mut total = |flows: &[(usize, u64)]| {
            ledger.enter(&with(flows));
            ledger.total("one").signals
        };
        assert_eq!(total(&[(1, 10), (2, 5)]), 15);
        assert_eq!(total(&[(1, 12), (2, 5)]), 17);
        // A process ends, a new one comes.
        assert_eq!(total(&[(2, 6), (3, 4)]), 22);
        // Another one in the same place.
        assert_eq!(total(&[(2, 1)]), 23);
        assert_eq!(total(&[]), 23);
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let mut ledger = Ledger::default();
        ledger.enter(&with(&[(1, 10)]));
        ledger.enter(&sample(Vec::new()));
        assert_eq!(ledger.total("one"), Flow::default());
        assert!(ledger.accounts.is_empty());
    }
}
