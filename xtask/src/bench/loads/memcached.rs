//! memcached and libmemcached's load generator, each as Debian has it.

use crate::bench::stage::Stage;
use anyhow::{Context as _, Result};

const PORT: u16 = 11211;

/// The generator's own mix: nine gets for each set, values of one KiB.
pub fn mixed(stage: &Stage) -> Result<Vec<f64>> {
    let server = stage
        .server()
        .command(["memcached", "-u", "root", "-m", "64"])
        .start()?;
    stage.wait_for_port(&server, PORT)?;
    let target = format!("{}:{PORT}", stage.address(&server)?);
    let length = format!("{}s", stage.length.as_secs().max(1));
    let options = ["-c", "50", "-T", "1", "-t", &length];
    let words = [&["memcaslap", "-s", target.as_str()], &options[..]].concat();
    let said = stage.client(&server).command(words).output()?;
    Ok(vec![rate(&said)?])
}

/// From its last line: `Run time: 1.0s Ops: 120005 TPS: 119991 Net_rate: 134.2M/s`.
fn rate(said: &str) -> Result<f64> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let pair = words.windows(2).find(|pair| pair[0] == "TPS:");
    let value = pair.with_context(|| format!("no rate in {said:?}"))?[1];
    Ok(value.parse()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_rate() {
        let said = "get_misses: 0\n\nRun time: 1.0s Ops: 120005 TPS: 119991 Net_rate: 134.2M/s\n";
        assert_eq!(super::rate(said).unwrap(), 119_991.0);
        assert!(super::rate("connection refused").is_err());
    }
}
