//! `pegasus checkpoint`: refused.

use super::Outcome;

#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is not supported: the user-space kernel's state cannot be saved or restored; \
     stop the container and start it again instead"
)]
pub struct Unsupported(pub &'static str);

pub fn run() -> Outcome {
    Err(Unsupported("checkpoint").into())
}
