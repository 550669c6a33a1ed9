//! The command line: runc's, as containerd's shim drives it, and Pegasus' own commands.
//!
//! The arguments of the OCI commands are those of `liboci-cli`; what each command does is in the
//! module of its name.

mod checkpoint;
mod create;
mod delete;
mod doctor;
mod events;
mod exec;
mod features;
mod inspect;
mod install;
mod instance;
mod kill;
mod list;
mod metrics;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod ss;
mod start;
mod state;
mod table;
mod top;
mod trace;
mod uninstall;
mod update;

use crate::configuration::{Configuration, ConfigurationError};
use crate::container::create::Cgroups;
use crate::container::find::RootNamed;
use crate::container::root::Root;
use crate::error::chain;
use crate::logging::{Log, LogError};
use crate::placement::{IsolationChoice, Policy};
use crate::self_copy::{self, SelfCopyError};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.0.2");
const ROOT_DEFAULT: &str = "/run/pegasus/containers";

/// An OCI runtime that loads a container's programs next to a user-space kernel.
#[derive(Debug, Parser)]
#[command(name = "pegasus", version = VERSION)]
struct CommandLine {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

/// Options that precede the command.
#[derive(Debug, Args)]
struct GlobalOptions {
    /// Directory that holds the state of the containers
    #[arg(short, long)]
    root: Option<PathBuf>,
    /// File to append the log to (default: stderr)
    #[arg(short, long, overrides_with = "log")]
    log: Option<PathBuf>,
    /// Format of the log: text or json
    #[arg(long, default_value = "text")]
    log_format: String,
    /// Log what the container library does, too
    #[arg(long)]
    debug: bool,
    /// Manage cgroups through systemd
    #[arg(short, long)]
    systemd_cgroup: bool,
    /// Ignore errors of cgroup permissions (accepted for compatibility: true, false or auto)
    #[arg(long)]
    rootless: Option<String>,
    /// Fusion group of the containers: those of one group may share an address space
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    group: Option<String>,
    /// How containers of a group are kept apart
    #[arg(long, value_enum, default_value_t = IsolationChoice::Auto)]
    isolation: IsolationChoice,
    /// Configuration file (default: /etc/pegasus/config.toml, if it exists)
    #[arg(long)]
    config: Option<PathBuf>,
    /// Path of criu (accepted for compatibility)
    #[arg(long)]
    criu: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(liboci_cli::Create),
    Start(liboci_cli::Start),
    State(liboci_cli::State),
    Kill(kill::Kill),
    Delete(liboci_cli::Delete),
    Run(liboci_cli::Run),
    Exec(liboci_cli::Exec),
    List(liboci_cli::List),
    Ps(liboci_cli::Ps),
    Pause(liboci_cli::Pause),
    Resume(liboci_cli::Resume),
    Update(liboci_cli::Update),
    Events(liboci_cli::Events),
    Spec(liboci_cli::Spec),
    Features(liboci_cli::Features),
    Checkpoint(liboci_cli::Checkpoint),
    Restore(restore::Restore),
    Inspect(inspect::Inspect),
    Trace(trace::Trace),
    Ss(ss::Ss),
    Top(top::Top),
    Metrics(metrics::Metrics),
    Doctor(doctor::Doctor),
    Install(install::Install),
    Uninstall(uninstall::Uninstall),
    #[command(hide = true)]
    Instance(instance::Instance),
}

/// What every command is given.
#[derive(Debug)]
pub struct Context {
    pub root: Root,
    pub root_named: RootNamed,
    pub policy: Policy,
    pub cgroups: Cgroups,
    /// What `--config` says.
    pub configuration_file: Option<PathBuf>,
}

impl Context {
    /// Read by those that need it, lest a mistake in the file keep containers from being ended.
    fn configuration(&self) -> Result<Configuration, ConfigurationError> {
        Configuration::load(self.configuration_file.as_deref())
    }
}

/// The status a successful command exits with: that of the container's process, where it waited.
pub type Outcome = Result<u8, CommandError>;

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    #[error(transparent)]
    SelfCopy(#[from] SelfCopyError),
    #[error(transparent)]
    Root(#[from] crate::container::root::RootError),
    #[error(transparent)]
    Cgroup(#[from] crate::container::cgroup::CgroupError),
    #[error("pegasus create failed: {0}")]
    Create(#[from] crate::container::create::CreateError),
    #[error("exec failed: {0}")]
    Exec(#[from] exec::ExecCommandError),
    #[error(transparent)]
    Start(#[from] start::StartError),
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error(transparent)]
    Kill(#[from] kill::KillError),
    #[error(transparent)]
    Delete(#[from] delete::DeleteError),
    #[error(transparent)]
    Run(#[from] run::RunError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    Pause(#[from] pause::PauseError),
    #[error(transparent)]
    Ps(#[from] ps::PsError),
    #[error(transparent)]
    Update(#[from] update::UpdateError),
    #[error(transparent)]
    Events(#[from] events::EventsError),
    #[error(transparent)]
    Spec(#[from] spec::SpecError),
    #[error(transparent)]
    Inspect(#[from] inspect::InspectError),
    #[error(transparent)]
    Trace(#[from] trace::TraceError),
    #[error(transparent)]
    Ss(#[from] ss::SsError),
    #[error(transparent)]
    Top(#[from] top::TopError),
    #[error(transparent)]
    Metrics(#[from] metrics::MetricsError),
    #[error(transparent)]
    Install(#[from] install::InstallCommandError),
    #[error("the group's instance failed")]
    Instance(#[source] crate::instance::shared::SharedError),
    #[error(transparent)]
    Unsupported(#[from] checkpoint::Unsupported),
}

impl CommandError {
    /// runc's exit status for the same failure.
    fn exit_status(&self) -> u8 {
        match self {
            CommandError::Exec(_) => 255,
            _ => 1,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("cannot encode the answer as JSON")]
    Encode(#[from] serde_json::Error),
    #[error("cannot write the answer to standard output")]
    Write(#[from] std::io::Error),
}

/// Prints `text` and a newline; a reader that has gone away is an error, not a panic.
pub fn print_line(text: &str) -> Result<(), OutputError> {
    use std::io::Write;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}")?;
    Ok(output.flush()?)
}

/// Prints `value` as JSON, in one line or, for people, in several.
pub fn print_json(value: &impl serde::Serialize, layout: JsonLayout) -> Result<(), OutputError> {
    print_line(&match layout {
        JsonLayout::Compact => serde_json::to_string(value)?,
        JsonLayout::Indented => serde_json::to_string_pretty(value)?,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonLayout {
    Compact,
    Indented,
}

/// Parses the command line and does what it asks for.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return usage(&error),
    };
    if let Command::Instance(_) = line.command {
        instance::close_inherited();
    }
    let format = line.global.log_format.parse();
    let log = Log {
        file: line
            .global
            .log
            .clone()
            .filter(|path| !path.as_os_str().is_empty()),
        format: format.as_ref().copied().unwrap_or_default(),
        debug: line.global.debug,
    };
    let outcome = format
        .map_err(CommandError::Log)
        .and_then(|_| log.install().map_err(CommandError::Log))
        .and_then(|()| run(line));
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            log.fatal(&chain(&error));
            ExitCode::from(error.exit_status())
        }
    }
}

/// Help and version succeed; a wrong command line exits with 1, as runc does.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed standard output changes nothing here.
    let _ = error.print();
    ExitCode::from(u8::from(error.use_stderr()))
}

fn run(line: CommandLine) -> Outcome {
    if let Some(path) = &line.global.config {
        std::fs::File::open(path).map_err(|source| ConfigurationError::Read {
            path: path.clone(),
            source,
        })?;
    }
    if matches!(
        line.command,
        Command::Create(_) | Command::Run(_) | Command::Exec(_) | Command::Instance(_)
    ) {
        self_copy::ensure()?;
    }
    let context = Context {
        root_named: if line.global.root.is_some() {
            RootNamed::Yes
        } else {
            RootNamed::No
        },
        root: Root::new(line.global.root.unwrap_or_else(root_default)),
        policy: Policy {
            group: line.global.group,
            isolation: line.global.isolation,
        },
        cgroups: if line.global.systemd_cgroup {
            Cgroups::Systemd
        } else {
            Cgroups::FileSystem
        },
        configuration_file: line.global.config,
    };
    match &line.command {
        Command::Create(arguments) => create::run(&context, arguments),
        Command::Start(arguments) => start::run(&context, arguments),
        Command::State(arguments) => state::run(&context, arguments),
        Command::Kill(arguments) => kill::run(&context, arguments),
        Command::Delete(arguments) => delete::run(&context, arguments),
        Command::Run(arguments) => run::run(&context, arguments),
        Command::Exec(arguments) => exec::run(&context, arguments),
        Command::List(arguments) => list::run(&context, arguments),
        Command::Ps(arguments) => ps::run(&context, arguments),
        Command::Pause(arguments) => pause::run(&context, arguments),
        Command::Resume(arguments) => resume::run(&context, arguments),
        Command::Update(arguments) => update::run(&context, arguments),
        Command::Events(arguments) => events::run(&context, arguments),
        Command::Spec(arguments) => spec::run(arguments),
        Command::Features(_) => features::run(),
        Command::Checkpoint(_) => checkpoint::run(),
        Command::Restore(_) => restore::run(),
        Command::Inspect(arguments) => inspect::run(&context, arguments),
        Command::Trace(arguments) => trace::run(&context, arguments),
        Command::Ss(arguments) => ss::run(&context, arguments),
        Command::Top(arguments) => top::run(&context, arguments),
        Command::Metrics(arguments) => metrics::run(&context, arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Install(arguments) => install::run(arguments),
        Command::Uninstall(arguments) => uninstall::run(arguments),
        Command::Instance(arguments) => instance::run(arguments),
    }
}

/// `/run/pegasus/containers`, or its counterpart in the run-time directory of a user other than root.
fn root_default() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !nix::unistd::geteuid().is_root() => {
            PathBuf::from(directory).join("pegasus/containers")
        }
        _ => PathBuf::from(ROOT_DEFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_lines_of_containerds_shim_parse() {
        let lines = [
            "--root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /c id",
            "--root /r --log /l --log-format json --systemd-cgroup start id",
            "--root /r state id",
            "--root /r kill --all id 9",
            "--root /r kill id 15",
            "--root /r delete --force id",
            "--root /r exec --process /p --detach --pid-file /p id",
            "--root /r exec --console-socket /c --detach --process /p id",
            "--root /r ps --format json id",
            "--root /r events --stats id",
            "--root /r update --resources - id",
            "--root /r checkpoint --image-path /i --work-path /w id",
            "--root /r restore --image-path /i --detach --bundle /b id",
        ];
        assert_parses(&lines);
    }

    #[test]
    fn the_lines_of_operators_parse() {
        assert_parses(&[
            "--group a ss --group b --all --json",
            "ss -a -j id",
            "top --once --interval 0.5 one two",
            "top --batch --group g",
            "metrics --listen unix:/run/x",
        ]);
    }

    fn assert_parses(lines: &[&str]) {
        for line in lines {
            let words = std::iter::once("pegasus").chain(line.split(' '));
            CommandLine::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
