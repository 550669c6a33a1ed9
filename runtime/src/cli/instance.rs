//! `pegasus instance`: serve a fusion group. Started by the first `create` of the group, not by people.

use super::{CommandError, Outcome};
use crate::group::Group;
use crate::instance::shared::{self, SharedError};
use crate::sys;
use clap::Args;

/// Serve a fusion group (started by create)
#[derive(Debug, Args)]
pub struct Instance {
    /// Name of the group
    group: String,
}

/// Before anything is opened: what the starting process had open is none of the instance's business.
pub fn close_inherited() {
    sys::anchor::close_all_but(&[0, 1, 2]);
}

pub fn run(arguments: &Instance) -> Outcome {
    serve(&arguments.group).map_err(CommandError::Instance)?;
    Ok(0)
}

fn serve(group: &str) -> Result<(), SharedError> {
    shared::run(&Group::named(group)?)
}
