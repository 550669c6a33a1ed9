//! The folders of `examples/`: their scripts do what their README says.

use crate::harness::case::Case;
use crate::harness::context::Context;
use anyhow::{Result, ensure};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        Case::own("examples::hello", hello),
        Case::group("examples::redis_pair", redis_pair).limit(120),
    ]
}

fn run(context: &Context, name: &str, runtime: &str) -> Result<String> {
    let mut command = Command::new("sh");
    command.arg(
        context
            .site()
            .workspace
            .join("examples")
            .join(name)
            .join("run.sh"),
    );
    command.env(
        "DOCKER_HOST",
        format!("unix://{}", context.site().socket.display()),
    );
    command.env("RUNTIME", runtime).env("PREFIX", &context.slug);
    command.env("IMAGE", crate::harness::site::TEST_IMAGE);
    if let Some(pegasus) = &context.site().pegasus {
        command.env("PEGASUS", pegasus);
        command.env("PEGASUS_ROOT", context.site().runtime_root());
    }
    Ok(
        crate::harness::command::finish(&mut command, b"", context.remaining())?
            .expect(0)?
            .stdout,
    )
}

fn hello(context: &Context) -> Result<()> {
    let said = run(context, "hello", context.runtime())?;
    ensure!(said.contains("hello\n"), "{said}");
    Ok(())
}

fn redis_pair(context: &Context) -> Result<()> {
    let group = context.group()?;
    let said = run(context, "redis-pair", group.runtime())?;
    ensure!(said.contains("requests per second"), "{said}");
    Ok(())
}
