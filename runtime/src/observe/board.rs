//! The table of `pegasus top`: what each container did between two samples.

use super::ledger::Ledger;
use super::sample::{ContainerSample, Flow, Sample};
use std::collections::HashMap;
use std::time::Duration;

/// Characters of an id that are shown, as by the engines.
const ID_LEN_SHOWN: usize = 12;

pub const HEADINGS: [&str; 16] = [
    "CONTAINER",
    "GROUP",
    "PLACED",
    "PROCS",
    "THREADS",
    "CPU%",
    "CALLS/S",
    "REWRITTEN/S",
    "TRAPPED/S",
    "SERVED/S",
    "SWITCHES/S",
    "HOME/S",
    "SENT/S",
    "RECEIVED/S",
    "RINGS",
    "KERNEL",
];

/// By what the rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Cpu,
    Calls,
    Bytes,
    Id,
}

impl Order {
    pub fn next(self) -> Self {
        match self {
            Order::Cpu => Order::Calls,
            Order::Calls => Order::Bytes,
            Order::Bytes => Order::Id,
            Order::Id => Order::Cpu,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Order::Cpu => "CPU",
            Order::Calls => "calls",
            Order::Bytes => "bytes",
            Order::Id => "id",
        }
    }
}

/// One container between two samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    id: String,
    group: String,
    placement: String,
    processes: u64,
    threads: u64,
    /// Of one processor.
    cpu: Option<f64>,
    rewritten: f64,
    trapped: f64,
    served: f64,
    switches: f64,
    trips_home: f64,
    sent: f64,
    received: f64,
    linked: u64,
    kernel: u64,
}

/// What a table is made of.
#[derive(Debug, Clone, Default)]
pub struct Board {
    pub summary: String,
    pub rows: Vec<Row>,
}

/// Takes samples and compares each with the one before.
#[derive(Debug, Default)]
pub struct Meter {
    ledger: Ledger,
    before: Option<Before>,
}

#[derive(Debug)]
struct Before {
    sample: Sample,
    totals: HashMap<String, Flow>,
}

impl Meter {
    /// Rates since the sample before; none for the first one, and for containers that are new.
    pub fn board(&mut self, sample: Sample) -> Board {
        self.ledger.enter(&sample);
        let selected = || {
            sample
                .containers
                .iter()
                .filter(|container| container.selected)
        };
        let rows = selected()
            .map(|container| self.row(container, &sample))
            .collect();
        let totals = selected()
            .map(|container| (container.id.clone(), self.ledger.total(&container.id)))
            .collect();
        let summary = summary(&sample);
        self.before = Some(Before { sample, totals });
        Board { summary, rows }
    }

    fn row(&self, container: &ContainerSample, now: &Sample) -> Row {
        let before = self.before.as_ref().and_then(|before| {
            let total = before.totals.get(&container.id)?;
            let elapsed = now.taken.saturating_duration_since(before.sample.taken);
            let mut known = before.sample.containers.iter();
            let cpu = known.find(|known| known.id == container.id)?.cpu;
            Some((elapsed, *total, cpu))
        });
        let done = match before {
            Some((_, total, _)) => self.ledger.total(&container.id) - total,
            None => Flow::default(),
        };
        let elapsed = before.map(|(elapsed, _, _)| elapsed);
        let rate = |amount: u64| elapsed.map_or(0.0, |elapsed| per_second(amount, elapsed));
        let cpu = before.and_then(|(elapsed, _, cpu)| {
            let used = container.cpu?.saturating_sub(cpu?);
            Some(100.0 * used.as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE))
        });
        Row {
            id: short(&container.id).to_owned(),
            group: container.group.clone().unwrap_or_else(|| "-".to_owned()),
            placement: container.placement.to_string(),
            processes: container.processes.all(),
            threads: container.threads,
            cpu,
            rewritten: rate(done.calls_rewritten),
            trapped: rate(done.calls_trapped),
            served: rate(done.calls_served),
            switches: rate(done.switches),
            trips_home: rate(done.trips_home),
            sent: rate(done.bytes_sent),
            received: rate(done.bytes_received),
            linked: container.sockets.linked,
            kernel: container.sockets.kernel,
        }
    }
}

impl Board {
    pub fn sort(&mut self, order: Order) {
        let key = |row: &Row| match order {
            Order::Cpu => row.cpu.unwrap_or(0.0),
            Order::Calls => row.calls(),
            Order::Bytes => row.sent + row.received,
            Order::Id => 0.0,
        };
        self.rows.sort_by(|one, other| {
            key(other)
                .total_cmp(&key(one))
                .then_with(|| one.id.cmp(&other.id))
        });
    }
}

impl Row {
    fn calls(&self) -> f64 {
        self.rewritten + self.trapped
    }

    /// In the order of [`HEADINGS`].
    pub fn cells(&self) -> [String; HEADINGS.len()] {
        [
            self.id.clone(),
            self.group.clone(),
            self.placement.clone(),
            self.processes.to_string(),
            self.threads.to_string(),
            self.cpu
                .map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1}")),
            scaled(self.calls()),
            scaled(self.rewritten),
            scaled(self.trapped),
            scaled(self.served),
            scaled(self.switches),
            scaled(self.trips_home),
            scaled(self.sent),
            scaled(self.received),
            self.linked.to_string(),
            self.kernel.to_string(),
        ]
    }
}

/// As much of an id as people are shown.
pub fn short(id: &str) -> &str {
    let is_engines = id.len() > ID_LEN_SHOWN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    match id.get(..ID_LEN_SHOWN) {
        Some(beginning) if is_engines => beginning,
        _ => id,
    }
}

fn per_second(amount: u64, elapsed: Duration) -> f64 {
    amount as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Three digits and a prefix of thousands.
fn scaled(value: f64) -> String {
    const PREFIXES: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = value;
    for prefix in PREFIXES {
        let is_last = prefix == "T";
        if value < 999.5 || is_last {
            return match value {
                small if small >= 99.95 || prefix.is_empty() => format!("{value:.0}{prefix}"),
                _ => format!("{value:.1}{prefix}"),
            };
        }
        value /= 1000.0;
    }
    String::new()
}

fn summary(sample: &Sample) -> String {
    let selected = sample
        .containers
        .iter()
        .filter(|container| container.selected)
        .count();
    let links: u64 = sample.instances.iter().map(|instance| instance.links).sum();
    let mut text = format!(
        "{} in {}, {} over rings",
        counted(selected as u64, "container"),
        counted(sample.instances.len() as u64, "instance"),
        counted(links, "connection"),
    );
    let pools = sample.instances.iter().flat_map(|instance| &instance.pools);
    let fullest = pools.filter(|pool| pool.used > 0).max_by(|one, other| {
        let share = |used: u32, limit: u32| f64::from(used) / f64::from(limit.max(1));
        share(one.used, one.limit).total_cmp(&share(other.used, other.limit))
    });
    if let Some(pool) = fullest {
        text.push_str(&format!(
            "; fullest pool: {} of {} {}",
            pool.used, pool.limit, pool.name
        ));
    }
    if sample.unreadable > 0 {
        text.push_str(&format!("; {} could not be read", sample.unreadable));
    }
    text
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::sample::Source;
    use super::super::sample::tests::container;
    use super::*;
    use std::time::Instant;

    fn sample(taken: Instant, rewritten: u64, cpu_ms: u64) -> Sample {
        let mut one = container("one");
        let flow = Flow {
            calls_rewritten: rewritten,
            calls_trapped: 10,
            ..Flow::default()
        };
        one.flows = vec![(Source::Process(3, 1), flow)];
        one.cpu = Some(Duration::from_millis(cpu_ms));
        let mut other = container("0123456789abcdef0123456789abcdef");
        other.cpu = None;
        Sample {
            taken,
            containers: vec![one, other],
            instances: Vec::new(),
            unreadable: 0,
        }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let began = Instant::now();
        let mut meter = Meter::default();
        let first = meter.board(sample(began, 1000, 100));
        assert_eq!(first.rows[0].rewritten, 0.0);
        assert_eq!(first.rows[0].cpu, None);
        let after = began + Duration::from_secs(2);
        let mut second = meter.board(sample(after, 5000, 1100));
        assert_eq!(second.rows[0].rewritten, 2000.0);
        assert_eq!(second.rows[0].trapped, 0.0);
        assert_eq!(second.rows[0].cpu, Some(50.0));
        assert_eq!(second.rows[1].cells()[0], "0123456789ab");
        assert_eq!(second.rows[1].cells()[5], "-");
        second.sort(Order::Id);
        assert_eq!(second.rows[1].cells()[0], "one");
        second.sort(Order::Calls);
        assert_eq!(second.rows[0].cells()[6], "2.0k");
    }

    #[test]
    fn a_second_sample_at_the_same_moment_is_survived() {
        let began = Instant::now();
        let mut meter = Meter::default();
        meter.board(sample(began, 1, 1));
        let board = meter.board(sample(began, 2, 2));
        assert!(board.rows[0].cells().iter().all(|cell| !cell.is_empty()));
    }

    #[test]
    fn values_are_scaled() {
        let shown = [
            0.0, 0.4, 999.0, 1000.0, 12_345.0, 999_499.0, 1e6, 2.5e9, 1e18,
        ]
        .map(scaled);
        assert_eq!(
            shown,
            [
                "0", "0", "999", "1.0k", "12.3k", "999k", "1.0M", "2.5G", "1000000T"
            ]
        );
    }

    #[test]
    fn only_engines_ids_are_cut() {
        assert_eq!(short("a-container-with-a-name"), "a-container-with-a-name");
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
        assert_eq!(short("cafe"), "cafe");
    }
}
