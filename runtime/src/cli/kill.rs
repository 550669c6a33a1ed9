//! `pegasus kill`: send a signal to a container's first process, or to all of them.

use super::{Context, Outcome};
use crate::anchor::visitors::Visitors;
use crate::container::cgroup::ContainerCgroup;
use crate::container::main_process::MainProcess;
use crate::sys;
use clap::Args;
use libcontainer::container::{Container, ContainerStatus};
use nix::errno::Errno;
use nix::unistd::Pid;

/// Send a signal to a container
#[derive(Debug, Args)]
pub struct Kill {
    /// Send the signal to every process in the container
    #[arg(short, long)]
    pub all: bool,
    /// Container identifier
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub container_id: String,
    /// Signal to send: a name or a number
    #[arg(default_value = "TERM")]
    pub signal: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KillError {
    #[error("unknown signal {0:?}: use a name such as TERM or RTMIN+3, or a number from 1 to 64")]
    UnknownSignal(String),
    #[error("container not running")]
    NotRunning,
    #[error("cannot send signal {signal} to process {pid}")]
    Send {
        signal: i32,
        pid: Pid,
        source: Errno,
    },
}

pub fn run(context: &Context, arguments: &Kill) -> Outcome {
    let signal = parse_signal(&arguments.signal)?;
    let container = context.root.load(&arguments.container_id)?;
    if arguments.all {
        // The anchor would pass the signal on to a process that gets it anyway.
        let anchor = MainProcess::of(&container).and_then(|main| main.anchor);
        let spared = anchor.filter(|_| signal != libc::SIGKILL);
        ContainerCgroup::of(&container)?.kill_all(signal, spared)?;
        return Ok(0);
    }
    send(&container, signal)?;
    // Under cgroup v1 a frozen process does not even die before it is thawed.
    if signal == libc::SIGKILL && container.status() == ContainerStatus::Paused {
        ContainerCgroup::of(&container)?.thaw()?;
    }
    Ok(0)
}

fn send(container: &Container, signal: i32) -> Result<(), KillError> {
    let main = MainProcess::of(container).ok_or(KillError::NotRunning)?;
    let pid = match container.status() {
        ContainerStatus::Created => main.seen(),
        _ => main.pid,
    };
    // What is frozen does not go away.
    if signal == libc::SIGKILL
        && container.status() != ContainerStatus::Paused
        && let Some(visitors) = main
            .anchor
            .and_then(|anchor| Visitors::of_ending(main.pid, anchor, &container.root))
    {
        visitors.send_away();
    }
    match sys::process::kill(pid, signal) {
        Ok(()) => Ok(()),
        Err(Errno::ESRCH) => Err(KillError::NotRunning),
        Err(source) => Err(KillError::Send {
            signal,
            pid,
            source,
        }),
    }
}

/// A number, or a name with or without `SIG`, real-time signals included.
fn parse_signal(text: &str) -> Result<i32, KillError> {
    let unknown = || KillError::UnknownSignal(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=libc::SIGRTMAX()).contains(&number) {
            Ok(number)
        } else {
            Err(unknown())
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) => digits.parse::<u8>().ok().map(i32::from),
        None => rest.is_empty().then_some(0),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').map(|offset| libc::SIGRTMIN() + offset)
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').map(|offset| libc::SIGRTMAX() - offset)
    } else {
        format!("SIG{name}")
            .parse::<nix::sys::signal::Signal>()
            .ok()
            .map(|signal| signal as i32)
    };
    number
        .filter(|number| (1..=libc::SIGRTMAX()).contains(number))
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let cases = [
            ("9", 9),
            ("TERM", 15),
            ("SIGTERM", 15),
            ("term", 15),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ];
        for (text, number) in cases {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "FOO", "RTMIN+99", "RTMINé", "SIG"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
