//! `pegasus list`: all containers under the state directory.

use super::state::{self, State};
use super::{Context, JsonLayout, Outcome, print_json, print_line};
use crate::container::root::RootError;

const HEADINGS: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];

pub fn run(context: &Context, arguments: &liboci_cli::List) -> Outcome {
    let ids = context.root.ids()?;
    if arguments.quiet {
        for id in ids {
            print_line(&id)?;
        }
        return Ok(0);
    }
    let mut states = Vec::with_capacity(ids.len());
    for id in ids {
        match state::read(&context.root, &id) {
            Ok(state) => states.push(state),
            // Deleted meanwhile.
            Err(RootError::NoContainer(_)) => {}
            Err(error) => {
                // Docker keeps the containers of every runtime in one directory.
                tracing::debug!(
                    "container {id} is left out: {}",
                    crate::error::chain(&error)
                );
            }
        }
    }
    match arguments.format.as_str() {
        "json" => print_json(&states, JsonLayout::Compact)?,
        _ => print_table(&states)?,
    }
    Ok(0)
}

fn print_table(states: &[State]) -> Result<(), super::OutputError> {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(states.iter().map(|state| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.clone(),
            state.bundle.display().to_string(),
            state.created.clone(),
            state.owner.clone(),
        ]
    }));
    print_line(&crate::cli::table::align(&rows))
}
