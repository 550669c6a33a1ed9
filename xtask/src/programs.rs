//! Compiling the programs of `tests/programs`.
//!
//! The first line of a C or assembly source says how it is linked: `// build: dynamic musl`. The
//! first way gives a program of the source's name, each further one `name.way`. A Go source needs
//! no such line. The result is cached under a fingerprint of all sources.

use crate::fingerprint::Fingerprint;
use crate::progress::Step;
use crate::shell;
use crate::state::workspace;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Changes when the commands below do.
const RECIPE: &str = "1";

/// Compiles all programs; returns the directory that holds nothing else.
pub fn ensure(cache: &Path) -> Result<PathBuf> {
    let step = Step::begin("test programs");
    let sources = workspace().join("tests/programs");
    let key = Fingerprint::new()
        .add(RECIPE)
        .add_directory(&sources)?
        .hex();
    let directory = cache.join(format!("programs-{key}"));
    if directory.exists() {
        step.done("compiled before");
        return Ok(directory);
    }
    remove_older(cache)?;
    let partial = cache.join("programs.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    let mut entries = fs::read_dir(&sources)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    entries.sort();
    let mut count = 0;
    for source in entries {
        step.note(&source.file_name().unwrap_or_default().to_string_lossy());
        count += compile(&source, &partial, cache)?;
    }
    fs::rename(&partial, &directory)?;
    step.done(&format!("compiled {count}"));
    Ok(directory)
}

fn remove_older(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("programs-"))
        {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// Returns how many programs the source gave.
fn compile(source: &Path, directory: &Path, cache: &Path) -> Result<usize> {
    let name = source
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    match source.extension().and_then(|extension| extension.to_str()) {
        Some("go") => compile_go(source, &directory.join(name), cache).map(|()| 1),
        Some("c" | "S") => {
            let text = fs::read_to_string(source)?;
            let first = text.lines().next().unwrap_or_default();
            let ways = first
                .strip_prefix("// build:")
                .with_context(|| format!("{} has no `// build:` line", source.display()))?;
            let ways: Vec<&str> = ways.split_whitespace().collect();
            for (index, way) in ways.iter().enumerate() {
                let output = if index == 0 {
                    name.clone()
                } else {
                    format!("{name}.{way}")
                };
                compile_c(source, way, &directory.join(output))?;
            }
            Ok(ways.len())
        }
        _ => Ok(0),
    }
}

fn compile_c(source: &Path, way: &str, output: &Path) -> Result<()> {
    let (compiler, flags): (&str, &[&str]) = match way {
        "dynamic" => ("gcc", &["-pie", "-fPIE", "-pthread"]),
        "dynamic-nopie" => ("gcc", &["-no-pie", "-fno-PIE", "-pthread"]),
        "static-pie" => ("gcc", &["-static-pie", "-fPIE", "-pthread"]),
        "static" => ("gcc", &["-static", "-no-pie", "-fno-PIE", "-pthread"]),
        "musl" => ("musl-gcc", &["-pie", "-fPIE", "-pthread"]),
        "musl-static" => ("musl-gcc", &["-static", "-no-pie", "-fno-PIE", "-pthread"]),
        "freestanding" => (
            "gcc",
            &["-static-pie", "-fPIE", "-nostdlib", "-ffreestanding"],
        ),
        other => bail!("{}: no way of building is called {other}", source.display()),
    };
    let mut command = Command::new(compiler);
    command
        .args([
            "-std=gnu11",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-D_GNU_SOURCE",
        ])
        .args(flags)
        .arg("-o")
        .arg(output)
        .arg(source);
    if way != "freestanding" {
        command.args(["-lm"]);
    }
    shell::quiet_command(&mut command)?;
    Ok(())
}

fn compile_go(source: &Path, output: &Path, cache: &Path) -> Result<()> {
    let mut command = Command::new("go");
    command
        .env("CGO_ENABLED", "0")
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("GOTOOLCHAIN", "local");
    command
        .env("GOCACHE", cache.join("go-build"))
        .env("GOPATH", cache.join("go"));
    command
        .args(["build", "-ldflags=-s -w", "-o"])
        .arg(output)
        .arg(source);
    shell::quiet_command(&mut command)?;
    Ok(())
}
