//! The control thread of a shared instance: one loop that waits for requests, anchors and home tasks.
//!
//! Home tasks are cloned by this thread alone, because they die with the thread that cloned them.
//! Nothing here waits for one peer, and while nothing happens there is no timer.

use super::connection::{Connection, Step};
use super::doorbell::{Doorbell, DoorbellError};
use super::member::{Enrollment, Member, Outcome, Source};
use super::spawner::{SpawnError, Spawner};
use crate::error::chain;
use crate::group::{Group, GroupError, GroupLock, WhenLocked};
use crate::instance::channel::{Channel, accept_from};
use crate::instance::message::{Answer, ContainerName, Keyring, PidNamespace, Request, Spawned};
use crate::instance::{image, letter};
use crate::sys::shared_vkernel::SharedVkernel;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use pegasus_contract::layout::CONTAINERS_MAX;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Bound on conversations at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long to wait before trying again to end, while somebody looks for the instance.
const LINGER: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Doorbell(#[from] DoorbellError),
    #[error(transparent)]
    Spawner(#[from] SpawnError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("cannot wait for events")]
    Poll(#[source] Errno),
}

/// What a polled descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Token {
    Listener,
    Doorbell,
    Connection(u64),
    Member(u64, Source),
}

pub struct Server {
    group: Group,
    version: String,
    vkernel: SharedVkernel,
    listener: OwnedFd,
    doorbell: Doorbell,
    spawner: Spawner,
    outcomes: (Sender<Outcome>, Receiver<Outcome>),
    connections: BTreeMap<u64, Connection>,
    members: BTreeMap<u64, Member>,
    next_key: u64,
}

impl Server {
    pub fn new(
        group: Group,
        vkernel: SharedVkernel,
        listener: OwnedFd,
    ) -> Result<Self, ServerError> {
        Ok(Server {
            group,
            version: image::version(),
            vkernel,
            listener,
            doorbell: Doorbell::listen(vkernel)?,
            spawner: Spawner::new(vkernel)?,
            outcomes: channel(),
            connections: BTreeMap::new(),
            members: BTreeMap::new(),
            next_key: 0,
        })
    }

    /// Serves until the last container is gone; then nobody can ask any more, because the group is
    /// locked.
    pub fn run(mut self) -> Result<GroupLock, ServerError> {
        loop {
            let mut timeout = self.timeout();
            if self.members.is_empty() && self.connections.is_empty() {
                match self.group.lock(WhenLocked::GiveUp)? {
                    Some(lock) if !self.is_asked()? => return Ok(lock),
                    _ => timeout = PollTimeout::try_from(LINGER).unwrap_or(PollTimeout::NONE),
                }
            }
            for token in self.wait(timeout)? {
                self.handle(token);
            }
            self.drop_stalled();
        }
    }

    /// Whether a connection waits to be accepted.
    fn is_asked(&self) -> Result<bool, ServerError> {
        let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO)
            .map(|ready| ready > 0)
            .map_err(ServerError::Poll)
    }

    fn timeout(&self) -> PollTimeout {
        let deadlines = self.connections.values().filter_map(Connection::deadline);
        let Some(first) = deadlines.min() else {
            return PollTimeout::NONE;
        };
        let left = first.saturating_duration_since(Instant::now());
        // Rounded up, lest the loop spins through the last millisecond.
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    }

    fn wait(&self, timeout: PollTimeout) -> Result<Vec<Token>, ServerError> {
        let mut tokens = vec![Token::Doorbell];
        let mut fds = vec![PollFd::new(self.doorbell.as_fd(), PollFlags::POLLIN)];
        if self.connections.len() < CONNECTIONS_MAX {
            tokens.push(Token::Listener);
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        for (key, connection) in &self.connections {
            tokens.push(Token::Connection(*key));
            fds.push(PollFd::new(connection.as_fd(), PollFlags::POLLIN));
        }
        for (key, member) in &self.members {
            for (source, fd) in member.sources() {
                tokens.push(Token::Member(*key, source));
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ServerError::Poll(errno)),
        }
        let ready = tokens
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| fd.any() == Some(true));
        Ok(ready.map(|(token, _)| token).collect())
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Listener => self.accept(),
            Token::Doorbell => self.answer_doorbell(),
            Token::Connection(key) => self.hear(key),
            Token::Member(key, source) => self.look_at(key, source),
        }
    }

    fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn accept(&mut self) {
        match accept_from(self.listener.as_fd()) {
            Ok(Some(channel)) => match channel.peer() {
                Ok(peer) if peer.uid() == 0 => {
                    let key = self.new_key();
                    self.connections.insert(key, Connection::new(channel));
                }
                other => tracing::warn!("refused a connection of {other:?}"),
            },
            Ok(None) => {}
            Err(errno) => tracing::warn!("cannot accept a connection: {errno}"),
        }
    }

    fn drop_stalled(&mut self) {
        let now = Instant::now();
        self.connections
            .retain(|_, connection| connection.deadline().is_none_or(|deadline| deadline > now));
    }

    fn answer_doorbell(&mut self) {
        self.doorbell.answer();
        while let Ok(outcome) = self.outcomes.1.try_recv() {
            if let Some(member) = self.members.get_mut(&outcome.member) {
                member.started(&outcome.result, &self.vkernel);
            }
        }
        for member in self.members.values_mut() {
            member.look(&self.vkernel);
        }
    }

    fn look_at(&mut self, key: u64, source: Source) {
        let Some(member) = self.members.get_mut(&key) else {
            return;
        };
        match source {
            Source::Anchor => member.anchor_gone(&self.vkernel),
            Source::Home => self.reap(key),
            Source::Link => {
                let Some(start) = member.hear_anchor() else {
                    return;
                };
                let (outcomes, doorbell) = (self.outcomes.0.clone(), self.doorbell.clone());
                if let Err(error) = start.carry_out(key, self.vkernel, outcomes, doorbell) {
                    tracing::error!("cannot start a thread: {error}");
                    member.kill();
                }
            }
        }
    }

    fn reap(&mut self, key: u64) {
        let Some(status) = self.members.get(&key).and_then(Member::reap) else {
            return;
        };
        let Some(member) = self.members.remove(&key) else {
            return;
        };
        let name = member.name.clone();
        member.bury(status, &self.vkernel);
        tracing::info!("{}: gone with status {status:#x}", name.id);
        for connection in self.connections.values_mut() {
            connection.gone(&name);
        }
    }

    /// Takes one request and answers it.
    fn hear(&mut self, key: u64) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        match connection.hear() {
            Step::Nothing => {}
            Step::Close => self.close(key),
            Step::Asked(request, descriptors) => {
                let answer = self.answer(key, request, descriptors);
                if let (Some(answer), Some(connection)) = (answer, self.connections.get_mut(&key))
                    && !connection.say(&answer)
                {
                    self.close(key);
                }
            }
        }
    }

    /// Who has spawned a container and leaves before it is built has failed.
    fn close(&mut self, key: u64) {
        let Some(connection) = self.connections.remove(&key) else {
            return;
        };
        let member = connection.spawned.and_then(|key| self.members.get(&key));
        if let Some(member) = member.filter(|member| !member.is_enrolled()) {
            member.kill();
        }
    }

    /// `None` if the answer comes later.
    fn answer(&mut self, key: u64, request: Request, fds: Vec<OwnedFd>) -> Option<Answer> {
        let answered = match request {
            Request::Spawn {
                version,
                container,
                keyring,
                pid_namespace,
            } => self.spawn(key, &version, container, keyring, pid_namespace, fds),
            Request::Enroll {
                cgroup_procs,
                bridge_fastpath,
            } => self.enroll(key, cgroup_procs, bridge_fastpath, fds),
            Request::Remove { container } => return self.remove(key, container),
        };
        Some(answered.unwrap_or_else(|reason| {
            tracing::warn!("refused: {reason}");
            Answer::Refused { reason }
        }))
    }

    fn spawn(
        &mut self,
        key: u64,
        version: &str,
        name: ContainerName,
        keyring: Keyring,
        pid_namespace: PidNamespace,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, String> {
        if version != self.version {
            let own = &self.version;
            return Err(format!(
                "the group's instance is version {own}, and this is {version}"
            ));
        }
        if self.members.values().any(|member| member.name == name) {
            return Err(format!("container {} exists", name.id));
        }
        if self.members.len() >= CONTAINERS_MAX {
            return Err(format!(
                "the group's instance has its {CONTAINERS_MAX} containers"
            ));
        }
        let mut fds = fds.into_iter();
        let link = fds
            .next()
            .map(Channel::from)
            .ok_or("no link to the anchor")?;
        let (home, pidfd) = self
            .spawner
            .spawn(&name.id, keyring, pid_namespace, fds.next())
            .map_err(|error| chain(&error))?;
        tracing::info!("{}: home task {} in slot {}", name.id, home.pid, home.slot);
        let member_key = self.new_key();
        let member = Member::new(name, home, pidfd, pid_namespace, link);
        self.members.insert(member_key, member);
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.spawned = Some(member_key);
        }
        Ok(Answer::Spawned(Spawned {
            instance_pid: Pid::this().as_raw(),
            home_pid: home.pid.as_raw(),
            slot: home.slot as u32,
        }))
    }

    fn enroll(
        &mut self,
        key: u64,
        cgroup_procs: Option<PathBuf>,
        bridge_fastpath: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, String> {
        let spawned = self.connections.get(&key).and_then(|c| c.spawned);
        let member = spawned
            .and_then(|key| self.members.get_mut(&key))
            .filter(|member| !member.is_enrolled())
            .ok_or("there is no container to enroll")?;
        let [plan, anchor] =
            <[OwnedFd; 2]>::try_from(fds).map_err(|_| "a plan and an anchor are needed")?;
        member.enroll(Enrollment {
            plan: letter::read(plan).map_err(|error| chain(&error))?,
            anchor,
            cgroup_procs,
            bridge_fastpath,
        });
        Ok(Answer::Enrolled)
    }

    fn remove(&mut self, key: u64, name: ContainerName) -> Option<Answer> {
        let Some(member) = self.members.values().find(|member| member.name == name) else {
            return Some(Answer::Removed);
        };
        member.kill();
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.waits_for = Some(name);
        }
        None
    }
}
