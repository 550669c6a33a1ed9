//! Our own programs on plain TCP sockets.

use crate::bench::stage::{Stage, number};
use anyhow::Result;

const PORT: &str = "7000";

pub fn echo(stage: &Stage) -> Result<Vec<f64>> {
    pair(stage, "bench_echo")
}

/// In megabytes, which is a number to read.
pub fn stream(stage: &Stage) -> Result<Vec<f64>> {
    let bytes = pair(stage, "bench_stream")?;
    Ok(bytes.into_iter().map(|rate| rate / 1e6).collect())
}

pub fn connect(stage: &Stage) -> Result<Vec<f64>> {
    pair(stage, "bench_connect")
}

/// A server and a client of one program; the client prints the result.
fn pair(stage: &Stage, program: &str) -> Result<Vec<f64>> {
    let server = stage.start_program(program, &["server", PORT])?;
    let (address, length) = (stage.address(&server)?, stage.length_ms());
    let said = stage
        .client(&server)
        .program(program, ["client", &address, PORT, &length])
        .output()?;
    Ok(vec![number(&said)?])
}
