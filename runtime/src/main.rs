//! `pegasus`: an OCI runtime that loads a container's programs next to a user-space kernel.
//!
//! [`cli`] is the command line, one module per command; [`container`] the steps in the life of a
//! container; [`executor`] what its process does last; [`observe`] what can be seen of all that run;
//! [`sys`] the calls without a safe wrapper.

#![deny(unsafe_code)]

mod anchor;
mod cli;
mod clock;
mod configuration;
mod container;
mod elf;
mod error;
mod executor;
mod fusion;
mod group;
mod instance;
mod logging;
mod network;
mod observe;
mod placement;
mod seccomp;
mod self_copy;
mod sys;

fn main() -> std::process::ExitCode {
    cli::main()
}
