//! Redis and its own benchmark.

use crate::bench::stage::Stage;
use anyhow::{Context as _, Result, ensure};
use pegasus_tests::harness::container::Container;

const PORT: &str = "6379";
const IDLE_CONNECTIONS: &str = "10000";
/// Of requests in one run.
const COUNT_MAX: f64 = 2e7;

/// What redis-benchmark is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub clients: u32,
    pub pipeline: u32,
    /// Requests of each kind when no earlier rate is known.
    pub first_count: f64,
}

pub const FIFTY: Load = Load {
    clients: 50,
    pipeline: 1,
    first_count: 4000.0,
};

/// One line of its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub rate: f64,
    pub p99_ms: f64,
}

pub fn one_client(stage: &Stage) -> Result<Vec<f64>> {
    rates(
        stage,
        Load {
            clients: 1,
            pipeline: 1,
            first_count: 1000.0,
        },
    )
}

pub fn fifty_clients(stage: &Stage) -> Result<Vec<f64>> {
    rates(stage, FIFTY)
}

pub fn pipelined(stage: &Stage) -> Result<Vec<f64>> {
    rates(
        stage,
        Load {
            pipeline: 16,
            first_count: 40_000.0,
            ..FIFTY
        },
    )
}

/// SET's rate and GET's.
fn rates(stage: &Stage, load: Load) -> Result<Vec<f64>> {
    let server = start(stage)?;
    let results = run(stage, &server, load, count(stage, load))?;
    Ok(results.iter().map(|result| result.rate).collect())
}

/// With ten thousand connections that have said one thing and fallen silent, over without them. Both
/// are of one server's life, so that nothing else is different.
pub fn among_idle_connections(stage: &Stage) -> Result<Vec<f64>> {
    let server = start(stage)?;
    let rate = |count: f64| -> Result<f64> {
        let results = run(stage, &server, FIFTY, count)?;
        Ok(results.iter().map(|result| result.rate).sum())
    };
    // Its first requests find cold caches; and the rate says how many make a measurement.
    let count = rate(FIFTY.first_count)? / 2.0 * stage.length.as_secs_f64();
    let without = rate(count)?;
    let address = stage.address(&server)?;
    let holder = stage
        .client(&server)
        .program(
            "bench_idle",
            ["hold", &address, PORT, IDLE_CONNECTIONS, "each"],
        )
        .start()?;
    holder.wait_for_log("holding")?;
    Ok(vec![rate(count)? / without])
}

pub fn start<'c, 'a>(stage: &Stage<'c, 'a>) -> Result<Container<'c, 'a>> {
    let server = stage
        .server()
        .command([
            "redis-server",
            "--save",
            "",
            "--protected-mode",
            "no",
            "--maxclients",
            "12000",
        ])
        .start()?;
    server.wait_for_log("Ready to accept connections")?;
    Ok(server)
}

/// How many requests fill the time: redis-benchmark cannot be told how long. Each of its two tests
/// gets half of it.
fn count(stage: &Stage, load: Load) -> f64 {
    match &stage.last {
        Some(last) => {
            let slowest = last.iter().copied().fold(f64::INFINITY, f64::min);
            slowest * stage.length.as_secs_f64() / 2.0
        }
        None => load.first_count,
    }
}

/// SET and GET, `count` requests each.
pub fn run(stage: &Stage, server: &Container, load: Load, count: f64) -> Result<Vec<Measured>> {
    let address = stage.address(server)?;
    let (clients, pipeline) = (load.clients.to_string(), load.pipeline.to_string());
    // A run too short for its clock has an infinite rate.
    let count = count.clamp(f64::from(load.clients * load.pipeline), COUNT_MAX);
    let requests = format!("{count:.0}");
    let words = [
        "redis-benchmark",
        "-h",
        &address,
        "-t",
        "set,get",
        "-c",
        &clients,
        "-P",
        &pipeline,
        "-n",
        &requests,
        "--csv",
    ];
    let said = stage.client(server).command(words).output()?;
    let results = parse(&said)?;
    ensure!(results.len() == 2, "not two tests: {said}");
    Ok(results)
}

/// Its table: `"test","rps","avg_latency_ms",…,"p99_latency_ms","max_latency_ms"`.
fn parse(said: &str) -> Result<Vec<Measured>> {
    let fields = |line: &str| -> Vec<String> {
        let words = line.split(',').map(|field| field.trim_matches('"'));
        words.map(str::to_owned).collect()
    };
    // A warning about what it cannot ask the server may come before.
    let mut lines = said
        .lines()
        .skip_while(|line| !line.starts_with("\"test\""));
    let header = fields(
        lines
            .next()
            .with_context(|| format!("no table: {said:?}"))?,
    );
    let column = |name: &str| -> Result<usize> {
        let position = header.iter().position(|title| title == name);
        position.with_context(|| format!("no {name} in {said:?}"))
    };
    let (rate, p99) = (column("rps")?, column("p99_latency_ms")?);
    lines
        .map(fields)
        .filter(|words| words.len() == header.len())
        .map(|words| {
            Ok(Measured {
                rate: words[rate].parse()?,
                p99_ms: words[p99].parse()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_table() {
        let said = "WARNING: Could not fetch server CONFIG\n\
            \"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
            \"SET\",\"1000.50\",\"0.1\",\"0.1\",\"0.1\",\"0.2\",\"0.351\",\"0.9\"\n\
            \"GET\",\"2000.00\",\"0.1\",\"0.1\",\"0.1\",\"0.2\",\"0.250\",\"0.9\"\n";
        let results = parse(said).unwrap();
        assert_eq!((results[0].rate, results[1].p99_ms), (1000.5, 0.25));
        assert!(parse("Could not connect").is_err());
    }
}
