//! What the anchor does where another runtime would execute the program.

use super::program::Program;
use super::stay::{self, AnchorError};
use crate::error::chain;
use crate::executor::Role;
use crate::executor::confinement::{Confinement, Loader};
use crate::executor::launch::Launch;
use crate::executor::native::failed;
use crate::instance::channel::Channel;
use crate::instance::letter;
use crate::sys;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

/// All of it is made before the library clones the anchor, which inherits the descriptors and this
/// memory.
#[derive(Debug, Clone)]
pub struct AnchorExecutor {
    launch: Launch,
    /// The name under which it is listed, cut to what Linux keeps.
    title: String,
    link: Arc<Channel>,
    /// A blank letter: inside the container a policy might not allow to create one.
    letter: Arc<File>,
    /// The program that the anchor becomes in the end.
    code: Arc<File>,
    preserve_fds: u32,
}

impl AnchorExecutor {
    pub fn new(
        container_id: &str,
        confinement: Confinement,
        link: Channel,
        letter: File,
        code: File,
        preserve_fds: u32,
    ) -> Self {
        AnchorExecutor {
            title: format!("anchor:{container_id}"),
            launch: Launch::new(Role::Init, confinement),
            link: Arc::new(link),
            letter: Arc::new(letter),
            code: Arc::new(code),
            preserve_fds,
        }
    }

    /// Returns only if the program could not be started.
    fn stay(&self, spec: &Spec) -> Result<(), AnchorError> {
        let program = Program::try_from(self.launch.finish(spec, Loader::Kernel)?)?;
        letter::fill(&self.letter, &program)?;
        let terminal = spec
            .process()
            .as_ref()
            .is_some_and(|process| process.terminal() == Some(true));
        if terminal {
            stay::give_up_terminal()?;
        }
        let signals = stay::start(&self.link, &self.letter, self.inherited(), &program.path)?;
        Err(stay::stay(&self.link, &signals, &self.code, &self.title))
    }

    /// Number of descriptors from 0 on that the program inherits.
    fn inherited(&self) -> u32 {
        let activation = std::env::var("LISTEN_FDS")
            .ok()
            .and_then(|text| text.parse::<u32>().ok());
        3 + self.preserve_fds + activation.unwrap_or(0)
    }
}

impl Executor for AnchorExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        // Where a pid namespace is shared, other containers see the anchor, but not the host's paths.
        if let Err(errno) = sys::anchor::hide_arguments() {
            tracing::debug!("cannot hide the anchor's arguments: {errno}");
        }
        sys::anchor::name_process(&self.title);
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
        self.stay(spec)
            .map_err(|error| failed(self.launch.role, &error))
    }
}
