//! Describing a container, running it, and looking at one that runs.

use super::command::{Finished, code_of, finish, wait};
use super::context::Context;
use super::site::{PROGRAMS_DIR, TEST_IMAGE};
use anyhow::{Context as _, Result, ensure};
use nix::pty::{Winsize, openpty};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A `docker run` to be.
#[derive(Debug, Clone)]
pub struct Spec<'c, 'a> {
    context: &'c Context<'a>,
    runtime: String,
    image: String,
    options: Vec<String>,
    command: Vec<String>,
    input: Vec<u8>,
}

impl<'c, 'a> Spec<'c, 'a> {
    pub(crate) fn new(context: &'c Context<'a>, runtime: &str) -> Self {
        Self {
            context,
            runtime: runtime.to_owned(),
            image: TEST_IMAGE.to_owned(),
            // Most cases need no network, and without one a container starts twice as fast.
            options: vec!["--network=none".to_owned()],
            command: Vec::new(),
            input: Vec::new(),
        }
    }

    pub fn image(mut self, image: &str) -> Self {
        image.clone_into(&mut self.image);
        self
    }

    /// Options of `docker run`.
    pub fn options<S: AsRef<str>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options
            .extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    pub fn network(mut self, network: &str) -> Self {
        self.options
            .retain(|option| !option.starts_with("--network="));
        self.options.push(format!("--network={network}"));
        self
    }

    pub fn command<S: AsRef<str>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        self
    }

    /// `sh -c SCRIPT`
    pub fn shell(self, script: &str) -> Self {
        self.command(["/bin/sh", "-c", script])
    }

    /// One of the test programs, with its arguments.
    pub fn program<S: AsRef<str>>(self, name: &str, args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        let words: Vec<String> = std::iter::once(format!("{PROGRAMS_DIR}/{name}"))
            .chain(args)
            .collect();
        self.command(words)
    }

    /// Standard input; also asks the engine to connect it.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self.options(["--interactive"])
    }

    /// Everything but the runtime, as a key.
    pub(crate) fn words(&self) -> Vec<String> {
        let input = String::from_utf8_lossy(&self.input).into_owned();
        let fixed = [self.image.clone(), input, "--".to_owned()];
        fixed
            .into_iter()
            .chain(self.options.clone())
            .chain(["--".to_owned()])
            .chain(self.command.clone())
            .collect()
    }

    fn docker(&self, verb: &[&str], name: &str) -> Command {
        let mut command = self.context.docker_command();
        command.args(verb).args([
            "--name",
            name,
            "--label",
            &self.context.label(),
            "--runtime",
            &self.runtime,
        ]);
        command
            .args(&self.options)
            .arg(&self.image)
            .args(&self.command);
        command
    }

    /// Runs it in the foreground and removes it.
    pub fn run(&self) -> Result<Finished> {
        let name = self.context.unique();
        finish(
            &mut self.docker(&["run", "--rm"], &name),
            &self.input,
            self.context.remaining(),
        )
    }

    /// Runs it and requires exit status 0; returns its trimmed standard output.
    pub fn output(&self) -> Result<String> {
        Ok(self.run()?.expect(0)?.text().to_owned())
    }

    /// Runs it in the foreground without removing it.
    pub fn run_and_keep(&self) -> Result<(Container<'c, 'a>, Finished)> {
        let name = self.context.unique();
        let finished = finish(
            &mut self.docker(&["run"], &name),
            &self.input,
            self.context.remaining(),
        )?;
        Ok((
            Container {
                context: self.context,
                name,
            },
            finished,
        ))
    }

    /// Creates it without starting it.
    pub fn create(&self) -> Result<Container<'c, 'a>> {
        let name = self.context.unique();
        finish(
            &mut self.docker(&["create"], &name),
            b"",
            self.context.remaining(),
        )?
        .expect(0)?;
        Ok(Container {
            context: self.context,
            name,
        })
    }

    /// Starts it in the background.
    pub fn start(&self) -> Result<Container<'c, 'a>> {
        let name = self.context.unique();
        finish(
            &mut self.docker(&["run", "--detach"], &name),
            b"",
            self.context.remaining(),
        )?
        .expect(0)?;
        Ok(Container {
            context: self.context,
            name,
        })
    }

    /// Starts it on a terminal of 40 rows and 100 columns.
    pub fn terminal(&self) -> Result<Terminal<'c, 'a>> {
        let name = self.context.unique();
        Terminal::open(
            self.context,
            self.docker(&["run", "--rm", "--interactive", "--tty"], &name),
        )
    }
}

/// A container that exists; removed when the case ends.
#[derive(Debug, Clone)]
pub struct Container<'c, 'a> {
    context: &'c Context<'a>,
    pub name: String,
}

impl<'c, 'a> Container<'c, 'a> {
    pub fn exec<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.exec_with(&[] as &[&str], words)
    }

    pub fn exec_with<O: AsRef<OsStr>, S: AsRef<OsStr>>(
        &self,
        options: impl IntoIterator<Item = O>,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Finished> {
        let mut command = self.context.docker_command();
        command
            .arg("exec")
            .args(options)
            .arg(&self.name)
            .args(words);
        finish(&mut command, b"", self.context.remaining())
    }

    /// `exec` that must succeed; its trimmed standard output.
    pub fn ask<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<String> {
        Ok(self.exec(words)?.expect(0)?.text().to_owned())
    }

    /// `docker exec -it` on a terminal.
    pub fn exec_terminal<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Result<Terminal<'c, 'a>> {
        let mut command = self.context.docker_command();
        command
            .args(["exec", "--interactive", "--tty", &self.name])
            .args(words);
        Terminal::open(self.context, command)
    }

    /// `docker VERB [OPTIONS] NAME`, which must succeed.
    pub fn docker(&self, verb: &[&str]) -> Result<Finished> {
        self.context
            .docker(verb.iter().copied().chain([self.name.as_str()]))?
            .expect(0)
    }

    pub fn inspect(&self, format: &str) -> Result<String> {
        Ok(self
            .docker(&["inspect", "--format", format])?
            .text()
            .to_owned())
    }

    /// Host pid of its first process.
    pub fn pid(&self) -> Result<i32> {
        let pid: i32 = self.inspect("{{.State.Pid}}")?.parse()?;
        ensure!(pid > 0, "{} is not running\n{}", self.name, self.logs()?);
        Ok(pid)
    }

    pub fn id(&self) -> Result<String> {
        self.inspect("{{.Id}}")
    }

    /// Waits for its end; the exit status.
    pub fn wait(&self) -> Result<i32> {
        Ok(self.docker(&["wait"])?.text().parse()?)
    }

    /// Both output streams so far.
    pub fn logs(&self) -> Result<String> {
        let logs = self.docker(&["logs"])?;
        Ok(logs.stdout + &logs.stderr)
    }

    /// Waits until `needle` is in the log.
    pub fn wait_for_log(&self, needle: &str) -> Result<String> {
        self.context.eventually(self.context.remaining() / 2, || {
            let logs = self.logs()?;
            ensure!(
                logs.contains(needle),
                "{needle:?} is not in the log of {}:\n{logs}",
                self.name
            );
            Ok(logs)
        })
    }

    pub fn address(&self) -> Result<String> {
        self.inspect("{{.NetworkSettings.IPAddress}}")
    }
}

/// A client on a pseudo terminal.
#[derive(Debug)]
pub struct Terminal<'c, 'a> {
    context: &'c Context<'a>,
    child: Child,
    master: File,
}

impl<'c, 'a> Terminal<'c, 'a> {
    fn open(context: &'c Context<'a>, mut command: Command) -> Result<Self> {
        let size = Winsize {
            ws_row: 40,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None)?;
        let stdio = || -> Result<Stdio> { Ok(Stdio::from(pty.slave.try_clone()?)) };
        let child = command
            .stdin(stdio()?)
            .stdout(stdio()?)
            .stderr(stdio()?)
            .spawn()
            .context("cannot start docker")?;
        Ok(Self {
            context,
            child,
            master: File::from(pty.master),
        })
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Waits until the screen has shown `needle` since the last call; returns what it showed.
    pub fn expect(&mut self, needle: &str) -> Result<String> {
        let mut seen = Vec::new();
        let deadline = Instant::now() + self.context.remaining() / 2;
        let mut chunk = [0; 4096];
        while Instant::now() < deadline {
            if !super::host::readable_within(&self.master, deadline)? {
                break;
            }
            match self.master.read(&mut chunk) {
                Ok(0) | Err(_) => break, // the other side has hung up
                Ok(len) => seen.extend_from_slice(&chunk[..len]),
            }
            if String::from_utf8_lossy(&seen).contains(needle) {
                return Ok(String::from_utf8_lossy(&seen).into_owned());
            }
        }
        anyhow::bail!(
            "the terminal did not show {needle:?} but {:?}",
            String::from_utf8_lossy(&seen)
        )
    }

    /// Reads to the end and returns the exit status with everything that was shown.
    pub fn finish(mut self) -> Result<(i32, String)> {
        let mut seen = Vec::new();
        let deadline = Instant::now() + self.context.remaining();
        let mut chunk = [0; 4096];
        while super::host::readable_within(&self.master, deadline)? {
            match self.master.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(len) => seen.extend_from_slice(&chunk[..len]),
            }
        }
        let seen = String::from_utf8_lossy(&seen).into_owned();
        let status = wait(&mut self.child, deadline)?;
        let status =
            status.with_context(|| format!("the client still runs; it showed {seen:?}"))?;
        Ok((code_of(status), seen))
    }
}
