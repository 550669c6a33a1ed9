//! Replaces the container's process by its program: `execve(2)`.

use super::Role;
use super::confinement::{Confinement, Loader};
use super::launch::{Launch, Program};
use super::lookup::errno_text;
use crate::error::chain;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use std::collections::HashMap;

#[derive(Debug, Clone)]
pub struct NativeExecutor {
    launch: Launch,
}

impl NativeExecutor {
    pub fn new(role: Role, confinement: Confinement) -> Self {
        NativeExecutor {
            launch: Launch::new(role, confinement),
        }
    }
}

impl Executor for NativeExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        match self.launch.check(spec) {
            Ok(_) => Ok(()),
            Err(error) => Err(ExecutorValidationError::ArgValidationError(chain(&error))),
        }
    }

    fn setup_envs(&self, environment: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        self.launch.keep_environment(environment);
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let program = self
            .launch
            .finish(spec, Loader::Kernel)
            .map_err(|error| failed(self.launch.role, &error))?;
        Err(failed(self.launch.role, &execute(&program)))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("exec {path}: {}", errno_text(*.errno))]
pub struct ExecuteError {
    path: String,
    errno: Errno,
}

/// Becomes the program; returns only if the kernel refuses.
pub fn execute(program: &Program) -> ExecuteError {
    let executed = reset_signals()
        .and_then(|()| nix::unistd::execve(&program.path, &program.argv, &program.envp));
    match executed {
        Ok(never) => match never {},
        Err(errno) => ExecuteError {
            path: program.path.to_string_lossy().into_owned(),
            errno,
        },
    }
}

/// The Rust runtime ignores SIGPIPE, which a program would inherit.
fn reset_signals() -> Result<(), Errno> {
    SigSet::empty().thread_set_mask()?;
    crate::sys::signals::restore_default(Signal::SIGPIPE)
}

/// runc's, when the program of a first process turns out not to be executable.
const STATUS_NOT_STARTED: i32 = 1;

/// Nobody reads the answer of a first process any more, since `start` has returned: say it where the
/// container's output goes, as runc does. For a further process `exec` still waits for it.
pub fn failed(role: Role, error: &(dyn std::error::Error + 'static)) -> ExecutorError {
    let text = chain(error);
    if role == Role::Init {
        eprintln!("{text}");
        std::process::exit(STATUS_NOT_STARTED);
    }
    ExecutorError::Other(text)
}
