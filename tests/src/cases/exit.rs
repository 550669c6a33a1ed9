//! Exit statuses: of programs that return, die of a signal, or could not be started.

use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Result, ensure};

/// How `faults` can be told to die, see its source.
const DEATHS: [&str; 9] = [
    "segv", "fpe", "ill", "abort", "overflow", "trap", "jump", "blocked", "ignored",
];

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::each("exit::status_0", |context| status(context, 0)),
        Case::each("exit::status_1", |context| status(context, 1)),
        Case::each("exit::status_42", |context| status(context, 42)),
        Case::each("exit::status_255", |context| status(context, 255)),
        Case::each("exit::killed_is_137", |context| {
            signalled(context, "KILL", 137)
        }),
        Case::each("exit::terminated_is_143", |context| {
            signalled(context, "TERM", 143)
        }),
        Case::each("exit::quit_is_131", |context| {
            signalled(context, "QUIT", 131)
        }),
        Case::each("exit::not_found_is_127", |context| {
            not_started(context, &["no-such-program"], 127)
        }),
        Case::each("exit::missing_path_is_127", |context| {
            not_started(context, &["/no/such/program"], 127)
        }),
        Case::each("exit::not_executable_is_126", |context| {
            not_started(context, &["/etc/passwd"], 126)
        }),
        Case::each("exit::directory_is_126", |context| {
            not_started(context, &["/etc"], 126)
        }),
        Case::each("exit::all_threads_end_with_the_process", exit_group),
    ];
    cases.extend(DEATHS.map(|how| {
        Case::each(format!("exit::death_by_{how}"), move |context| {
            death(context, how)
        })
    }));
    cases
}

fn status(context: &Context, status: i32) -> Result<()> {
    let script = format!("echo out; echo err >&2; exit {status}");
    let done = context.container().shell(&script).run()?.expect(status)?;
    ensure!(
        (done.stdout.as_str(), done.stderr.as_str()) == ("out\n", "err\n"),
        "{}",
        done.describe()
    );
    Ok(())
}

/// A child of pid 1 dies; the shell reports 128 + signal and ends with it.
fn signalled(context: &Context, signal: &str, status: i32) -> Result<()> {
    let script = format!("sh -c 'kill -{signal} $$'; exit $?");
    context.container().shell(&script).run()?.expect(status)?;
    // Pid 1 itself, killed from outside its namespace.
    let container = context.container().command(["sleep", "60"]).start()?;
    let kill = container.docker(&["kill", "--signal", "KILL"])?;
    ensure!(kill.status == 0, "{}", kill.describe());
    let found = container.wait()?;
    ensure!(found == 137, "exit status {found} after docker kill");
    Ok(())
}

fn not_started(context: &Context, command: &[&str], status: i32) -> Result<()> {
    let done = context.container().command(command).run()?.expect(status)?;
    ensure!(
        done.stderr.contains(command[0]),
        "the message does not name the program: {}",
        done.describe()
    );
    let reference = context.reference().command(command).run()?;
    ensure!(
        reference.status == status,
        "runc differs: {}",
        reference.describe()
    );
    Ok(())
}

fn death(context: &Context, how: &str) -> Result<()> {
    let done = context.compare(|spec| spec.program("faults", [how]))?;
    ensure!(done.status > 128, "{}", done.describe());
    Ok(())
}

fn exit_group(context: &Context) -> Result<()> {
    let script = "import threading, time, os\n\
                  for _ in range(5): threading.Thread(target=time.sleep, args=(60,)).start()\n\
                  print('leaving', flush=True); os._exit(7)";
    context
        .container()
        .command(["python3", "-c", script])
        .run()?
        .expect(7)?;
    Ok(())
}
