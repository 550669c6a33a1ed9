//! Making the machine ready for the suite: own engine, runtime entries, images, programs.

use crate::engine::{self, Engine, data_root};
use crate::progress::Step;
use crate::state::{State, workspace};
use crate::{build, image, programs};
use anyhow::{Context as _, Result, bail};
use pegasus_docker::{InstallRequest, Isolation, install};
use pegasus_tests::Site;
use pegasus_tests::harness::site::{Group, REFERENCE, Runtimes};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const OWN: &str = "pegasus";
const SHARED: &str = "pegasus-shared";
const GROUPS: [&str; 3] = ["a", "b", "c"];

/// Which runtime is under test.
#[derive(Debug, Clone, clap::Args)]
pub struct Choice {
    /// The runtime under test: `pegasus` builds and installs it, `runc` checks the suite itself
    #[arg(long, default_value = OWN)]
    pub runtime: String,
    /// Test this program instead of building it
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
}

/// The prepared machine. Stops its engine when dropped.
#[derive(Debug)]
pub struct Prepared {
    pub site: Site,
    pub engine: Engine,
    state: State,
}

impl Prepared {
    /// Files that can be made again.
    pub fn cache(&self) -> Result<PathBuf> {
        self.state.cache()
    }
}

/// Starts the suite's engine and makes sure of its images.
pub fn prepare(arguments: &Choice) -> Result<Prepared> {
    let state = State::open()?;
    let (root, cache, scratch) = (state.engine()?, state.cache()?, state.scratch()?);
    let pegasus = match arguments.runtime.as_str() {
        OWN => {
            let program = arguments.binary.clone().map_or_else(build::pegasus, Ok)?;
            Some(keep_copy(&program, &root)?)
        }
        REFERENCE => None,
        other => bail!("--runtime is {OWN} or {REFERENCE}, not {other}"),
    };
    let tag = engine::tag(&root);
    let runtimes = pegasus
        .as_ref()
        .map_or_else(reference_runtimes, |_| pegasus_runtimes(&tag));

    let step = Step::begin("the suite's own engine");
    let engine = Engine::start_own(&root, |daemon_json| {
        pegasus.as_ref().map_or(Ok(()), |path| {
            install_runtimes(path, daemon_json, &runtimes)
        })
    })?;
    step.done(&format!("pid {}", engine.pid()?));
    image::ensure_plain(&engine, &cache)?;
    let programs = programs::ensure(&cache)?;
    image::ensure_test(&engine, &cache, &programs)?;
    let site = Site {
        socket: engine.socket.clone(),
        engine_pid: engine.pid()?,
        data_root: data_root(&root),
        scratch,
        cgroup: engine::cgroup(&root),
        tag,
        runtimes,
        pegasus,
        workspace: workspace().to_owned(),
    };
    Ok(Prepared {
        site,
        engine,
        state,
    })
}

/// The engine uses a copy, so that building in the meantime changes nothing under it.
fn keep_copy(program: &Path, root: &Path) -> Result<PathBuf> {
    let copy = root.join("pegasus");
    let fresh = root.join("pegasus.new");
    fs::copy(program, &fresh).with_context(|| format!("cannot copy {}", program.display()))?;
    fs::rename(&fresh, &copy)?;
    Ok(copy)
}

fn reference_runtimes() -> Runtimes {
    Runtimes {
        own: REFERENCE.to_owned(),
        shared: None,
        groups: Vec::new(),
    }
}

fn pegasus_runtimes(tag: &str) -> Runtimes {
    let group = |name: &str| Group {
        runtime: format!("pegasus-{name}"),
        name: format!("{tag}-{name}"),
    };
    Runtimes {
        own: OWN.to_owned(),
        shared: Some(Group {
            runtime: SHARED.to_owned(),
            name: format!("{tag}-shared"),
        }),
        groups: GROUPS.map(group).to_vec(),
    }
}

fn install_runtimes(pegasus: &Path, daemon_json: &Path, runtimes: &Runtimes) -> Result<()> {
    let fused = runtimes.shared.iter().chain(&runtimes.groups);
    let fused = fused.map(|group| (group.runtime.clone(), Some(group.name.clone())));
    for (name, group) in [(runtimes.own.clone(), None)].into_iter().chain(fused) {
        let mut request = InstallRequest::new(pegasus);
        request.name = name;
        request.isolation = group.as_ref().map(|_| Isolation::None);
        request.group = group;
        request.daemon_json = daemon_json.to_owned();
        request.pidfile = daemon_json.with_file_name("docker.pid");
        install(&request)?;
    }
    Ok(())
}

/// `cargo xtask engine`
pub fn run_in_foreground(arguments: &Choice) -> Result<()> {
    crate::setup::run(crate::setup::EVERYTHING)?;
    let prepared = prepare(arguments)?;
    println!(
        "\n  docker --host unix://{} run --rm --runtime {} debian:bookworm /bin/echo hello",
        prepared.site.socket.display(),
        prepared.site.runtimes.own
    );
    println!(
        "  published ports: nsenter --net --target {} …",
        prepared.site.engine_pid
    );
    println!("  it stops at end of input (Ctrl-D)");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    prepared.engine.stop()
}
