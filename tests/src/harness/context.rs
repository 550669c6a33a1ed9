//! What a case is given: the engine, the runtime to use, a deadline, and cleaning up after it.

use super::case::{Skip, SkipCause, skip};
use super::command::{Finished, finish};
use super::container::Spec;
use super::site::{Group, REFERENCE, Site};
use anyhow::{Context as _, Result, ensure};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Label by which the containers of one case are found again.
const LABEL: &str = "dev.pegasus.case";
/// Time for removing what a case left, beyond its own limit.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// State that all cases of a run share.
#[derive(Debug)]
pub struct Shared {
    pub site: Site,
    groups: Mutex<Vec<Group>>,
    group_freed: Condvar,
    references: Mutex<HashMap<Vec<String>, Finished>>,
}

impl Shared {
    pub fn new(site: Site) -> Self {
        let groups = Mutex::new(site.runtimes.groups.clone());
        Self {
            site,
            groups,
            group_freed: Condvar::new(),
            references: Mutex::default(),
        }
    }
}

/// A panicking case must not take the others with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One running case.
#[derive(Debug)]
pub struct Context<'a> {
    shared: &'a Shared,
    /// Unique in the run; names containers and files.
    pub slug: String,
    runtime: String,
    deadline: Instant,
    counter: AtomicU32,
}

impl<'a> Context<'a> {
    pub fn new(shared: &'a Shared, slug: String, runtime: String, limit: Duration) -> Self {
        Self {
            shared,
            slug,
            runtime,
            deadline: Instant::now() + limit,
            counter: AtomicU32::new(0),
        }
    }

    pub fn site(&self) -> &'a Site {
        &self.shared.site
    }

    /// The engine's name of the runtime under test, in the placement this case runs in.
    pub fn runtime(&self) -> &str {
        &self.runtime
    }

    /// Whether the containers of this case share one instance with those of other cases.
    pub fn is_shared(&self) -> bool {
        self.site()
            .runtimes
            .shared
            .as_ref()
            .is_some_and(|shared| shared.runtime == self.runtime)
    }

    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub fn unique(&self) -> String {
        format!(
            "{}-{}",
            self.slug,
            self.counter.fetch_add(1, Ordering::Relaxed)
        )
    }

    pub fn label(&self) -> String {
        format!("{LABEL}={}", self.slug)
    }

    /// A container of the runtime under test.
    pub fn container(&self) -> Spec<'_, 'a> {
        self.on(&self.runtime)
    }

    /// A container of the reference runtime.
    pub fn reference(&self) -> Spec<'_, 'a> {
        self.on(REFERENCE)
    }

    pub fn on(&self, runtime: &str) -> Spec<'_, 'a> {
        Spec::new(self, runtime)
    }

    /// Any program on the host, within the case's deadline.
    pub fn host(&self, program: impl AsRef<OsStr>, args: &[&str]) -> Result<Finished> {
        finish(Command::new(program).args(args), b"", self.remaining())
    }

    /// The engine's client with any command.
    pub fn docker<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Finished> {
        finish(self.docker_command().args(args), b"", self.remaining())
    }

    pub fn docker_command(&self) -> Command {
        docker_command(self.site())
    }

    /// Runs the same container under runc and under the runtime under test, and fails unless exit
    /// status and standard output are equal. Returns the latter's end.
    pub fn compare(
        &self,
        build: impl for<'s> Fn(Spec<'s, 'a>) -> Spec<'s, 'a>,
    ) -> Result<Finished> {
        let expected = self.expected(&build)?;
        let found = build(self.container()).run()?;
        ensure!(
            (found.status, &found.stdout) == (expected.status, &expected.stdout),
            "differs from runc\n== runc: exit status {}\n{}\n== {}: exit status {}\n{}",
            expected.status,
            expected.describe(),
            self.runtime,
            found.status,
            found.describe(),
        );
        Ok(found)
    }

    /// The reference run, which both placements of a case share.
    fn expected(&self, build: &impl for<'s> Fn(Spec<'s, 'a>) -> Spec<'s, 'a>) -> Result<Finished> {
        let spec = build(self.reference());
        let key = spec.words();
        if let Some(known) = lock(&self.shared.references).get(&key) {
            return Ok(known.clone());
        }
        // The reference is not under test: what the engine itself got wrong (125) is tried again.
        let mut expected = spec.run().context("the reference run")?;
        if expected.status == 125 {
            expected = spec.run().context("the second reference run")?;
        }
        lock(&self.shared.references).insert(key, expected.clone());
        Ok(expected)
    }

    /// Whether this machine's root may do all that `docker run --privileged` asks for.
    pub fn grants_privileged(&self) -> Result<bool> {
        let key = vec!["is a privileged container possible".to_owned()];
        if let Some(known) = lock(&self.shared.references).get(&key) {
            return Ok(known.status == 0);
        }
        let tried = self
            .reference()
            .options(["--privileged"])
            .command(["true"])
            .run()?;
        lock(&self.shared.references).insert(key, tried.clone());
        Ok(tried.status == 0)
    }

    /// A fusion group for this case alone, until the guard is dropped.
    pub fn group(&self) -> Result<GroupGuard<'a>> {
        if self.site().runtimes.groups.is_empty() {
            return Err(skip(
                SkipCause::Machine,
                format!("runtime {} has no fusion groups", self.runtime),
            ));
        }
        let mut free = lock(&self.shared.groups);
        loop {
            if let Some(group) = free.pop() {
                return Ok(GroupGuard {
                    shared: self.shared,
                    group,
                });
            }
            ensure!(!self.remaining().is_zero(), "no fusion group became free");
            let waited = self.shared.group_freed.wait_timeout(free, self.remaining());
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The `pegasus` program, for cases that ask it something.
    pub fn pegasus(&self) -> Result<&'a PathBuf> {
        let reason = || Skip {
            reason: "the runtime under test is not pegasus".into(),
            cause: SkipCause::Machine,
        };
        self.site().pegasus.as_ref().ok_or_else(|| reason().into())
    }

    /// A fresh directory for files that are mounted into containers.
    pub fn scratch(&self) -> Result<PathBuf> {
        let directory = self.site().scratch.join(self.unique());
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// Tries `probe` until it succeeds; its last error is the failure.
    pub fn eventually<T>(
        &self,
        limit: Duration,
        mut probe: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit.min(self.remaining());
        loop {
            match probe() {
                Ok(value) => return Ok(value),
                Err(fault) if Instant::now() >= deadline => {
                    return Err(fault.context(format!("not within {limit:?}")));
                }
                Err(_) => thread::sleep(Duration::from_millis(25)),
            }
        }
    }

    /// Removes every container the case has left.
    pub fn clean_up(&self) -> Result<()> {
        let filter = format!("label={}", self.label());
        let mut list = self.docker_command();
        list.args(["ps", "--all", "--quiet", "--filter", &filter]);
        let left = finish(&mut list, b"", CLEANUP_LIMIT)?.expect(0)?;
        if left.text().is_empty() {
            return Ok(());
        }
        let mut remove = self.docker_command();
        remove
            .args(["rm", "--force", "--volumes"])
            .args(left.text().lines());
        finish(&mut remove, b"", CLEANUP_LIMIT)?
            .expect(0)
            .context("removing the case's containers")?;
        Ok(())
    }
}

/// The engine's client, talking to the engine of `site`.
pub fn docker_command(site: &Site) -> Command {
    let mut command = Command::new("docker");
    command
        .arg("--host")
        .arg(format!("unix://{}", site.socket.display()));
    command
        .env_remove("DOCKER_HOST")
        .env_remove("DOCKER_CONTEXT");
    command
}

/// A borrowed fusion group.
#[derive(Debug)]
pub struct GroupGuard<'a> {
    shared: &'a Shared,
    group: Group,
}

impl GroupGuard<'_> {
    pub fn runtime(&self) -> &str {
        &self.group.runtime
    }

    pub fn name(&self) -> &str {
        &self.group.name
    }
}

impl Drop for GroupGuard<'_> {
    fn drop(&mut self) {
        lock(&self.shared.groups).push(self.group.clone());
        self.shared.group_freed.notify_one();
    }
}
