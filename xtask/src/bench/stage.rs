//! One sample: a fresh set of containers under one runtime in one mode.

use super::mode::Mode;
use anyhow::{Context as _, Result, ensure};
use pegasus_tests::harness::container::{Container, Spec};
use pegasus_tests::harness::context::Context;
use std::fs;
use std::time::{Duration, Instant};

/// What a measurement is given.
#[derive(Debug)]
pub struct Stage<'c, 'a> {
    pub context: &'c Context<'a>,
    /// The engine's name of the runtime.
    pub runtime: &'c str,
    pub mode: Mode,
    /// How long the measured part takes, if the load generator can be told.
    pub length: Duration,
    /// The last values under this runtime: for generators that want to be told how much, not how
    /// long. `None` in the unmeasured run.
    pub last: Option<Vec<f64>>,
}

/// How long a server may take until the kernel knows its socket. One that listens only within its
/// group never shows there, and is ready by then all the same.
const LISTEN_LIMIT: Duration = Duration::from_secs(2);

impl<'c, 'a> Stage<'c, 'a> {
    /// A container of this stage, with no network unless it is given one.
    pub fn container(&self) -> Spec<'c, 'a> {
        self.context
            .on(self.runtime)
            .options(self.mode.options().iter().copied())
            // Room for ten thousand connections, here and under the other runtimes.
            .options(["--ulimit=nofile=16384:16384"])
    }

    /// The container that the others talk to: the owner of the network.
    pub fn server(&self) -> Spec<'c, 'a> {
        match self.mode {
            Mode::Bridge => self.container().network("bridge"),
            Mode::Shared | Mode::OneCpu => self.container(),
        }
    }

    /// A container that talks to `server`.
    pub fn client(&self, server: &Container) -> Spec<'c, 'a> {
        match self.mode {
            Mode::Bridge => self.container().network("bridge"),
            Mode::Shared | Mode::OneCpu => self.inside_network_of(server),
        }
    }

    pub fn inside_network_of(&self, server: &Container) -> Spec<'c, 'a> {
        self.container()
            .network(&format!("container:{}", server.name))
    }

    /// Where its clients find `server`.
    pub fn address(&self, server: &Container) -> Result<String> {
        match self.mode {
            Mode::Bridge => server.address(),
            Mode::Shared | Mode::OneCpu => Ok("127.0.0.1".to_owned()),
        }
    }

    /// The measured part in whole milliseconds.
    pub fn length_ms(&self) -> String {
        self.length.as_millis().to_string()
    }

    /// Starts one of our own servers, which say when they are ready.
    pub fn start_program(&self, program: &str, args: &[&str]) -> Result<Container<'c, 'a>> {
        let server = self
            .server()
            .program(program, args.iter().copied())
            .start()?;
        server.wait_for_log("listening")?;
        Ok(server)
    }

    /// Waits for a server that says nothing when it is ready.
    pub fn wait_for_port(&self, server: &Container, port: u16) -> Result<()> {
        let pid = server.pid()?;
        let began = Instant::now();
        while began.elapsed() < LISTEN_LIMIT && !is_listening(pid, port) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // It may have ended in the meantime.
        server.pid().map(drop)
    }
}

/// Whether a socket of the network namespace of `pid` listens on `port`.
fn is_listening(pid: i32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| listens_on(line, port))
    })
}

/// Columns of `/proc/net/tcp`: number, local address, remote address, state (0A: listening).
fn listens_on(line: &str, port: u16) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let local = words.get(1).and_then(|address| address.rsplit_once(':'));
    let is_port = local.is_some_and(|(_, hex)| u16::from_str_radix(hex, 16) == Ok(port));
    is_port && words.get(3) == Some(&"0A")
}

/// The one number that a program printed as its last line.
pub fn number(said: &str) -> Result<f64> {
    let last = said.lines().last().unwrap_or_default();
    let value: f64 = last
        .trim()
        .parse()
        .with_context(|| format!("not a number: {said:?}"))?;
    ensure!(value > 0.0, "nothing was done: {said:?}");
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_listening_port() {
        let line = "  0: 00000000:18EB 00000000:0000 0A 00000000:00000000 00:00000000 0 0 0 1";
        assert!(listens_on(line, 6379) && !listens_on(line, 80));
        assert!(!listens_on(&line.replace(" 0A ", " 01 "), 6379));
    }

    #[test]
    fn a_result_is_a_positive_number() {
        assert_eq!(number("warning\n12.5\n").unwrap(), 12.5);
        assert!(number("0").is_err() && number("").is_err() && number("x").is_err());
    }
}
