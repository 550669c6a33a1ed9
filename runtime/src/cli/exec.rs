//! `pegasus exec`: run a further process in a container.

use super::{CommandError, Context, Outcome};
use crate::container::console::ConsoleSocket;
use crate::container::exec::{self, ExecError, ExecRequest, WhenPaused};
use crate::container::foreground::{self, ForegroundError};
use crate::container::hierarchies::Afterwards;
use libcontainer::oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, Process, UserBuilder,
};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ExecCommandError {
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("cannot read the process description {path:?} given with --process")]
    ReadProcess {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the process description {path:?} given with --process is not valid")]
    ParseProcess {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("name a command to run, or describe it with --process")]
    NoCommand,
    #[error("unknown capability {0:?} given with --cap")]
    UnknownCapability(String),
    #[error("the user given with --user is not valid")]
    User(#[source] libcontainer::oci_spec::OciSpecError),
    #[error(transparent)]
    Foreground(#[from] ForegroundError),
}

pub fn run(context: &Context, arguments: &liboci_cli::Exec) -> Outcome {
    execute(context, arguments).map_err(CommandError::Exec)
}

fn execute(context: &Context, arguments: &liboci_cli::Exec) -> Result<u8, ExecCommandError> {
    let paused = if arguments.ignore_paused {
        WhenPaused::Wait
    } else {
        WhenPaused::Refuse
    };
    let target = exec::target(&context.root, &arguments.container_id, paused)?;
    let process = match &arguments.process {
        Some(path) => read_process(path)?,
        None => describe(
            target.bundle.process().map_err(ExecError::Bundle)?.clone(),
            arguments,
        )?,
    };
    let wants_terminal = process.terminal() == Some(true);
    let own_console = (wants_terminal && !arguments.detach && arguments.console_socket.is_none())
        .then(|| ConsoleSocket::create(context.root.path()))
        .transpose()
        .map_err(ForegroundError::Console)?;
    let request = ExecRequest {
        id: &arguments.container_id,
        process,
        console_socket: arguments
            .console_socket
            .clone()
            .or_else(|| own_console.as_ref().map(|socket| socket.path().to_owned())),
        pid_file: arguments.pid_file.clone(),
        preserve_fds: arguments.preserve_fds,
        cgroup: arguments.cgroup.clone(),
        paused,
        afterwards: if arguments.detach {
            Afterwards::Exit
        } else {
            Afterwards::GoOn
        },
    };
    let pid = exec::exec(&context.root, target, &request)?;
    if arguments.detach {
        return Ok(0);
    }
    Ok(foreground::attend(
        pid,
        own_console,
        foreground::Orphans::Leave,
    )?)
}

fn read_process(path: &Path) -> Result<Process, ExecCommandError> {
    let text = std::fs::read(path).map_err(|source| ExecCommandError::ReadProcess {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| ExecCommandError::ParseProcess {
        path: path.to_owned(),
        source,
    })
}

/// The container's own process with the changes that the command line asks for.
fn describe(
    mut process: Process,
    arguments: &liboci_cli::Exec,
) -> Result<Process, ExecCommandError> {
    if arguments.command.is_empty() {
        return Err(ExecCommandError::NoCommand);
    }
    process.set_args(Some(arguments.command.clone()));
    process.set_terminal(Some(arguments.tty));
    if let Some(directory) = &arguments.cwd {
        process.set_cwd(directory.clone());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(
        arguments
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    process.set_env(Some(environment));
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = &arguments.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &arguments.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    set_user(&mut process, arguments)?;
    add_capabilities(&mut process, &arguments.cap)?;
    Ok(process)
}

fn set_user(process: &mut Process, arguments: &liboci_cli::Exec) -> Result<(), ExecCommandError> {
    let current = process.user();
    let (uid, gid) = match arguments.user {
        Some((uid, gid)) => (uid, gid.unwrap_or(current.gid())),
        None => (current.uid(), current.gid()),
    };
    let mut groups = current.additional_gids().clone().unwrap_or_default();
    groups.extend(&arguments.additional_gids);
    let mut user = UserBuilder::default()
        .uid(uid)
        .gid(gid)
        .additional_gids(groups);
    if let Some(umask) = current.umask() {
        user = user.umask(umask);
    }
    process.set_user(user.build().map_err(ExecCommandError::User)?);
    Ok(())
}

/// Adds to the bounding, effective and permitted sets; to the ambient one only if the container's
/// process has inheritable capabilities at all, as runc does.
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), ExecCommandError> {
    if names.is_empty() {
        return Ok(());
    }
    let added = names
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            short
                .parse::<Capability>()
                .map_err(|_| ExecCommandError::UnknownCapability(name.clone()))
        })
        .collect::<Result<Capabilities, _>>()?;
    let mut capabilities = process.capabilities().clone().unwrap_or_default();
    let extended = |set: &Option<Capabilities>| {
        let listed = set.iter().flatten();
        Some(listed.chain(&added).copied().collect::<Capabilities>())
    };
    let bounding = extended(capabilities.bounding());
    let effective = extended(capabilities.effective());
    let permitted = extended(capabilities.permitted());
    let ambient = capabilities
        .inheritable()
        .as_ref()
        .filter(|set| !set.is_empty())
        .and_then(|_| extended(LinuxCapabilities::ambient(&capabilities)));
    capabilities
        .set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    if ambient.is_some() {
        capabilities.set_ambient(ambient);
    }
    process.set_capabilities(Some(capabilities));
    Ok(())
}
