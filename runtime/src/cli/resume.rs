//! `pegasus resume`: thaw a paused container.

use super::pause::PauseError;
use super::{Context, Outcome};
use libcontainer::container::ContainerStatus;

pub fn run(context: &Context, arguments: &liboci_cli::Resume) -> Outcome {
    let mut container = context.root.load(&arguments.container_id)?;
    if container.status() != ContainerStatus::Paused {
        return Err(PauseError::NotPaused.into());
    }
    container.resume().map_err(|source| PauseError::Library {
        id: arguments.container_id.clone(),
        source: Box::new(source),
    })?;
    Ok(0)
}
