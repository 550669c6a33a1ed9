//! What a silent connection within a group costs: memory of the shared heap.

use super::report::Figure;
use anyhow::{Result, ensure};
use pegasus_tests::harness::container::Container;
use pegasus_tests::harness::context::Context;
use pegasus_tests::harness::inspect::Inspected;
use std::fs;

const CONNECTIONS: u64 = 5000;
const BYTES_MAX: f64 = 8192.0;
const PORT: &str = "7000";

/// Connections that were never used.
pub fn silent(context: &Context) -> Result<Figure> {
    growth(
        context,
        "last",
        "shared heap that an idle connection takes, both ends, nothing ever sent",
    )
}

/// Connections on which each side has said a line.
pub fn used_once(context: &Context) -> Result<Figure> {
    growth(
        context,
        "each",
        "shared heap that an idle connection takes, both ends, after one exchange",
    )
}

fn growth(context: &Context, which: &str, name: &'static str) -> Result<Figure> {
    let group = context.group()?;
    let options = ["--ulimit=nofile=16384:16384"];
    let server = context
        .on(group.runtime())
        .options(options)
        .program("bench_idle", ["server", PORT])
        .start()?;
    server.wait_for_log("listening")?;
    // The first holder takes what a second container and a first connection take by themselves.
    let hold = |count: &str| -> Result<()> {
        let holder = context
            .on(group.runtime())
            .options(options)
            .network(&format!("container:{}", server.name))
            .program("bench_idle", ["hold", "127.0.0.1", PORT, count, which])
            .start()?;
        holder.wait_for_log("holding").map(drop)
    };
    hold("1")?;
    let before = heap_bytes(context, &server)?;
    hold(&CONNECTIONS.to_string())?;
    let after = heap_bytes(context, &server)?;
    let each = after.saturating_sub(before) as f64 / CONNECTIONS as f64;
    Ok(Figure {
        name,
        wanted: "at most 8 KiB".to_owned(),
        found: format!("{each:.0} bytes, of {CONNECTIONS} connections"),
        is_met: each <= BYTES_MAX,
    })
}

/// Resident memory of the shared heap in the instance that `container` is in.
fn heap_bytes(context: &Context, container: &Container) -> Result<u64> {
    let pid = Inspected::of(context, container)?.main_pid()?;
    let kib = resident_kib(&fs::read_to_string(format!("/proc/{pid}/smaps"))?);
    ensure!(
        kib > 0,
        "no shared heap in the address space of {}",
        container.name
    );
    Ok(kib << 10)
}

/// Sum of `Rss` of the shared mappings of the vkernel's memory files.
fn resident_kib(smaps: &str) -> u64 {
    let mut is_heap = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if is_heap => {
                let kib = words.next().and_then(|word| word.parse::<u64>().ok());
                sum += kib.unwrap_or(0);
            }
            // A mapping's own line begins with its range; the fields below it with a name.
            Some(first) if !first.ends_with(':') => {
                let is_shared = words.next().is_some_and(|access| access.ends_with('s'));
                is_heap = is_shared && line.contains("/memfd:pegasus-");
            }
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_heap_counts() {
        let smaps = "1000-2000 r-xp 0 00:01 9 /memfd:pegasus (deleted)\nSize: 4 kB\nRss: 4 kB\n\
                     3000-9000 rw-s 0 00:01 9 /memfd:pegasus-heap (deleted)\nSize: 24 kB\nRss: 8 kB\nPss: 8 kB\n\
                     a000-b000 rw-s 0 00:01 9 /memfd:pegasus-heap (deleted)\nRss: 4 kB\n\
                     c000-d000 rw-p 0 00:00 0\nRss: 4 kB\n";
        assert_eq!(super::resident_kib(smaps), 12);
    }
}
