//! `pegasus pause`: freeze all processes of a container.

use super::{Context, Outcome};
use crate::container::explain::explain;
use libcontainer::container::ContainerStatus;
use libcontainer::error::LibcontainerError;

#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    #[error("container not running")]
    NotRunning,
    #[error("container not paused")]
    NotPaused,
    #[error("cannot freeze or thaw container {id:?}: {}", explain(.source))]
    Library {
        id: String,
        #[source]
        source: Box<LibcontainerError>,
    },
}

pub fn run(context: &Context, arguments: &liboci_cli::Pause) -> Outcome {
    let mut container = context.root.load(&arguments.container_id)?;
    if container.status() != ContainerStatus::Running {
        return Err(PauseError::NotRunning.into());
    }
    container.pause().map_err(|source| PauseError::Library {
        id: arguments.container_id.clone(),
        source: Box::new(source),
    })?;
    Ok(0)
}
