//! The program that a home task is to run, as the anchor has found it inside the container.

use crate::executor::launch;
use serde::{Deserialize, Serialize};
use std::ffi::{CString, IntoStringError};

/// As for `execve(2)`. All of it comes from JSON, so it is text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    pub path: String,
    pub argv: Vec<String>,
    pub envp: Vec<String>,
}

impl TryFrom<launch::Program> for Program {
    type Error = IntoStringError;

    fn try_from(program: launch::Program) -> Result<Self, IntoStringError> {
        Ok(Program {
            path: program.path.into_string()?,
            argv: texts(program.argv)?,
            envp: texts(program.envp)?,
        })
    }
}

fn texts(list: Vec<CString>) -> Result<Vec<String>, IntoStringError> {
    list.into_iter().map(CString::into_string).collect()
}
