//! `cargo xtask setup`: installs Debian packages that are missing, and nothing that is there.
//!
//! What is asked for is a program or a file, not a package: a machine that has its Docker Engine
//! from elsewhere keeps it.

use crate::progress::Step;
use crate::shell;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// How to tell that a need is met.
#[derive(Debug, Clone, Copy)]
enum Probe {
    Program(&'static str),
    File(&'static str),
}

/// Something the commands use, and the package that brings it.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    probe: Probe,
    package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Need {
    Need {
        probe: Probe::Program(name),
        package,
    }
}

const fn file(path: &'static str, package: &'static str) -> Need {
    Need {
        probe: Probe::File(path),
        package,
    }
}

/// For building the runtime and running it in an engine.
pub const DEMO: &[Need] = &[
    program("cc", "gcc"),
    file("/usr/include/stdio.h", "libc6-dev"),
    file("/usr/lib/x86_64-linux-gnu/libseccomp.a", "libseccomp-dev"),
    program("pkg-config", "pkg-config"),
    program("dockerd", "docker.io"),
    program("docker", "docker.io"),
    program("runc", "runc"),
    program("iptables", "iptables"),
    program("ip", "iproute2"),
    program("debootstrap", "debootstrap"),
    file(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
    program("unshare", "util-linux"),
    program("tar", "tar"),
];

/// Also for the test programs.
pub const EVERYTHING: &[Need] = &[
    DEMO[0],
    DEMO[1],
    DEMO[2],
    DEMO[3],
    DEMO[4],
    DEMO[5],
    DEMO[6],
    DEMO[7],
    DEMO[8],
    DEMO[9],
    DEMO[10],
    DEMO[11],
    DEMO[12],
    program("gcc", "gcc"),
    program("musl-gcc", "musl-tools"),
    program("go", "golang-go"),
];

/// A second runtime for the measurements to compare with, where Debian has it.
pub const GVISOR: &[Need] = &[program("runsc", "runsc")];

/// Installs what is missing of `needs`.
pub fn run(needs: &[Need]) -> Result<()> {
    let step = Step::begin("system packages");
    let mut missing: Vec<&str> = needs
        .iter()
        .filter(|need| !is_met(need))
        .map(|need| need.package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        step.done("nothing is missing");
        return Ok(());
    }
    ensure!(
        shell::find("apt-get").is_some(),
        "this machine has no apt-get; install by its own means what Debian calls {}",
        missing.join(", ")
    );
    step.note(&missing.join(" "));
    if !has_package_lists() {
        apt_get(&["update"])?;
    }
    if install(&missing).is_err() {
        // The lists may be older than what the mirror still has.
        apt_get(&["update"])?;
        install(&missing)?;
    }
    if let Some(need) = needs.iter().find(|need| !is_met(need)) {
        bail!(
            "{} was installed, but {:?} is still missing",
            need.package,
            need.probe
        );
    }
    step.done(&format!("installed {}", missing.join(" ")));
    Ok(())
}

fn is_met(need: &Need) -> bool {
    match need.probe {
        Probe::Program(name) => shell::find(name).is_some(),
        Probe::File(path) => Path::new(path).exists(),
    }
}

fn has_package_lists() -> bool {
    let Ok(entries) = fs::read_dir("/var/lib/apt/lists") else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn install(packages: &[&str]) -> Result<()> {
    let fixed = ["install", "--yes", "--no-install-recommends"];
    apt_get(
        &fixed
            .into_iter()
            .chain(packages.iter().copied())
            .collect::<Vec<_>>(),
    )
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args([
            "-qq",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .args(args);
    shell::quiet_command(&mut command).with_context(|| format!("apt-get {}", args.join(" ")))?;
    Ok(())
}
