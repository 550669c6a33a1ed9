//! A container of a shared instance, from the cloning of its first home task until nothing of it is
//! left.
//!
//! ```text
//! Waiting ── Start from the anchor ──► Starting ──► Running ── the home task announces ──► Ending
//!    └──────────────┴────────────────────┴── anchor gone: the home task is killed ──┴──► reaped
//! ```

use super::doorbell::Doorbell;
use crate::anchor::plan::JoinPlan;
use crate::anchor::program::Program;
use crate::anchor::visitors::Visitors;
use crate::instance::channel::{Channel, ChannelError, Patience, Received};
use crate::instance::letter;
use crate::instance::message::{ContainerName, FromAnchor, PidNamespace, ToAnchor};
use crate::network;
use crate::sys::pidfd;
use crate::sys::process::kill;
use crate::sys::shared_vkernel::{Home, JoinDescriptors, ReleaseError, SharedVkernel};
use nix::errno::Errno;
use nix::unistd::Pid;
use pegasus_contract::record::ContainerState;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Starting,
    Running,
    Ending,
}

/// The parts of a status that matter: not whether there was a core dump.
const STATUS_BITS: i32 = 0xff7f;

/// What the creating process has told after the container was built.
#[derive(Debug)]
pub struct Enrollment {
    pub plan: JoinPlan,
    pub anchor: OwnedFd,
    pub cgroup_procs: Option<PathBuf>,
    pub bridge_fastpath: bool,
}

/// How the start of a member's program went.
#[derive(Debug)]
pub struct Outcome {
    pub member: u64,
    pub result: Result<(), ReleaseError>,
}

#[derive(Debug)]
pub struct Member {
    pub name: ContainerName,
    pub home: Home,
    home_pidfd: OwnedFd,
    phase: Phase,
    pid_namespace: PidNamespace,
    /// `None` once the anchor has closed its end.
    link: Option<Channel>,
    enrollment: Option<Enrollment>,
    anchor_is_gone: bool,
    tenure: Tenure,
}

/// A descriptor of a member that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Home,
    Link,
    Anchor,
}

impl Member {
    pub fn new(
        name: ContainerName,
        home: Home,
        home_pidfd: OwnedFd,
        pid_namespace: PidNamespace,
        link: Channel,
    ) -> Self {
        Member {
            name,
            home,
            home_pidfd,
            phase: Phase::Waiting,
            pid_namespace,
            link: Some(link),
            enrollment: None,
            anchor_is_gone: false,
            tenure: Tenure::default(),
        }
    }

    pub fn is_enrolled(&self) -> bool {
        self.enrollment.is_some()
    }

    pub fn enroll(&mut self, enrollment: Enrollment) {
        self.enrollment = Some(enrollment);
    }

    pub fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        let link = self.link.as_ref().map(|link| (Source::Link, link.as_fd()));
        let anchor = self
            .enrollment
            .as_ref()
            .filter(|_| !self.anchor_is_gone)
            .map(|enrollment| (Source::Anchor, enrollment.anchor.as_fd()));
        [Some((Source::Home, self.home_pidfd.as_fd())), link, anchor]
            .into_iter()
            .flatten()
    }

    /// Kills the home task, which in a pid namespace of its own takes everything in it along.
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    fn signal(&self, number: i32) {
        match pidfd::send_signal(self.home_pidfd.as_fd(), number) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => tracing::warn!("{}: cannot send signal {number}: {errno}", self.name.id),
        }
    }

    /// Takes one message of the anchor. `Some`: a start that is to be carried out.
    pub fn hear_anchor(&mut self) -> Option<Start> {
        let link = self.link.as_ref()?;
        match link.receive::<FromAnchor>(Patience::Never) {
            Ok(Received {
                message: FromAnchor::Signal { number },
                ..
            }) => {
                self.signal(number);
                None
            }
            Ok(Received {
                message: FromAnchor::Start,
                descriptors,
            }) => self.start(descriptors),
            Err(ChannelError::Receive(Errno::EAGAIN)) => None,
            Err(ChannelError::Message(error)) => {
                tracing::warn!("{}: refused a message of the anchor: {error}", self.name.id);
                None
            }
            // Closed, or no socket at all.
            Err(_) => {
                self.link = None;
                if self.phase != Phase::Ending {
                    self.kill();
                }
                None
            }
        }
    }

    /// What a start needs, if this is the time for one.
    fn start(&mut self, mut descriptors: Vec<OwnedFd>) -> Option<Start> {
        const DESCRIPTORS_MIN: usize = 4;
        let enrollment = self.enrollment.as_ref()?;
        if self.phase != Phase::Waiting || descriptors.len() < DESCRIPTORS_MIN {
            self.tell(ToAnchor::Failed {
                errno: libc::EINVAL,
            });
            return None;
        }
        let program: Program = match letter::read(descriptors.remove(0)) {
            Ok(program) => program,
            Err(error) => {
                tracing::warn!("{}: {}", self.name.id, crate::error::chain(&error));
                self.tell(ToAnchor::Failed {
                    errno: libc::EINVAL,
                });
                return None;
            }
        };
        let anchor = match enrollment.anchor.try_clone() {
            Ok(anchor) => anchor,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EMFILE);
                self.tell(ToAnchor::Failed { errno });
                return None;
            }
        };
        let start = Start {
            container: self.home.container,
            plan: enrollment.plan.clone(),
            program,
            anchor,
            inherited: descriptors,
            bridge_fastpath: enrollment.bridge_fastpath,
            tenure: self.tenure.clone(),
        };
        self.phase = Phase::Starting;
        Some(start)
    }

    /// The start has succeeded or failed. After a failure the home task waits, as when it ends.
    pub fn started(&mut self, result: &Result<(), ReleaseError>, vkernel: &SharedVkernel) {
        match result {
            Ok(()) => {
                if self.phase == Phase::Starting {
                    self.phase = Phase::Running;
                }
                self.tell(ToAnchor::Started);
            }
            Err(error) => {
                self.phase = Phase::Ending;
                tracing::warn!(
                    "{}: not started: {}",
                    self.name.id,
                    crate::error::chain(error)
                );
                let errno = match error {
                    ReleaseError::Home(errno) => *errno as i32,
                    ReleaseError::Nul(_) | ReleaseError::Descriptors => libc::EINVAL,
                };
                self.tell(ToAnchor::Failed { errno });
                if self.anchor_is_gone {
                    vkernel.let_go(self.home.container);
                }
            }
        }
    }

    /// Looks whether the home task has announced its end.
    pub fn look(&mut self, vkernel: &SharedVkernel) {
        let record = vkernel.container(self.home.container);
        let state = record.state.load(Ordering::Acquire);
        if state != ContainerState::Exiting as u32 || self.phase == Phase::Ending {
            return;
        }
        self.phase = Phase::Ending;
        let wait_status = record.wait_status.load(Ordering::Relaxed);
        let ended = ToAnchor::Ended {
            wait_status: wait_status & STATUS_BITS,
        };
        if !self.anchor_is_gone && self.tell_without_visitors(ended) {
            return;
        }
        self.tell(ended);
        if self.anchor_is_gone || self.link.is_none() {
            vkernel.let_go(self.home.container);
        }
    }

    /// If the container has visitors, which must be gone before the anchor is: sends them away and tells it then, in a
    /// thread of its own. Whether it does.
    fn tell_without_visitors(&self, message: ToAnchor) -> bool {
        let (Some(enrollment), Some(link)) = (&self.enrollment, &self.link) else {
            return false;
        };
        let visitors = pidfd::pid_of(enrollment.anchor.as_fd())
            .and_then(|anchor| Visitors::of_ending(self.home.pid, anchor, &self.name.directory))
            .filter(|visitors| !visitors.are_gone());
        let (Some(visitors), Ok(link)) = (visitors, link.as_fd().try_clone_to_owned()) else {
            return false;
        };
        let work = move || {
            visitors.send_away();
            // An anchor that cannot be told any more has gone, which is noticed elsewhere.
            let _ = Channel::from(link).send(&message, &[], Patience::Never);
        };
        let thread = std::thread::Builder::new().name("visitors".to_owned());
        thread.spawn(work).is_ok()
    }

    /// The anchor has ended. If that was the order of things the home task may go too.
    pub fn anchor_gone(&mut self, vkernel: &SharedVkernel) {
        self.anchor_is_gone = true;
        if self.phase == Phase::Ending {
            vkernel.let_go(self.home.container);
        } else {
            self.kill();
        }
    }

    /// Takes the home task's status; `None` if it has not ended after all.
    pub fn reap(&self) -> Option<i32> {
        match pidfd::reap(self.home.pid) {
            Ok(status) => status,
            Err(errno) => {
                tracing::warn!("{}: cannot take the status: {errno}", self.name.id);
                Some(libc::SIGKILL)
            }
        }
    }

    /// The home task has been reaped: nothing of the container may be left.
    pub fn bury(mut self, wait_status: i32, vkernel: &SharedVkernel) {
        if self.phase != Phase::Ending && !self.anchor_is_gone {
            self.tell(ToAnchor::Ended {
                wait_status: wait_status & STATUS_BITS,
            });
        }
        if self.pid_namespace == PidNamespace::Joined {
            self.kill_others();
        }
        self.tenure.end();
        vkernel.reclaim(&self.home);
    }

    /// In a pid namespace of its own, the home task's end has killed all else in the container.
    fn kill_others(&mut self) {
        /// A killed process is gone within moments, and its records must not be used again before it is.
        const PATIENCE: Duration = Duration::from_secs(2);
        let path = self
            .enrollment
            .as_ref()
            .and_then(|enrollment| enrollment.cgroup_procs.as_ref());
        let Some(path) = path else { return };
        let list = std::fs::read_to_string(path).unwrap_or_default();
        let killed: Vec<_> = list
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|&pid| self.shares_heap(pid))
            .map(|pid| {
                let pid = Pid::from_raw(pid);
                let process = pidfd::open(pid);
                // It may have ended just now.
                let _ = kill(pid, libc::SIGKILL);
                process
            })
            .collect();
        let start = Instant::now();
        for process in killed.into_iter().flatten() {
            let left = PATIENCE.saturating_sub(start.elapsed());
            if !pidfd::wait_for_end(process.as_fd(), left) {
                tracing::warn!("{}: a process is slow to die", self.name.id);
            }
        }
    }

    /// Whether a process uses the vkernel's heap: then it must not outlive its record there.
    fn shares_heap(&self, pid: i32) -> bool {
        let start = format!("{:x}-", pegasus_contract::layout::HEAP_BASE);
        std::fs::read_to_string(format!("/proc/{pid}/maps"))
            .is_ok_and(|maps| maps.lines().any(|line| line.starts_with(&start)))
    }

    fn tell(&mut self, message: ToAnchor) {
        let Some(link) = &self.link else { return };
        match link.send(&message, &[], Patience::Never) {
            Ok(()) => {}
            Err(ChannelError::Closed) => self.link = None,
            Err(error) => {
                tracing::warn!("{}: cannot tell the anchor: {error}", self.name.id);
                self.link = None;
            }
        }
    }
}

/// How long the records in the heap belong to a member; for a thread that may outlive it.
#[derive(Debug, Clone, Default)]
struct Tenure {
    is_over: Arc<Mutex<bool>>,
}

impl Tenure {
    fn end(&self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Runs `work`, which must be short, unless the member is gone.
    fn while_it_lasts(&self, work: impl FnOnce()) {
        let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_over {
            work();
        }
    }
}

/// Everything that starting a program takes. Joining and loading may take as long as the container's
/// file systems do, so it happens in a thread of its own.
#[derive(Debug)]
pub struct Start {
    container: usize,
    plan: JoinPlan,
    program: Program,
    anchor: OwnedFd,
    inherited: Vec<OwnedFd>,
    bridge_fastpath: bool,
    tenure: Tenure,
}

impl Start {
    pub fn carry_out(
        self,
        member: u64,
        vkernel: SharedVkernel,
        outcomes: Sender<Outcome>,
        doorbell: Doorbell,
    ) -> Result<(), std::io::Error> {
        let work = move || {
            if self.bridge_fastpath {
                self.find_bridges(&vkernel);
            }
            let descriptors = JoinDescriptors {
                anchor: self.anchor.as_fd(),
                inherited: self.inherited.iter().map(AsFd::as_fd).collect(),
            };
            let result =
                vkernel.release_home(self.container, &self.plan, &self.program, &descriptors);
            // The receiver lives as long as the process.
            let _ = outcomes.send(Outcome { member, result });
            doorbell.ring();
        };
        std::thread::Builder::new()
            .name("start".to_owned())
            .spawn(work)
            .map(drop)
    }

    /// Leaves in the heap what can be found out about the container's network. Without it, everything works as well.
    fn find_bridges(&self, vkernel: &SharedVkernel) {
        match network::survey(self.anchor.as_fd()) {
            Ok(network) => self.tenure.while_it_lasts(|| {
                network::record::write(vkernel.network(self.container), &network);
            }),
            Err(error) => {
                let reason = crate::error::chain(&error);
                tracing::debug!("container record {}: no bridges: {reason}", self.container);
            }
        }
    }
}
