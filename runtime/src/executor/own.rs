//! Turns the container's process into the first process of an own instance: the vkernel, mapped into
//! it beforehand, loads the program in place of this one.

use super::Role;
use super::confinement::{Confinement, Loader};
use super::launch::{Launch, LaunchError, Program};
use super::native::{self, ExecuteError, failed};
use crate::error::chain;
use crate::placement::program::open_loadable;
use crate::placement::report::Report;
use crate::sys;
use crate::sys::vkernel::Vkernel;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use std::collections::HashMap;
use std::ffi::CString;

#[derive(Debug, Clone)]
pub struct OwnExecutor {
    launch: Launch,
    vkernel: Vkernel,
    container_id: CString,
    report: Report,
}

impl OwnExecutor {
    pub fn new(
        confinement: Confinement,
        vkernel: Vkernel,
        container_id: CString,
        report: Report,
    ) -> Self {
        OwnExecutor {
            launch: Launch::new(Role::Init, confinement),
            vkernel,
            container_id,
            report,
        }
    }

    /// Returns only if the vkernel does not take the program.
    fn run(&self, program: &Program) {
        if let Err(errno) = sys::signals::restore_all_defaults() {
            tracing::warn!("cannot reset signal handlers: {errno}");
            return;
        }
        let Program { path, argv, envp } = program;
        let errno = self.vkernel.run_own(path, argv, envp, &self.container_id);
        tracing::warn!("the vkernel does not load {path:?}, the kernel does: {errno}");
    }

    fn execute(&self, spec: &Spec) -> Result<ExecuteError, LaunchError> {
        if self.report.reason().is_some() {
            return Ok(native::execute(&self.launch.finish(spec, Loader::Kernel)?));
        }
        let program = self.launch.finish(spec, Loader::Vkernel)?;
        self.run(&program);
        self.launch.leave_to_kernel()?;
        Ok(native::execute(&program))
    }
}

impl Executor for OwnExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let path = self
            .launch
            .check(spec)
            .map_err(|error| ExecutorValidationError::ArgValidationError(chain(&error)))?;
        if let Err(reason) = open_loadable(&path) {
            self.report.native(&reason);
        }
        Ok(())
    }

    fn setup_envs(&self, environment: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        self.launch.keep_environment(environment);
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let role = self.launch.role;
        Err(match self.execute(spec) {
            Ok(error) => failed(role, &error),
            Err(error) => failed(role, &error),
        })
    }
}
