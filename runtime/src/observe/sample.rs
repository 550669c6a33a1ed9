//! What the containers of this host have right now.

use super::cpu;
use super::instances::{Found, Instance, Member};
use super::links::Traffic;
use crate::container::facts::Placement;
use crate::container::processes;
use crate::error::chain;
use crate::instance::pools_view::{PoolUse, pools};
use nix::unistd::Pid;
use pegasus_contract::boot::InstanceKind;
use pegasus_contract::socket::SocketState;
use serde::Serialize;
use std::ops::{AddAssign, Sub};
use std::time::{Duration, Instant};

/// Amounts that only grow as long as what they belong to lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Calls through rewritten sites, and through traps.
    pub calls_rewritten: u64,
    pub calls_trapped: u64,
    /// How many of both the vkernel answered itself.
    pub calls_served: u64,
    pub signals: u64,
    /// Waits during which a worker ran another thread, and returns from a worker to the home task.
    pub switches: u64,
    pub trips_home: u64,
    /// Bytes through rings.
    pub bytes_sent: u64,
    pub bytes_received: u64,
}

impl Flow {
    fn values(&self) -> [u64; 8] {
        [
            self.calls_rewritten,
            self.calls_trapped,
            self.calls_served,
            self.signals,
            self.switches,
            self.trips_home,
            self.bytes_sent,
            self.bytes_received,
        ]
    }

    fn from_values(values: [u64; 8]) -> Self {
        let [
            calls_rewritten,
            calls_trapped,
            calls_served,
            signals,
            switches,
            trips_home,
            bytes_sent,
            bytes_received,
        ] = values;
        Flow {
            calls_rewritten,
            calls_trapped,
            calls_served,
            signals,
            switches,
            trips_home,
            bytes_sent,
            bytes_received,
        }
    }

    /// Of each amount the larger one.
    pub fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let (own, others) = (self.values(), other.values());
        Self::from_values(std::array::from_fn(|at| combine(own[at], others[at])))
    }

    /// Whether every amount is at least as large as it was.
    pub fn continues(&self, before: &Self) -> bool {
        self.values()
            .iter()
            .zip(before.values())
            .all(|(now, before)| *now >= before)
    }
}

impl AddAssign for Flow {
    fn add_assign(&mut self, other: Self) {
        *self = self.zip(other, u64::saturating_add);
    }
}

impl Sub for Flow {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }
}

/// What an amount belongs to, within a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// By its record and its pid.
    Process(usize, i32),
    /// All its ends of connections over rings, those that are closed too.
    Rings,
}

/// Numbers of sockets by what carries their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SocketCounts {
    /// Ends of connections over rings.
    pub linked: u64,
    pub searching: u64,
    /// Linux's, as far as the vkernel knows them.
    pub kernel: u64,
    /// Not connected yet.
    pub fresh: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ProcessCounts {
    pub resident: u64,
    pub satellite: u64,
    pub native: u64,
}

impl ProcessCounts {
    pub fn all(&self) -> u64 {
        self.resident + self.satellite + self.native
    }
}

/// One container.
#[derive(Debug, Clone)]
pub struct ContainerSample {
    pub id: String,
    pub group: Option<String>,
    pub instance: &'static str,
    pub instance_pid: i32,
    pub isolation: String,
    pub placement: Placement,
    pub selected: bool,
    pub processes: ProcessCounts,
    /// Under the vkernel.
    pub threads: u64,
    pub sites_rewritten: u64,
    pub sites_refused: u64,
    pub sockets: SocketCounts,
    /// In rings: for it to read, and for others.
    pub bytes_unread: u64,
    pub bytes_unsent: u64,
    pub cpu: Option<Duration>,
    pub flows: Vec<(Source, Flow)>,
}

impl ContainerSample {
    /// Everything that lives now, together.
    pub fn flow(&self) -> Flow {
        self.flows
            .iter()
            .fold(Flow::default(), |mut sum, (_, flow)| {
                sum += *flow;
                sum
            })
    }
}

/// One address space.
#[derive(Debug, Clone)]
pub struct InstanceSample {
    pub pid: i32,
    pub group: Option<String>,
    pub kind: InstanceKind,
    pub pools: Vec<PoolUse>,
    pub links: u64,
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    pub taken: Instant,
    pub containers: Vec<ContainerSample>,
    pub instances: Vec<InstanceSample>,
    pub unreadable: u64,
}

impl Sample {
    pub fn of(found: &Found) -> Self {
        let mut sample = Sample {
            taken: Instant::now(),
            containers: Vec::new(),
            instances: Vec::new(),
            unreadable: found.unreadable,
        };
        for instance in &found.instances {
            sample.add(instance);
        }
        sample
    }

    fn add(&mut self, instance: &Instance) {
        // Before the connections: an end that is closed in between is missed once, and not counted twice.
        let ended: Vec<(u64, u64)> = instance
            .members
            .iter()
            .map(|member| ended_rings(instance, member))
            .collect();
        let traffic = Traffic::of(instance).unwrap_or_else(|error| {
            tracing::debug!(instance.pid, "no sockets: {}", chain(&error));
            self.unreadable += 1;
            Traffic::default()
        });
        if let (Some(heap), Some(kind)) = (&instance.heap, instance.kind) {
            self.instances.push(InstanceSample {
                pid: instance.pid,
                group: instance.group.clone(),
                kind,
                pools: pools(heap).map(Vec::from).unwrap_or_default(),
                links: traffic.links.len() as u64,
            });
        }
        for (member, ended) in instance.members.iter().zip(ended) {
            let mut container = blank(instance, member);
            if let Err(error) = container.count_processes(instance, member) {
                tracing::debug!(id = member.id(), "no processes: {}", chain(&error));
                self.unreadable += 1;
            }
            if let Some(index) = member.index {
                container.count_traffic(&traffic, index, ended);
            }
            self.containers.push(container);
        }
    }
}

fn ended_rings(instance: &Instance, member: &Member) -> (u64, u64) {
    let heap = instance.heap.as_ref().zip(member.index);
    heap.and_then(|(heap, index)| heap.ended_rings(index as usize).ok())
        .unwrap_or_default()
}

fn blank(instance: &Instance, member: &Member) -> ContainerSample {
    ContainerSample {
        id: member.id().to_owned(),
        group: member.facts.group.clone(),
        instance: instance.kind_name(),
        instance_pid: instance.pid,
        isolation: member.facts.isolation.to_string(),
        placement: member.facts.placement,
        selected: member.selected,
        processes: ProcessCounts::default(),
        threads: 0,
        sites_rewritten: 0,
        sites_refused: 0,
        sockets: SocketCounts::default(),
        bytes_unread: 0,
        bytes_unsent: 0,
        cpu: cpu::time_of(&member.container),
        flows: Vec::new(),
    }
}

impl ContainerSample {
    fn count_processes(
        &mut self,
        instance: &Instance,
        member: &Member,
    ) -> Result<(), processes::ProcessesError> {
        let heap = instance.heap.as_ref();
        for process in processes::of(&member.container, heap, Some(&member.facts))? {
            match process.placement {
                Placement::Resident => self.processes.resident += 1,
                Placement::Satellite => self.processes.satellite += 1,
                Placement::Native => self.processes.native += 1,
            }
            if process.pid == member.main.pid {
                self.placement = process.placement;
            }
            let Some((view, counters)) = process.vkernel else {
                continue;
            };
            // The record counts those that have ended, too.
            let threads = threads_of(process.pid).unwrap_or_else(|| view.threads.into());
            self.threads = self.threads.saturating_add(threads);
            self.sites_rewritten = self.sites_rewritten.saturating_add(view.sites_rewritten);
            self.sites_refused = self.sites_refused.saturating_add(view.sites_refused);
            let flow = Flow {
                calls_rewritten: counters.rewritten,
                calls_trapped: counters.trapped,
                calls_served: counters.served,
                signals: counters.signals,
                switches: counters.switches,
                trips_home: counters.trips_home,
                ..Flow::default()
            };
            self.flows
                .push((Source::Process(view.index, view.pid), flow));
        }
        Ok(())
    }

    fn count_traffic(&mut self, traffic: &Traffic, index: u32, ended: (u64, u64)) {
        let mut rings = Flow {
            bytes_sent: ended.0,
            bytes_received: ended.1,
            ..Flow::default()
        };
        for socket in traffic
            .sockets
            .iter()
            .filter(|socket| socket.container == index)
        {
            match socket.state {
                SocketState::Linked => self.sockets.linked += 1,
                SocketState::Searching => self.sockets.searching += 1,
                SocketState::Kernel => self.sockets.kernel += 1,
                SocketState::Fresh => self.sockets.fresh += 1,
                SocketState::Free => {}
            }
        }
        for link in &traffic.links {
            for (point, peer) in [(&link.local, &link.remote), (&link.remote, &link.local)] {
                if point.container != index || point.end.released {
                    continue;
                }
                rings += Flow {
                    bytes_sent: point.end.sent,
                    bytes_received: peer.end.sent.saturating_sub(peer.end.unread),
                    ..Flow::default()
                };
                self.bytes_unread = self.bytes_unread.saturating_add(peer.end.unread);
                self.bytes_unsent = self.bytes_unsent.saturating_add(point.end.unread);
            }
        }
        self.flows.push((Source::Rings, rings));
    }
}

/// Each thread under the vkernel is one of the kernel's.
fn threads_of(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("Threads:"))?;
    count.trim().parse().ok()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::instance::pools_view::image::Image;

    pub fn container(id: &str) -> ContainerSample {
        ContainerSample {
            id: id.to_owned(),
            group: Some("shop".to_owned()),
            instance: "shared",
            instance_pid: 77,
            isolation: "none".to_owned(),
            placement: Placement::Resident,
            selected: true,
            processes: ProcessCounts {
                resident: 1,
                satellite: 2,
                native: 0,
            },
            threads: 5,
            sites_rewritten: 40,
            sites_refused: 1,
            sockets: SocketCounts::default(),
            bytes_unread: 0,
            bytes_unsent: 0,
            cpu: Some(Duration::from_millis(1500)),
            flows: Vec::new(),
        }
    }

    #[test]
    fn bytes_are_counted_at_both_ends() {
        let mut image = Image::default();
        image.touch_sockets(3, 3);
        image.touch_connections(1, 1);
        image.socket(0, SocketState::Linked, 1, (2, 40_000), (3, 80));
        image.socket(1, SocketState::Linked, 2, (3, 80), (2, 40_000));
        image.socket(2, SocketState::Kernel, 1, (2, 50_000), (8, 53));
        image.connect(0, [0, 1], [1, 2]);
        image.ring(0, 0, 100, 90, 0);
        image.ring(0, 1, 7, 7, 0);
        let traffic = Traffic::read(&image).unwrap();
        let (mut one, mut other) = (container("one"), container("other"));
        one.count_traffic(&traffic, 1, (0, 0));
        other.count_traffic(&traffic, 2, (0, 0));
        assert_eq!((one.sockets.linked, one.sockets.kernel), (1, 1));
        assert_eq!((one.flow().bytes_sent, one.flow().bytes_received), (100, 7));
        assert_eq!(
            (other.flow().bytes_sent, other.flow().bytes_received),
            (7, 90)
        );
        assert_eq!((one.bytes_unsent, other.bytes_unread), (10, 10));
        let mut later = container("one");
        later.count_traffic(&traffic, 1, (1000, 50));
        let flow = later.flow();
        assert_eq!((flow.bytes_sent, flow.bytes_received), (1100, 57));
    }

    #[test]
    fn threads_are_the_kernels() {
        assert!(threads_of(Pid::this()) >= Some(1));
        assert_eq!(threads_of(Pid::from_raw(0)), None);
    }

    #[test]
    fn amounts_do_not_overflow() {
        let most = Flow::from_values([u64::MAX; 8]);
        let mut sum = most;
        sum += most;
        assert_eq!(sum, most);
        assert_eq!(Flow::default() - most, Flow::default());
        assert!(most.continues(&Flow::default()) && !Flow::default().continues(&most));
    }
}
