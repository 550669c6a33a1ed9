//! Redis with busy neighbours on the same machine, and in the same group if there is one.

use super::redis;
use crate::bench::stage::Stage;
use anyhow::Result;
use pegasus_tests::harness::container::Container;

const CONTAINERS: usize = 8;
const PORT: &str = "7000";
/// Round trips per second of each pair: the same work under every runtime.
const PAIR_RATE: &str = "5000";

/// Four pairs that exchange messages at a given rate, each pair in a network of its own.
pub fn p99_beside_network_load(stage: &Stage) -> Result<Vec<f64>> {
    let mut neighbours = Vec::new();
    for _ in 0..CONTAINERS / 2 {
        let server = stage
            .container()
            .program("bench_echo", ["server", PORT])
            .start()?;
        server.wait_for_log("listening")?;
        let client = stage
            .inside_network_of(&server)
            .program("bench_echo", ["paced", "127.0.0.1", PORT, PAIR_RATE])
            .start()?;
        neighbours.extend([server, client]);
    }
    p99(stage, &neighbours)
}

/// Eight that want all of every CPU.
pub fn p99_beside_computation(stage: &Stage) -> Result<Vec<f64>> {
    let neighbours = (0..CONTAINERS)
        .map(|_| stage.container().program("bench_busy", [""; 0]).start())
        .collect::<Result<Vec<_>>>()?;
    p99(stage, &neighbours)
}

/// The worse of SET's and GET's.
fn p99(stage: &Stage, neighbours: &[Container]) -> Result<Vec<f64>> {
    let server = redis::start(stage)?;
    let first = redis::run(stage, &server, redis::FIFTY, redis::FIFTY.first_count)?;
    let slowest = first.iter().map(|test| test.rate).fold(f64::MAX, f64::min);
    let count = slowest * stage.length.as_secs_f64();
    let results = redis::run(stage, &server, redis::FIFTY, count)?;
    for neighbour in neighbours {
        neighbour.pid()?; // it still runs
    }
    let worst = results.iter().map(|test| test.p99_ms).fold(0.0, f64::max);
    Ok(vec![worst])
}
