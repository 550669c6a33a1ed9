//! `cargo xtask demo`: from a fresh machine to two containers in one address space.
//!
//! Uses the machine's own engine, as a user would: one that runs is told to reload and otherwise
//! left as it is; where none runs, one is started with its default paths and stopped at the end.

use crate::engine::Engine;
use crate::progress::Step;
use crate::state::{State, workspace};
use crate::{build, image, setup, shell};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

const INSTALLED: &str = "/usr/local/bin/pegasus";
const RUNTIME: &str = "pegasus";
const GROUP_RUNTIME: &str = "pegasus-demo";
const GROUP: &str = "demo";

pub fn run() -> Result<()> {
    println!("Pegasus: from nothing to two containers in one address space\n");
    setup::run(setup::DEMO)?;
    install(&build::pegasus()?)?;
    let state = State::open()?;
    let engine = engine(&state)?;
    register(&engine, RUNTIME, &[])?;
    register(
        &engine,
        GROUP_RUNTIME,
        &["--group", GROUP, "--isolation", "none"],
    )?;
    let cache = state.cache()?;
    image::ensure_plain(&engine, &cache)?;
    image::ensure_demo(&engine, &cache)?;
    say_hello(&engine)?;
    show_pair(&engine)?;
    finish(engine)
}

/// Replaces the installed program at once, so that a container that starts meanwhile sees the old
/// one or the new one.
fn install(program: &Path) -> Result<()> {
    let step = Step::begin(format!("installing {INSTALLED}"));
    if fs::read(program)? == fs::read(INSTALLED).unwrap_or_default() {
        step.done("it is there");
        return Ok(());
    }
    let fresh = format!("{INSTALLED}.new");
    fs::copy(program, &fresh).with_context(|| format!("cannot write {fresh}"))?;
    fs::rename(&fresh, INSTALLED)?;
    step.done("");
    Ok(())
}

fn engine(state: &State) -> Result<Engine> {
    let step = Step::begin("Docker Engine");
    if let Some(engine) = Engine::running() {
        step.done("one is running");
        return Ok(engine);
    }
    let engine = Engine::start_default(state.cache()?.join("demo-dockerd.log"))?;
    step.done("started dockerd, for none was running");
    Ok(engine)
}

/// `pegasus install docker`, as a user would type it.
fn register(engine: &Engine, name: &str, options: &[&str]) -> Result<()> {
    let step = Step::begin(format!("runtime {name}"));
    let fixed = ["install", "docker", "--name", name];
    let done = shell::quiet(INSTALLED, fixed.iter().chain(options))?;
    engine.wait_for_runtime(name)?;
    step.done(done.text());
    Ok(())
}

fn example(engine: &Engine, name: &str, settings: &[(&str, &str)]) -> Result<()> {
    let script = workspace().join("examples").join(name).join("run.sh");
    let mut command = Command::new("sh");
    command
        .arg(script)
        .envs(settings.iter().copied())
        .env("PEGASUS", INSTALLED);
    if engine.is_ours() {
        command.env("DOCKER_HOST", format!("unix://{}", engine.socket.display()));
    }
    shell::shown(&mut command)
}

fn say_hello(engine: &Engine) -> Result<()> {
    println!("\n$ docker run --rm --runtime {RUNTIME} debian:bookworm /bin/echo hello");
    example(engine, "hello", &[("RUNTIME", RUNTIME)])
}

fn show_pair(engine: &Engine) -> Result<()> {
    println!("\nredis-server and its client, in two containers of one fusion group:");
    let settings = [
        ("RUNTIME", GROUP_RUNTIME),
        ("IMAGE", image::DEMO_IMAGE),
        ("PREFIX", "pegasus-demo"),
    ];
    example(engine, "redis-pair", &settings)?;
    println!(
        "\n`--isolation none` means that whoever controls one container of a group controls the others \
         and, through the instance, the host: so it is only done when asked for."
    );
    Ok(())
}

fn finish(engine: Engine) -> Result<()> {
    let runtimes = format!("{RUNTIME} and {GROUP_RUNTIME}");
    if !engine.is_ours() {
        println!(
            "\nThe engine keeps the runtimes {runtimes}; `pegasus uninstall docker --name NAME` takes them out."
        );
        return Ok(());
    }
    let step = Step::begin("stopping the engine that the demo started");
    engine.stop()?;
    step.done("");
    println!(
        "\nTo go on by hand: start `dockerd`, which knows the runtimes {runtimes} and has the images."
    );
    Ok(())
}
