//! The main job: the plain image says hello.

use crate::harness::case::Case;
use crate::harness::context::Context;
use crate::harness::site::PLAIN_IMAGE;
use anyhow::{Result, ensure};

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("hello::echo_from_the_plain_image", echo),
        Case::each("hello::program_found_through_path", path),
    ]
}

fn echo(context: &Context) -> Result<()> {
    let done = context
        .container()
        .image(PLAIN_IMAGE)
        .command(["/bin/echo", "hello"])
        .run()?
        .expect(0)?;
    ensure!(
        done.stdout == "hello\n" && done.stderr.is_empty(),
        "{}",
        done.describe()
    );
    Ok(())
}

fn path(context: &Context) -> Result<()> {
    let done = context.compare(|spec| {
        spec.options(["-e", "PATH=/nowhere:/usr/bin"])
            .command(["echo", "found"])
    })?;
    ensure!(done.stdout == "found\n", "{}", done.describe());
    Ok(())
}
