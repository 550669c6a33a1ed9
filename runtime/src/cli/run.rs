//! `pegasus run`: create, start, wait and delete in one.

use super::delete::{self, Running};
use super::{CommandError, Context, Outcome, start};
use crate::container::bundle::Bundle;
use crate::container::console::ConsoleSocket;
use crate::container::create::{self, CreateError, CreateRequest, Keyring, Pivot};
use crate::container::foreground::{self, ForegroundError, Orphans};
use crate::container::hierarchies::Afterwards;
use crate::error::chain;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Foreground(#[from] ForegroundError),
    #[error("the first process of container {0:?} has gone before it could be started")]
    NoProcess(String),
}

pub fn run(context: &Context, arguments: &liboci_cli::Run) -> Outcome {
    let own_console = console(context, arguments)?;
    let orphans = if arguments.no_subreaper {
        Orphans::Leave
    } else {
        Orphans::Adopt
    };
    if !arguments.detach {
        foreground::prepare(orphans).map_err(RunError::Foreground)?;
    }
    let request = CreateRequest {
        id: &arguments.container_id,
        bundle: &arguments.bundle,
        console_socket: arguments
            .console_socket
            .clone()
            .or_else(|| own_console.as_ref().map(|socket| socket.path().to_owned())),
        pid_file: arguments.pid_file.clone(),
        preserve_fds: arguments.preserve_fds,
        pivot: if arguments.no_pivot {
            Pivot::MoveMount
        } else {
            Pivot::PivotRoot
        },
        keyring: if arguments.no_new_keyring {
            Keyring::Inherited
        } else {
            Keyring::New
        },
        cgroups: context.cgroups,
        afterwards: if arguments.detach {
            Afterwards::Exit
        } else {
            Afterwards::GoOn
        },
        configuration: context.configuration()?,
    };
    let container = create::create(&context.root, &context.policy, &request)?;
    if let Err(error) = start::start(&context.root, &arguments.container_id) {
        clean_up(context, arguments);
        return Err(error);
    }
    if arguments.detach {
        return Ok(0);
    }
    let pid = container
        .pid()
        .ok_or_else(|| RunError::NoProcess(arguments.container_id.clone()))?;
    let outcome = foreground::attend(pid, own_console, orphans);
    if !arguments.keep {
        clean_up(context, arguments);
    }
    Ok(outcome.map_err(RunError::Foreground)?)
}

/// A terminal of ours, if the container wants one and nobody else provides it.
fn console(
    context: &Context,
    arguments: &liboci_cli::Run,
) -> Result<Option<ConsoleSocket>, CommandError> {
    if arguments.detach || arguments.console_socket.is_some() {
        return Ok(None);
    }
    let bundle = Bundle::load(&arguments.bundle).map_err(CreateError::Bundle)?;
    let process = bundle.process().map_err(CreateError::Bundle)?;
    if process.terminal() != Some(true) {
        return Ok(None);
    }
    let socket = ConsoleSocket::create(context.root.path()).map_err(ForegroundError::Console);
    Ok(Some(socket.map_err(RunError::Foreground)?))
}

/// The container's status is what the user asked for; failing to tidy up is only reported.
fn clean_up(context: &Context, arguments: &liboci_cli::Run) {
    if let Err(error) = delete::delete(context, &arguments.container_id, Running::Kill) {
        tracing::warn!(
            "cannot delete the container after it ended: {}",
            chain(&error)
        );
    }
}
