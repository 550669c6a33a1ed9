//! What every executor does before the program runs: find it, and give the process exactly the
//! environment, umask, system-call policy and capabilities that its specification says.

use super::confinement::{Confinement, ConfinementError, Loader};
use super::environment::{self, EnvironmentError};
use super::lookup::{self, LookupError};
use super::{Role, stdio};
use libcontainer::oci_spec::runtime::{Process, Spec};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("process.args in config.json is empty: name a program to run")]
    NoProgram,
    #[error("process.args in config.json contains a NUL character")]
    NulInArguments,
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    #[error("cannot name the container's process")]
    Name(#[source] Errno),
    #[error("cannot open the container's /dev/null for standard input and output")]
    Null(#[source] std::io::Error),
    #[error("cannot give the container's user its standard input and output")]
    Owner(#[source] Errno),
}

/// A program ready for `execve(2)`.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: CString,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
}

/// State carried from the checks before `start` to the execution after it.
#[derive(Debug, Clone)]
pub struct Launch {
    pub role: Role,
    confinement: Confinement,
    found: RefCell<Option<PathBuf>>,
    library_environment: RefCell<HashMap<String, String>>,
}

const NAME_BEFORE_START: &CStr = c"pegasus:[INIT]";
const UMASK_DEFAULT: Mode = Mode::from_bits_truncate(0o022);

impl Launch {
    pub fn new(role: Role, confinement: Confinement) -> Self {
        Launch {
            role,
            confinement,
            found: RefCell::default(),
            library_environment: RefCell::default(),
        }
    }

    /// Everything that can be refused while `create` still waits for the answer.
    pub fn check(&self, spec: &Spec) -> Result<PathBuf, LaunchError> {
        let process = process_of(spec)?;
        let listed = process.env().as_deref().unwrap_or_default();
        environment::compose(listed, &HashMap::new())?;
        let arguments = process.args().as_deref().unwrap_or_default();
        let name = arguments.first().ok_or(LaunchError::NoProgram)?;
        let path = lookup::find_program(name, environment::search_path(listed))?;
        self.found.replace(Some(path.clone()));
        // The container library calls the process after itself; until `start` it is seen in `ps`.
        prctl::set_name(NAME_BEFORE_START).map_err(LaunchError::Name)?;
        self.confinement.set_propagations()?;
        if self.role == Role::Init {
            stdio::make_null_writable().map_err(LaunchError::Null)?;
        }
        stdio::give_to(Uid::from_raw(process.user().uid())).map_err(LaunchError::Owner)?;
        if process.user().umask().is_none() {
            umask(UMASK_DEFAULT);
        }
        Ok(path)
    }

    /// After [`Self::finish`] for the vkernel: the kernel is to load the program after all.
    pub fn leave_to_kernel(&self) -> Result<(), LaunchError> {
        Ok(self.confinement.lower_capabilities(Loader::Kernel)?)
    }

    /// Keeps the environment that the container library computed.
    pub fn keep_environment(&self, environment: HashMap<String, String>) {
        self.library_environment.replace(environment);
    }

    /// The last steps with the runtime's code: seccomp, capabilities; then the program to execute.
    pub fn finish(&self, spec: &Spec, loader: Loader) -> Result<Program, LaunchError> {
        let process = process_of(spec)?;
        let program = self.program(process)?;
        self.confinement.complete(loader)?;
        Ok(program)
    }

    fn program(&self, process: &Process) -> Result<Program, LaunchError> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let listed = process.env().as_deref().unwrap_or_default();
        let path = match self.found.borrow().as_ref() {
            Some(path) => path.clone(),
            None => {
                let name = arguments.first().ok_or(LaunchError::NoProgram)?;
                lookup::find_program(name, environment::search_path(listed))?
            }
        };
        let to_c = |bytes: &[u8]| CString::new(bytes).map_err(|_| LaunchError::NulInArguments);
        Ok(Program {
            path: to_c(path.as_os_str().as_bytes())?,
            argv: arguments
                .iter()
                .map(|argument| to_c(argument.as_bytes()))
                .collect::<Result<_, _>>()?,
            envp: environment::compose(listed, &self.library_environment.borrow())?,
        })
    }
}

fn process_of(spec: &Spec) -> Result<&Process, LaunchError> {
    spec.process().as_ref().ok_or(LaunchError::NoProgram)
}
