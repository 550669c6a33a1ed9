//! Finds or starts the shared instance of a group, and asks it for things.

use super::channel::{Channel, ChannelError, Patience, listen_at};
use super::image;
use super::letter::{self, LetterError};
use super::message::{Answer, ContainerName, Keyring, PidNamespace, Request, Spawned};
use super::shared::group_cgroup;
use crate::anchor::plan::JoinPlan;
use crate::group::{Group, GroupError, WhenLocked};
use crate::sys::pidfd;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long an instance may take for an answer; a busy machine included.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error("cannot create the control socket {path:?}")]
    Socket { path: PathBuf, source: Errno },
    #[error("cannot start the group's instance")]
    Start(#[source] io::Error),
    #[error("the group's instance did not start: {0}")]
    NotStarted(String),
    #[error("the group's instance does not answer")]
    Conversation(#[from] ChannelError),
    #[error("the group's instance refuses: {0}")]
    Refused(String),
    #[error("the group's instance gave an answer to another question")]
    Unexpected,
    #[error("cannot open the pid namespace {path:?}")]
    Namespace { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Letter(#[from] LetterError),
    #[error("cannot watch the anchor")]
    Watch(#[source] Errno),
}

/// A container whose home task exists. While this lives and nothing is enrolled, dropping it ends the
/// home task.
#[derive(Debug)]
pub struct Seat {
    conversation: Channel,
    pub spawned: Spawned,
}

/// What a new member of the group is.
#[derive(Debug)]
pub struct Newcomer<'a> {
    pub name: ContainerName,
    pub keyring: Keyring,
    pub pid_namespace: Option<&'a Path>,
}

/// Asks the group's instance, started if need be, for a home task. Also gives the anchor's end of the
/// link between both.
pub fn spawn(group: &Group, newcomer: &Newcomer<'_>) -> Result<(Seat, Channel), ClientError> {
    let (anchor_end, instance_end) = Channel::pair()?;
    let namespace = newcomer
        .pid_namespace
        .map(|path| {
            File::open(path).map_err(|source| ClientError::Namespace {
                path: path.to_owned(),
                source,
            })
        })
        .transpose()?;
    let mut descriptors = vec![instance_end.as_fd()];
    descriptors.extend(namespace.as_ref().map(AsFd::as_fd));
    let request = Request::Spawn {
        version: image::version(),
        container: newcomer.name.clone(),
        keyring: newcomer.keyring,
        pid_namespace: match namespace {
            Some(_) => PidNamespace::Joined,
            None => PidNamespace::New,
        },
    };
    // Until the home task exists the instance might take itself for unused, and end.
    let _lock = group.lock(WhenLocked::Wait)?;
    let conversation = find_or_start(group)?;
    conversation.send(&request, &descriptors, Patience::Wait)?;
    match answer(&conversation).map_err(|error| explain(group, error))? {
        Answer::Spawned(spawned) => {
            let seat = Seat {
                conversation,
                spawned,
            };
            Ok((seat, anchor_end))
        }
        _ => Err(ClientError::Unexpected),
    }
}

impl Seat {
    /// The container is built: from now on it lives without this process.
    pub fn enroll(
        &self,
        plan: &JoinPlan,
        anchor: Pid,
        cgroup_procs: Option<PathBuf>,
        bridge_fastpath: bool,
    ) -> Result<(), ClientError> {
        let plan = letter::write(plan)?;
        let anchor = pidfd::open(anchor).map_err(ClientError::Watch)?;
        let descriptors = [plan.as_fd(), anchor.as_fd()];
        self.conversation.send(
            &Request::Enroll {
                cgroup_procs,
                bridge_fastpath,
            },
            &descriptors,
            Patience::Wait,
        )?;
        match answer(&self.conversation)? {
            Answer::Enrolled => Ok(()),
            _ => Err(ClientError::Unexpected),
        }
    }
}

/// Ends what is left of a container in its group's instance, and what is left of an instance that was
/// killed.
pub fn remove(group: &Group, container: ContainerName) -> Result<(), ClientError> {
    let conversation = match connect(group) {
        Ok(conversation) => conversation,
        Err(ChannelError::Connect(Errno::ENOENT)) => return Ok(()),
        Err(ChannelError::Connect(Errno::ECONNREFUSED)) => {
            let _lock = group.lock(WhenLocked::Wait)?;
            // Another one may have been started by now.
            if let Err(ChannelError::Connect(Errno::ECONNREFUSED)) = connect(group) {
                remove_remains(group);
            }
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let request = Request::Remove { container };
    let asked = conversation
        .send(&request, &[], Patience::Wait)
        .and_then(|()| conversation.receive::<Answer>(Patience::Wait));
    match asked.map(|received| received.message) {
        Ok(Answer::Removed) => Ok(()),
        Ok(Answer::Refused { reason }) => Err(ClientError::Refused(reason)),
        Ok(_) => Err(ClientError::Unexpected),
        // It has just ended: nothing of the container is left.
        Err(ChannelError::Closed) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn connect(group: &Group) -> Result<Channel, ChannelError> {
    let conversation = Channel::connect(&group.socket())?;
    conversation.limit_waits(ANSWER_WAIT_MAX)?;
    Ok(conversation)
}

/// The group must be locked.
fn find_or_start(group: &Group) -> Result<Channel, ClientError> {
    match connect(group) {
        Ok(conversation) => return Ok(conversation),
        Err(ChannelError::Connect(Errno::ENOENT | Errno::ECONNREFUSED)) => {}
        Err(error) => return Err(error.into()),
    }
    remove_remains(group);
    group.create_directory()?;
    let path = group.socket();
    let listener = listen_at(&path).map_err(|source| ClientError::Socket { path, source })?;
    start(group, listener)?;
    Ok(connect(group)?)
}

/// What an instance that was killed has left behind.
fn remove_remains(group: &Group) {
    if !group.directory().exists() {
        return;
    }
    if let Err(error) = group_cgroup(group).and_then(|cgroup| cgroup.remove()) {
        tracing::debug!(
            "cannot remove the old instance's cgroup: {}",
            crate::error::chain(&error)
        );
    }
    if let Err(error) = group.remove_directory() {
        tracing::warn!("cannot remove {:?}: {error}", group.directory());
    }
}

/// Starts the instance. It owns the listening socket, so connections are refused once it has gone.
fn start(group: &Group, listener: OwnedFd) -> Result<(), ClientError> {
    let output = OpenOptions::new()
        .append(true)
        .create(true)
        .open(group.log())
        .map_err(ClientError::Start)?;
    Command::new("/proc/self/exe")
        .arg("--log")
        .arg(group.log())
        .args(["instance", group.name()])
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .map(drop)
        .map_err(ClientError::Start)
}

fn answer(conversation: &Channel) -> Result<Answer, ClientError> {
    match conversation.receive::<Answer>(Patience::Wait)?.message {
        Answer::Refused { reason } => Err(ClientError::Refused(reason)),
        answer => Ok(answer),
    }
}

/// An instance that ends at once has said why in its log.
fn explain(group: &Group, error: ClientError) -> ClientError {
    if !matches!(error, ClientError::Conversation(ChannelError::Closed)) {
        return error;
    }
    let log = std::fs::read_to_string(group.log()).unwrap_or_default();
    let last = log.lines().last().unwrap_or("no reason is known");
    let error = ClientError::NotStarted(last.to_owned());
    remove_remains(group);
    error
}
