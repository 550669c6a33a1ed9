//! Docker Engines: finding one that runs, and running one of our own without an init system.
//!
//! The suite's engine shares nothing with the machine's: its own data root, sockets, cgroup parent
//! and network namespace, hence its own bridge and packet filter. It is started with a parent-death
//! signal, so it ends even when xtask is killed, and what an earlier run has left is swept first.

use crate::fingerprint::Fingerprint;
use crate::shell;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pegasus_tests::harness::host;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// An engine that answers.
#[derive(Debug)]
pub struct Engine {
    pub socket: PathBuf,
    pub log: PathBuf,
    network: Network,
    keeper: Option<Keeper>,
}

/// The thread that started the engine. It lives as long as the engine: a parent-death signal is
/// sent when the *thread* ends.
#[derive(Debug)]
struct Keeper {
    pid: i32,
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Where an engine's files are.
#[derive(Debug, Clone)]
struct Plan {
    args: Vec<String>,
    socket: PathBuf,
    log: PathBuf,
    network: Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Host,
    Own,
}

impl Engine {
    /// The engine that already runs on this machine, if one does.
    pub fn running() -> Option<Self> {
        let answer = shell::attempt(
            "docker",
            ["info", "--format", "{{.ServerVersion}}"],
            Duration::from_secs(10),
        )
        .ok()?;
        (answer.status == 0 && !answer.text().is_empty()).then(|| Self {
            socket: DEFAULT_SOCKET.into(),
            log: PathBuf::new(),
            network: Network::Host,
            keeper: None,
        })
    }

    /// Starts an engine as the machine's init system would: default paths, the host's network.
    pub fn start_default(log: PathBuf) -> Result<Self> {
        let args = vec!["--log-level=warn".to_owned()];
        Self::start(Plan {
            args,
            socket: DEFAULT_SOCKET.into(),
            log,
            network: Network::Host,
        })
    }

    /// Starts an engine that keeps everything under `root`. `configure` is given its daemon.json
    /// before it starts.
    pub fn start_own(root: &Path, configure: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        ensure!(
            root.as_os_str().len() < 60,
            "{} is too long for the sockets below it",
            root.display()
        );
        sweep(root)?;
        let daemon_json = root.join("daemon.json");
        fs::write(&daemon_json, "{}\n")?;
        configure(&daemon_json)?;
        let (socket, pidfile) = (root.join("docker.sock"), root.join("docker.pid"));
        let args = vec![
            format!("--config-file={}", daemon_json.display()),
            format!("--data-root={}", data_root(root).display()),
            format!("--exec-root={}", root.join("exec").display()),
            format!("--pidfile={}", pidfile.display()),
            format!("--host=unix://{}", socket.display()),
            format!("--cgroup-parent=/{}", cgroup(root)),
            "--log-level=warn".to_owned(),
        ];
        Self::start(Plan {
            args,
            socket,
            log: root.join("dockerd.log"),
            network: Network::Own,
        })
    }

    fn start(plan: Plan) -> Result<Self> {
        let keeper = Keeper::start(&plan)?;
        let engine = Self {
            socket: plan.socket,
            log: plan.log,
            network: plan.network,
            keeper: Some(keeper),
        };
        engine.wait_until_ready()?;
        Ok(engine)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if self
                .docker(["version", "--format", "{{.Server.Version}}"])
                .is_ok()
            {
                return Ok(());
            }
            let has_ended = self
                .keeper
                .as_ref()
                .is_some_and(|keeper| keeper.thread.is_finished());
            if has_ended || Instant::now() >= deadline {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(15).collect();
                bail!(
                    "the engine did not start; the end of {}:\n{}",
                    self.log.display(),
                    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether this run started it.
    pub fn is_ours(&self) -> bool {
        self.keeper.is_some()
    }

    /// Pid of the engine that this run started.
    pub fn pid(&self) -> Result<i32> {
        self.keeper
            .as_ref()
            .map(|keeper| keeper.pid)
            .context("the engine is not ours")
    }

    /// The client, talking to this engine: to the default one as the user's own settings say.
    pub fn client(&self) -> Command {
        let mut command = Command::new("docker");
        if self.socket != Path::new(DEFAULT_SOCKET) {
            command
                .arg("--host")
                .arg(format!("unix://{}", self.socket.display()));
            command
                .env_remove("DOCKER_HOST")
                .env_remove("DOCKER_CONTEXT");
        }
        command
    }

    /// A client command that must succeed; its trimmed standard output.
    pub fn docker<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        Ok(shell::quiet_command(self.client().args(args))?
            .text()
            .to_owned())
    }

    /// Waits until the engine knows a runtime of this name.
    pub fn wait_for_runtime(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let known = self.docker(["info", "--format", "{{json .Runtimes}}"])?;
            let known: serde_json::Value = serde_json::from_str(&known)?;
            if known.get(name).is_some() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the engine does not know runtime {name} after its reload"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the engine if this run started it.
    pub fn stop(mut self) -> Result<()> {
        self.keeper.take().map_or(Ok(()), Keeper::stop)?;
        if self.network == Network::Own {
            let root = self.socket.parent().unwrap_or(Path::new("/"));
            remove_cgroups(root);
            unmount_below(root);
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take()
            && let Err(fault) = keeper.stop()
        {
            eprintln!("warning: {fault:#}");
        }
    }
}

impl Keeper {
    fn start(plan: &Plan) -> Result<Self> {
        let (started, pid) = channel();
        let (stop, stopped) = channel::<()>();
        let plan = plan.clone();
        let thread = thread::spawn(move || {
            let mut child = match spawn(&plan) {
                Ok(child) => child,
                Err(fault) => {
                    let _ = started.send(Err(fault));
                    return;
                }
            };
            let _ = started.send(Ok(child.id()));
            // A closed channel means stop as well.
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                match stopped.recv_timeout(Duration::from_millis(200)) {
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                    _ => return end(&mut child),
                }
            }
        });
        let pid = pid
            .recv()
            .map_err(|_| anyhow!("the engine's thread ended"))??;
        Ok(Self {
            pid: i32::try_from(pid)?,
            stop,
            thread,
        })
    }

    fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        self.thread
            .join()
            .map_err(|_| anyhow!("the engine's thread panicked"))?;
        ensure!(
            !host::is_alive(self.pid),
            "the engine (pid {}) could not be stopped",
            self.pid
        );
        Ok(())
    }
}

fn spawn(plan: &Plan) -> Result<Child> {
    if plan.network == Network::Own {
        unshare(CloneFlags::CLONE_NEWNET)?;
        shell::quiet("ip", ["link", "set", "lo", "up"])?;
    }
    let log =
        File::create(&plan.log).with_context(|| format!("cannot write {}", plan.log.display()))?;
    let dockerd = shell::find("dockerd").context("dockerd is not installed")?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "--"])
        .arg(dockerd)
        .args(&plan.args);
    command
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    Ok(command.spawn()?)
}

/// Asks politely, then kills.
fn end(child: &mut Child) {
    let Ok(pid) = i32::try_from(child.id()) else {
        return;
    };
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    let deadline = Instant::now() + STOP_LIMIT;
    while child.try_wait().is_ok_and(|status| status.is_none()) {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Tells engines with different roots apart in what all of a machine's engines share.
pub fn tag(root: &Path) -> String {
    Fingerprint::new()
        .add(root.as_os_str().as_encoded_bytes())
        .hex()[..8]
        .to_owned()
}

/// Cgroup below which the engine of `root` keeps its containers.
pub fn cgroup(root: &Path) -> String {
    format!("pegasus-xtask-{}", tag(root))
}

pub fn data_root(root: &Path) -> PathBuf {
    root.join("data")
}

/// Ends what an earlier run that was killed has left under `root`: processes started with one of
/// its paths on their command line, their children, and mounts.
fn sweep(root: &Path) -> Result<()> {
    let prefix = format!("{}/", root.display());
    let is_left = |line: &str| {
        line.contains(&prefix)
            && ["dockerd", "containerd"]
                .iter()
                .any(|name| line.contains(name))
    };
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + Duration::from_secs(10);
        for (pid, _) in host::processes()?
            .into_iter()
            .filter(|(_, line)| is_left(line))
        {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        while Instant::now() < deadline && host::processes()?.values().any(|line| is_left(line)) {
            thread::sleep(Duration::from_millis(100));
        }
    }
    kill_cgroup_members(root);
    unmount_below(root);
    Ok(())
}

/// Takes away mounts at and below `root`, the last one first.
fn unmount_below(root: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(4));
    for point in points.filter(|point| Path::new(point).starts_with(root)) {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Containers of a killed engine live on under their shims' cgroups.
fn kill_cgroup_members(root: &Path) {
    for path in host::cgroup_directories(&cgroup(root)) {
        let members = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Removes the cgroups that held the containers of the suite's engine; those in use stay.
fn remove_cgroups(root: &Path) {
    for path in host::cgroup_directories(&cgroup(root)).into_iter().rev() {
        let _ = fs::remove_dir(path);
    }
}
