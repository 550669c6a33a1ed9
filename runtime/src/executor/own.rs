//! Turns the container's process into the first process of an own instance: the vkernel, mapped into
//! it beforehand, loads the program in place of this one.

use super::Role;
use super::confinement::Confinement;
use super::launch::{Launch, Program};
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

    /// Lets `/proc/<pid>/exe` name the container's program instead of this one. Done while the process
    /// still has the privilege that it needs; where that fails, only the name is wrong.
    fn name_program(&self) {
        if self.report.reason().is_some() {
            return;
        }
        let Some(Ok(program)) = self.launch.found().map(|path| open_loadable(&path)) else {
            return;
        };
        if let Err(error) = sys::own_program::rename_to(&program) {
            tracing::debug!("/proc/self/exe names the runtime: {}", chain(&error));
        }
    }

    /// Returns only if neither the vkernel nor the kernel takes the program.
    fn run(&self, program: &Program) -> ExecuteError {
        if self.report.reason().is_none() {
            match sys::signals::restore_all_defaults() {
                Ok(()) => {
                    let errno = self.vkernel.run_own(
                        &program.path,
                        &program.argv,
                        &program.envp,
                        &self.container_id,
                    );
                    tracing::warn!("the vkernel does not load {:?}: {errno}", program.path);
                }
                Err(errno) => tracing::warn!("cannot reset signal handlers: {errno}"),
            }
        }
        native::execute(program)
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
        self.name_program();
        let program = self
            .launch
            .finish(spec)
            .map_err(|error| failed(role, &error))?;
        Err(failed(role, &self.run(&program)))
    }
}
