//! `pegasus restore`: refused.

use super::Outcome;
use super::checkpoint::Unsupported;
use clap::Args;

/// Restore a container from a checkpoint (not supported)
#[derive(Debug, Args)]
pub struct Restore {
    /// Accepted so that the refusal, and not a complaint about the command line, is what is read
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

pub fn run() -> Outcome {
    Err(Unsupported("restore").into())
}
