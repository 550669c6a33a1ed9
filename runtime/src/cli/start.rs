//! `pegasus start`: let the process of a created container become its program.

use super::{Context, Outcome};
use crate::container::explain::explain;
use crate::container::root::Root;
use libcontainer::container::ContainerStatus;
use libcontainer::error::LibcontainerError;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot start a container that has stopped")]
    Stopped,
    #[error("cannot start an already running container")]
    Running,
    #[error("cannot start container {id:?}: {}", explain(.source))]
    Library {
        id: String,
        #[source]
        source: Box<LibcontainerError>,
    },
}

pub fn run(context: &Context, arguments: &liboci_cli::Start) -> Outcome {
    start(&context.root, &arguments.container_id)?;
    Ok(0)
}

pub fn start(root: &Root, id: &str) -> Result<(), super::CommandError> {
    let mut container = root.load(id)?;
    match container.status() {
        ContainerStatus::Created => {}
        ContainerStatus::Stopped => Err(StartError::Stopped)?,
        _ => Err(StartError::Running)?,
    }
    container.start().map_err(|source| StartError::Library {
        id: id.to_owned(),
        source: Box::new(source),
    })?;
    Ok(())
}
