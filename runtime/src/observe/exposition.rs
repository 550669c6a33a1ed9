//! Samples as Prometheus' text.

use super::ledger::Ledger;
use super::sample::{ContainerSample, Sample};
use pegasus_contract::boot::InstanceKind;
use prometheus::{
    CounterVec, Encoder, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The type of what [`text`] gives.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

#[derive(Debug, thiserror::Error)]
#[error("cannot put the metrics into Prometheus' text format")]
pub struct ExpositionError(#[from] prometheus::Error);

/// Every metric of `sample`; what only grows is taken from `ledger`.
pub fn text(sample: &Sample, ledger: &Ledger) -> Result<String, ExpositionError> {
    let registry = Registry::new();
    host(&registry, sample)?;
    Containers::register(&registry)?.fill(sample, ledger);
    instances(&registry, sample)?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn host(registry: &Registry, sample: &Sample) -> Result<(), prometheus::Error> {
    let build = gauges(
        registry,
        "pegasus_build_info",
        "Always 1; the label says which version of pegasus answers.",
        &["version"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let instances = gauges(
        registry,
        "pegasus_instances",
        "Address spaces with a vkernel in them.",
        &["kind"],
    )?;
    for (name, kind) in [("own", InstanceKind::Own), ("shared", InstanceKind::Shared)] {
        let count = sample
            .instances
            .iter()
            .filter(|instance| instance.kind == kind)
            .count();
        instances.with_label_values(&[name]).set(count as i64);
    }
    let unreadable = IntGauge::new(
        "pegasus_unreadable",
        "Containers and instances whose state or heap could not be read this time.",
    )?;
    registry.register(Box::new(unreadable.clone()))?;
    unreadable.set(signed(sample.unreadable));
    Ok(())
}

/// The metrics that have a container as their first label.
struct Containers {
    info: IntGaugeVec,
    processes: IntGaugeVec,
    threads: IntGaugeVec,
    cpu: CounterVec,
    calls: IntCounterVec,
    served: IntCounterVec,
    signals: IntCounterVec,
    switches: IntCounterVec,
    trips_home: IntCounterVec,
    sites: IntGaugeVec,
    rings: Rings,
}

/// What has to do with connections.
struct Rings {
    sockets: IntGaugeVec,
    sent: IntCounterVec,
    received: IntCounterVec,
    waiting: IntGaugeVec,
}

impl Containers {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let one = ["container"];
        Ok(Containers {
            info: gauges(
                registry,
                "pegasus_container_info",
                "Always 1; the labels say where a running container is placed.",
                &["container", "group", "instance", "isolation", "placement"],
            )?,
            processes: gauges(
                registry,
                "pegasus_container_processes",
                "Processes of a container by their placement.",
                &["container", "state"],
            )?,
            threads: gauges(
                registry,
                "pegasus_container_threads",
                "Threads of a container that run under the vkernel.",
                &one,
            )?,
            cpu: seconds(
                registry,
                "pegasus_container_cpu_seconds_total",
                "Processor time that a container has used.",
            )?,
            calls: counters(
                registry,
                "pegasus_container_calls_total",
                "System calls by the way they came to the vkernel.",
                &["container", "path"],
            )?,
            served: counters(
                registry,
                "pegasus_container_calls_served_total",
                "System calls that the vkernel answered itself.",
                &one,
            )?,
            signals: counters(
                registry,
                "pegasus_container_signals_total",
                "Signals that the vkernel delivered to a handler.",
                &one,
            )?,
            switches: counters(
                registry,
                "pegasus_container_switches_total",
                "Waits during which a worker ran another thread.",
                &one,
            )?,
            trips_home: counters(
                registry,
                "pegasus_container_trips_home_total",
                "Returns of threads from a worker to their home task.",
                &one,
            )?,
            sites: gauges(
                registry,
                "pegasus_container_sites",
                "Places in a container's code that make system calls, by what became of them.",
                &["container", "state"],
            )?,
            rings: Rings::register(registry)?,
        })
    }

    fn fill(&self, sample: &Sample, ledger: &Ledger) {
        for container in sample
            .containers
            .iter()
            .filter(|container| container.selected)
        {
            self.fill_one(container, ledger);
        }
    }

    fn fill_one(&self, container: &ContainerSample, ledger: &Ledger) {
        let id = container.id.as_str();
        let group = container.group.as_deref().unwrap_or_default();
        let placement = container.placement.to_string();
        self.info
            .with_label_values(&[
                id,
                group,
                container.instance,
                &container.isolation,
                &placement,
            ])
            .set(1);
        let set = |gauges: &IntGaugeVec, states: &[(&str, u64)]| {
            for (state, value) in states {
                gauges.with_label_values(&[id, state]).set(signed(*value));
            }
        };
        let processes = &container.processes;
        set(
            &self.processes,
            &[
                ("resident", processes.resident),
                ("satellite", processes.satellite),
                ("native", processes.native),
            ],
        );
        set(
            &self.sites,
            &[
                ("rewritten", container.sites_rewritten),
                ("refused", container.sites_refused),
            ],
        );
        self.threads
            .with_label_values(&[id])
            .set(signed(container.threads));
        if let Some(cpu) = container.cpu {
            self.cpu.with_label_values(&[id]).inc_by(cpu.as_secs_f64());
        }
        let total = ledger.total(id);
        let calls = [
            ("rewritten", total.calls_rewritten),
            ("trapped", total.calls_trapped),
        ];
        for (path, value) in calls {
            self.calls.with_label_values(&[id, path]).inc_by(value);
        }
        self.served
            .with_label_values(&[id])
            .inc_by(total.calls_served);
        self.signals.with_label_values(&[id]).inc_by(total.signals);
        self.switches
            .with_label_values(&[id])
            .inc_by(total.switches);
        self.trips_home
            .with_label_values(&[id])
            .inc_by(total.trips_home);
        self.rings.fill(container, ledger);
    }
}

impl Rings {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let one = ["container"];
        Ok(Rings {
            sockets: gauges(
                registry,
                "pegasus_container_sockets",
                "TCP sockets that the vkernel knows; linked ones are ends of connections over rings.",
                &["container", "state"],
            )?,
            sent: counters(
                registry,
                "pegasus_container_ring_sent_bytes_total",
                "Bytes that a container has written to rings.",
                &one,
            )?,
            received: counters(
                registry,
                "pegasus_container_ring_received_bytes_total",
                "Bytes that a container has read from rings.",
                &one,
            )?,
            waiting: gauges(
                registry,
                "pegasus_container_ring_unread_bytes",
                "Bytes in rings that wait for a container to read them.",
                &one,
            )?,
        })
    }

    fn fill(&self, container: &ContainerSample, ledger: &Ledger) {
        let id = container.id.as_str();
        let sockets = &container.sockets;
        let states = [
            ("linked", sockets.linked),
            ("searching", sockets.searching),
            ("kernel", sockets.kernel),
            ("fresh", sockets.fresh),
        ];
        for (state, value) in states {
            let labels = [id, state];
            self.sockets.with_label_values(&labels).set(signed(value));
        }
        let total = ledger.total(id);
        self.sent.with_label_values(&[id]).inc_by(total.bytes_sent);
        self.received
            .with_label_values(&[id])
            .inc_by(total.bytes_received);
        self.waiting
            .with_label_values(&[id])
            .set(signed(container.bytes_unread));
    }
}

fn instances(registry: &Registry, sample: &Sample) -> Result<(), prometheus::Error> {
    let labels = ["instance_pid", "group", "pool"];
    let connections = gauges(
        registry,
        "pegasus_connections",
        "TCP connections over rings, in one address space.",
        &labels[..2],
    )?;
    let used = gauges(
        registry,
        "pegasus_pool_records_used",
        "Records of a pool of the shared heap that are in use.",
        &labels,
    )?;
    let touched = gauges(
        registry,
        "pegasus_pool_records_touched",
        "Records of a pool that have ever been used: its high-water mark.",
        &labels,
    )?;
    let limit = gauges(
        registry,
        "pegasus_pool_records_limit",
        "Records that a pool has.",
        &labels,
    )?;
    for instance in &sample.instances {
        let pid = instance.pid.to_string();
        let group = instance.group.as_deref().unwrap_or_default();
        connections
            .with_label_values(&[pid.as_str(), group])
            .set(signed(instance.links));
        for pool in &instance.pools {
            let labels = [pid.as_str(), group, pool.name];
            used.with_label_values(&labels).set(pool.used.into());
            touched.with_label_values(&labels).set(pool.touched.into());
            limit.with_label_values(&labels).set(pool.limit.into());
        }
    }
    Ok(())
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Result<CounterVec, prometheus::Error> {
    let metric = CounterVec::new(Opts::new(name, help), &["container"])?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::sample::tests::container;
    use super::super::sample::{Flow, InstanceSample, Source};
    use super::*;
    use crate::instance::pools_view::PoolUse;
    use std::time::Instant;

    fn example() -> String {
        let mut one = container("one");
        let flow = Flow {
            calls_rewritten: 1000,
            calls_trapped: 3,
            calls_served: u64::MAX,
            signals: 0,
            switches: 5,
            trips_home: 2,
            bytes_sent: 4096,
            bytes_received: 17,
        };
        one.flows = vec![(Source::Process(0, 1), flow)];
        one.sockets.linked = 2;
        let sample = Sample {
            taken: Instant::now(),
            containers: vec![one],
            instances: vec![InstanceSample {
                pid: 77,
                group: Some("shop".to_owned()),
                kind: InstanceKind::Shared,
                pools: vec![PoolUse {
                    name: "sockets",
                    used: 4,
                    touched: 9,
                    limit: 100,
                }],
                links: 1,
            }],
            unreadable: 0,
        };
        let mut ledger = Ledger::default();
        ledger.enter(&sample);
        text(&sample, &ledger).unwrap()
    }

    #[test]
    fn values_have_their_labels() {
        let text = example();
        for line in [
            "pegasus_instances{kind=\"shared\"} 1",
            "pegasus_container_calls_total{container=\"one\",path=\"rewritten\"} 1000",
            "pegasus_container_ring_sent_bytes_total{container=\"one\"} 4096",
            "pegasus_container_cpu_seconds_total{container=\"one\"} 1.5",
            "pegasus_container_sockets{container=\"one\",state=\"linked\"} 2",
            "pegasus_container_processes{container=\"one\",state=\"satellite\"} 2",
            "pegasus_connections{group=\"shop\",instance_pid=\"77\"} 1",
            "pegasus_pool_records_used{group=\"shop\",instance_pid=\"77\",pool=\"sockets\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_metric_is_described() {
        let text = example();
        let mut described = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                described.push(rest.split(' ').next().unwrap());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert!(
                    name.starts_with("pegasus_") && described.contains(&name),
                    "{line}"
                );
                let (_, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert_eq!(text.matches("# HELP ").count(), described.len());
    }
}
