//! `pegasus state`: the state of a container, as runc prints it.

use super::{Context, JsonLayout, Outcome, print_json};
use crate::container::bundle::Bundle;
use crate::container::root::Root;
use crate::container::users;
use libcontainer::container::{Container, ContainerStatus};
use libcontainer::oci_spec::runtime::VERSION;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Root(#[from] crate::container::root::RootError),
}

/// The keys and their order are runc's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    oci_version: &'static str,
    pub id: String,
    pub pid: i32,
    pub status: String,
    pub bundle: PathBuf,
    rootfs: PathBuf,
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    pub owner: String,
}

pub fn run(context: &Context, arguments: &liboci_cli::State) -> Outcome {
    let state = read(&context.root, &arguments.container_id).map_err(StateError::Root)?;
    print_json(&state, JsonLayout::Indented)?;
    Ok(0)
}

pub fn read(root: &Root, id: &str) -> Result<State, crate::container::root::RootError> {
    Ok(describe(&root.load(id)?))
}

fn describe(container: &Container) -> State {
    let is_alive = container.status() != ContainerStatus::Stopped;
    State {
        oci_version: VERSION,
        id: container.id().to_owned(),
        pid: container
            .pid()
            .filter(|_| is_alive)
            .map_or(0, |pid| pid.as_raw()),
        status: container.status().to_string().to_lowercase(),
        bundle: container.bundle().clone(),
        rootfs: rootfs(container),
        created: container
            .created()
            .map(|time| time.to_rfc3339())
            .unwrap_or_default(),
        annotations: container
            .state
            .annotations
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        owner: container
            .state
            .creator
            .map(users::name_of)
            .unwrap_or_default(),
    }
}

/// The bundle may have gone; then its place is all there is to tell.
fn rootfs(container: &Container) -> PathBuf {
    let bundle = container.bundle();
    let configured = Bundle::read(bundle)
        .ok()
        .and_then(|bundle| bundle.spec.root().as_ref().map(|root| root.path().clone()));
    bundle.join(configured.unwrap_or_else(|| PathBuf::from("rootfs")))
}
