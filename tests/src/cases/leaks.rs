//! What is left on the machine after containers of every kind have come and gone: nothing.

use crate::harness::case::Case;
use crate::harness::context::Context;
use crate::harness::machine::Picture;
use anyhow::{Result, ensure};
use std::time::Duration;

/// Longer than an empty shared instance stays.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("leaks::nothing_is_left", nothing_left)
            .limit(180)
            .alone(),
    ]
}

fn nothing_left(context: &Context) -> Result<()> {
    let before = settled(context)?;
    for status in [0, 3] {
        context
            .container()
            .shell(&format!("exit {status}"))
            .run()?
            .expect(status)?;
    }
    context
        .container()
        .command(["no-such-program"])
        .run()?
        .expect(127)?;
    context
        .container()
        .program("faults", ["segv"])
        .run()?
        .expect(139)?;
    let container = context
        .container()
        .network("bridge")
        .options(["-p", "80", "--tmpfs", "/scratch"])
        .shell("sleep 300 & sleep 300")
        .start()?;
    for _ in 0..3 {
        container.exec(["sh", "-c", "echo $(echo x)"])?.expect(0)?;
    }
    container.docker(&["rm", "--force"])?;
    let killed = context.container().command(["sleep", "300"]).start()?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(killed.pid()?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    killed.wait()?;
    context.clean_up()?;
    context.eventually(SETTLE_LIMIT, || {
        let left = Picture::take(context.site())?.new_since(&before);
        ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        Ok(())
    })
}

/// A picture that no longer changes: what earlier cases used has gone.
fn settled(context: &Context) -> Result<Picture> {
    let mut last = Picture::take(context.site())?;
    context.eventually(SETTLE_LIMIT, || {
        std::thread::sleep(Duration::from_millis(700));
        let now = Picture::take(context.site())?;
        let is_still = now == last;
        last = now;
        ensure!(is_still, "the machine does not settle");
        Ok(())
    })?;
    Ok(last)
}
