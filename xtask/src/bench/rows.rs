//! The rows of the tables of what containers say to each other: what is measured, and what is wanted.
//!
//! A [`Job`] is one measurement; it gives one value for each of its rows. Its bounds are in the order
//! of [`super::mode::MODES`].

use super::loads::{http, memcached, neighbours, redis, sockets, threads};
use super::stage::Stage;
use anyhow::Result;

/// What is wanted of Pegasus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Its value over runc's is at least this
    AtLeast(f64),
    /// Its value over runc's is at most this
    AtMost(f64),
    /// Its own value is at least this, whatever runc's is
    OwnAtLeast(f64),
    /// Nothing: measured for the record
    Report,
    /// Not measured in this mode
    Skip,
}

use Bound::{AtLeast, AtMost, OwnAtLeast, Report, Skip};

/// A line of a table.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    pub bounds: [Bound; 3],
}

/// One measurement.
#[derive(Debug)]
pub struct Job {
    pub slug: &'static str,
    pub rows: &'static [Row],
    /// Whether gVisor does it, too. What takes thousands of connections or ten sandboxes it does not.
    pub has_gvisor: bool,
    /// Returns one value for each row.
    pub measure: fn(&Stage) -> Result<Vec<f64>>,
}

impl Job {
    /// Whether any row wants this mode.
    pub fn has_mode(&self, mode: super::mode::Mode) -> bool {
        self.rows.iter().any(|row| row.bounds[mode.index()] != Skip)
    }
}

const fn row(name: &'static str, unit: &'static str, bounds: [Bound; 3]) -> Row {
    Row { name, unit, bounds }
}

const fn job(
    slug: &'static str,
    rows: &'static [Row],
    measure: fn(&Stage) -> Result<Vec<f64>>,
) -> Job {
    Job {
        slug,
        rows,
        has_gvisor: true,
        measure,
    }
}

const SECONDLY: &str = "requests/s";
const ROUND_TRIPS: &str = "round trips/s";

pub const JOBS: &[Job] = &[
    job(
        "echo",
        &[row(
            "TCP echo of one byte, one connection",
            ROUND_TRIPS,
            [AtLeast(60.0), AtLeast(40.0), AtLeast(25.0)],
        )],
        sockets::echo,
    ),
    job(
        "stream",
        &[row(
            "TCP stream, 64 KiB at a time",
            "MB/s",
            [AtLeast(4.0), AtLeast(4.0), Report],
        )],
        sockets::stream,
    ),
    job(
        "connect",
        &[row(
            "TCP connect, one request, close",
            "connections/s",
            [AtLeast(5.0), Report, Report],
        )],
        sockets::connect,
    ),
    job(
        "futex",
        &[row(
            "futex ping-pong of two threads",
            ROUND_TRIPS,
            [AtLeast(60.0), Skip, AtLeast(20.0)],
        )],
        threads::futex,
    ),
    job(
        "condition",
        &[row(
            "condition variable ping-pong of two threads",
            ROUND_TRIPS,
            [AtLeast(60.0), Skip, AtLeast(20.0)],
        )],
        threads::condition,
    ),
    job(
        "redis-1",
        &[
            row(
                "redis SET, 1 client",
                SECONDLY,
                [AtLeast(25.0), AtLeast(25.0), AtLeast(10.0)],
            ),
            row(
                "redis GET, 1 client",
                SECONDLY,
                [AtLeast(25.0), AtLeast(25.0), AtLeast(10.0)],
            ),
        ],
        redis::one_client,
    ),
    job(
        "redis-50",
        &[
            row(
                "redis SET, 50 clients",
                SECONDLY,
                [AtLeast(15.0), AtLeast(15.0), AtLeast(6.0)],
            ),
            row(
                "redis GET, 50 clients",
                SECONDLY,
                [AtLeast(15.0), AtLeast(15.0), AtLeast(6.0)],
            ),
        ],
        redis::fifty_clients,
    ),
    job(
        "redis-pipeline",
        &[
            row(
                "redis SET, 50 clients, pipelines of 16",
                SECONDLY,
                [AtLeast(2.5), AtLeast(2.5), AtLeast(1.5)],
            ),
            row(
                "redis GET, 50 clients, pipelines of 16",
                SECONDLY,
                [AtLeast(2.5), AtLeast(2.5), AtLeast(1.5)],
            ),
        ],
        redis::pipelined,
    ),
    job(
        "memcached",
        &[row(
            "memcached, nine gets per set, 50 connections",
            SECONDLY,
            [AtLeast(8.0), AtLeast(8.0), Report],
        )],
        memcached::mixed,
    ),
    job(
        "chain",
        &[row(
            "HTTP: wrk, haproxy, nginx; 32 connections",
            SECONDLY,
            [AtLeast(4.0), Report, AtLeast(3.0)],
        )],
        http::chain,
    ),
    Job {
        slug: "idle-connections",
        rows: &[row(
            "redis, 50 clients: with 10 000 idle connections over without",
            "ratio",
            [OwnAtLeast(0.95), Skip, Skip],
        )],
        has_gvisor: false,
        measure: redis::among_idle_connections,
    },
    Job {
        slug: "p99-network",
        rows: &[row(
            "redis, 50 clients: p99 latency beside 8 containers that exchange 20 000 messages/s",
            "ms",
            [AtMost(0.5), Skip, Skip],
        )],
        has_gvisor: false,
        measure: neighbours::p99_beside_network_load,
    },
    Job {
        slug: "p99-compute",
        rows: &[row(
            "redis, 50 clients: p99 latency beside 8 containers that compute without end",
            "ms",
            [Report, Skip, Skip],
        )],
        has_gvisor: false,
        measure: neighbours::p99_beside_computation,
    },
];

#[cfg(test)]
mod tests {
    use super::super::mode::{MODES, Mode};
    use super::*;

    #[test]
    fn every_job_has_a_name_of_its_own_and_a_mode() {
        for (index, job) in JOBS.iter().enumerate() {
            assert!(JOBS[..index].iter().all(|other| other.slug != job.slug));
            assert!(MODES.iter().any(|mode| job.has_mode(*mode)), "{}", job.slug);
            assert!(!job.rows.is_empty());
        }
        let futex = JOBS.iter().find(|job| job.slug == "futex").unwrap();
        assert!(futex.has_mode(Mode::OneCpu) && !futex.has_mode(Mode::Bridge));
    }
}
