//! The table of cases: a name, where it runs, how long it may take, and what it does.

use super::context::Context;
use anyhow::Result;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const LIMIT_DEFAULT: Duration = Duration::from_secs(60);

/// In which placements of the runtime a case is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Once, each container in its own instance.
    Own,
    /// Twice: in own instances, and with all containers in one shared instance.
    Each,
    /// Once, in a fusion group that nobody else uses; see [`Context::group`].
    Group,
}

/// What a case may share the machine with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    Others,
    /// Runs after all others, alone: it looks at the whole machine.
    Nobody,
}

type Body = Arc<dyn Fn(&Context) -> Result<()> + Send + Sync>;

/// One test.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub scope: Scope,
    pub company: Company,
    pub limit: Duration,
    pub body: Body,
}

impl Case {
    fn new(
        scope: Scope,
        name: impl Into<String>,
        body: impl Fn(&Context) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            scope,
            company: Company::Others,
            limit: LIMIT_DEFAULT,
            body: Arc::new(body),
        }
    }

    pub fn own(
        name: impl Into<String>,
        body: impl Fn(&Context) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Scope::Own, name, body)
    }

    pub fn each(
        name: impl Into<String>,
        body: impl Fn(&Context) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Scope::Each, name, body)
    }

    pub fn group(
        name: impl Into<String>,
        body: impl Fn(&Context) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Scope::Group, name, body)
    }

    /// Allows the case this long instead of a minute.
    pub fn limit(mut self, limit_s: u64) -> Self {
        self.limit = Duration::from_secs(limit_s);
        self
    }

    /// Runs the case when no other is running.
    pub fn alone(mut self) -> Self {
        self.company = Company::Nobody;
        self
    }
}

/// Returned (as an error) by a case that cannot be judged on this machine.
#[derive(Debug)]
pub struct Skip {
    pub reason: String,
    /// Whether the set-up could have provided what is missing; CI does not accept such a skip.
    pub cause: SkipCause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipCause {
    /// The set-up should have provided it.
    Setup,
    /// The hardware, the kernel or the chosen runtime does not have it.
    Machine,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Skip {}

/// An error that makes the runner report the case as skipped.
pub fn skip(cause: SkipCause, reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skip {
        reason: reason.into(),
        cause,
    })
}
