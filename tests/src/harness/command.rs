//! Running a program with a deadline and keeping everything it printed.
//!
//! A child that outlives its deadline is killed with its whole process group, and the error shows
//! what it had printed until then: a hung test must say where it hung.

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long the pipes of a finished child may stay open in other hands.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// A child's end.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code, or 128 + signal number as a shell would say.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
    /// The command line, for messages.
    pub line: String,
}

impl Finished {
    /// Fails unless the exit status is `status`.
    pub fn expect(self, status: i32) -> Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        bail!(
            "exit status {}, not {status}, of\n{}",
            self.status,
            self.describe()
        )
    }

    /// The command line and what it printed.
    pub fn describe(&self) -> String {
        format!(
            "$ {}\n-- stdout\n{}\n-- stderr\n{}",
            self.line,
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }

    /// Standard output without white space at its ends.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// The last part of a long output.
fn tail(text: &str) -> &str {
    const SHOWN_LEN_MAX: usize = 4000;
    let mut start = text.len().saturating_sub(SHOWN_LEN_MAX);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].trim_end()
}

/// Runs `command` to its end with `stdin` as its input.
pub fn finish(command: &mut Command, stdin: &[u8], limit: Duration) -> Result<Finished> {
    let line = line_of(command);
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {line}"))?;
    let mut input = child.stdin.take().context("no stdin")?;
    let data = stdin.to_vec();
    // A child that does not read its input is no fault of ours.
    thread::spawn(move || input.write_all(&data).ok());
    let stdout = drain(child.stdout.take().context("no stdout")?);
    let stderr = drain(child.stderr.take().context("no stderr")?);
    let status = wait(&mut child, began + limit);
    let (stdout, stderr) = (collect(&stdout), collect(&stderr));
    let elapsed = began.elapsed();
    match status? {
        Some(status) => Ok(Finished {
            status: code_of(status),
            stdout,
            stderr,
            elapsed,
            line,
        }),
        None => {
            let late = Finished {
                status: 0,
                stdout,
                stderr,
                elapsed,
                line,
            };
            bail!(
                "still running after {:.0} s:\n{}",
                limit.as_secs_f64(),
                late.describe()
            )
        }
    }
}

/// Exit code, or 128 + signal.
pub fn code_of(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits until `deadline`, then kills the child's process group and returns `None`.
pub fn wait(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            let group = Pid::from_raw(i32::try_from(child.id())?);
            // It may end by itself in this very moment.
            let _ = killpg(group, Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut chunk = vec![0; 64 << 10];
        while let Ok(len @ 1..) = pipe.read(&mut chunk) {
            if sender.send(chunk[..len].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Everything up to end of file, or what has come when the limit is over.
fn collect(receiver: &Receiver<Vec<u8>>) -> String {
    let deadline = Instant::now() + DRAIN_LIMIT;
    let mut bytes = Vec::new();
    while let Ok(chunk) = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        bytes.extend(chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let is_plain = !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c));
        if is_plain {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
