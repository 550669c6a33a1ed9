//! Threads of one program that wake each other.

use crate::bench::stage::{Stage, number};
use anyhow::Result;

pub fn futex(stage: &Stage) -> Result<Vec<f64>> {
    ping_pong(stage, "futex")
}

pub fn condition(stage: &Stage) -> Result<Vec<f64>> {
    ping_pong(stage, "condition")
}

fn ping_pong(stage: &Stage, way: &str) -> Result<Vec<f64>> {
    let said = stage
        .container()
        .program("bench_threads", [way, &stage.length_ms()])
        .output()?;
    Ok(vec![number(&said)?])
}
