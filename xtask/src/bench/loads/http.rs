//! A chain of three: wrk asks haproxy, which asks nginx, over connections that stay open.

use crate::bench::stage::Stage;
use anyhow::{Context as _, Result};
use pegasus_tests::harness::container::{Container, Spec};
use std::fs;
use std::path::{Path, PathBuf};

const NGINX_PORT: u16 = 8080;
const PROXY_PORT: u16 = 8000;

/// One process with one event loop, which answers from memory.
fn nginx_conf() -> String {
    format!(
        "daemon off;\n\
         master_process off;\n\
         worker_processes 1;\n\
         error_log stderr error;\n\
         pid /tmp/nginx.pid;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off;\n\
           keepalive_requests 1000000000;\n\
           server {{\n\
             listen {NGINX_PORT};\n\
             location / {{ default_type text/plain; return 200 \"hello\\n\"; }}\n\
           }}\n\
         }}\n"
    )
}

fn haproxy_cfg(nginx: &str) -> String {
    format!(
        "global\n  nbthread 1\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         frontend front\n  bind *:{PROXY_PORT}\n  default_backend back\n\
         backend back\n  http-reuse always\n  server nginx {nginx}:{NGINX_PORT}\n"
    )
}

pub fn chain(stage: &Stage) -> Result<Vec<f64>> {
    let nginx = with_file(
        stage.server().command(["nginx", "-c", "/etc/bench.conf"]),
        &written(stage, &nginx_conf())?,
    )
    .start()?;
    stage.wait_for_port(&nginx, NGINX_PORT)?;
    let configuration = haproxy_cfg(&stage.address(&nginx)?);
    let proxy = with_file(
        stage
            .client(&nginx)
            .command(["haproxy", "-db", "-f", "/etc/bench.conf"]),
        &written(stage, &configuration)?,
    )
    .start()?;
    stage.wait_for_port(&proxy, PROXY_PORT)?;
    rate(&ask(stage, &nginx, &proxy)?)
}

/// wrk's report, once it is over.
fn ask(stage: &Stage, nginx: &Container, proxy: &Container) -> Result<String> {
    let url = format!("http://{}:{PROXY_PORT}/", stage.address(proxy)?);
    let length = format!("-d{}s", stage.length.as_secs().max(1));
    stage
        .client(nginx)
        .command(["wrk", "-t1", "-c32", &length, &url])
        .output()
}

fn written(stage: &Stage, text: &str) -> Result<PathBuf> {
    let path = stage.context.scratch()?.join("bench.conf");
    fs::write(&path, text)?;
    Ok(path)
}

fn with_file<'c, 'a>(spec: Spec<'c, 'a>, file: &Path) -> Spec<'c, 'a> {
    let volume = format!("--volume={}:/etc/bench.conf:ro", file.display());
    spec.options([volume])
}

/// `Requests/sec:  59471.54`, and no line about answers that were no answers.
fn rate(said: &str) -> Result<Vec<f64>> {
    let value = |key: &str| said.lines().find_map(|line| line.trim().strip_prefix(key));
    for fault in ["Non-2xx or 3xx responses:", "Socket errors:"] {
        anyhow::ensure!(value(fault).is_none(), "{said}");
    }
    let rate = value("Requests/sec:").with_context(|| format!("no rate in {said:?}"))?;
    Ok(vec![rate.trim().parse()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_rate_of_sound_answers_only() {
        let said = "  119001 requests in 2.00s, 14.64MB read\nRequests/sec:  59471.54\n";
        assert_eq!(rate(said).unwrap(), [59_471.54]);
        assert!(rate(&format!("  Non-2xx or 3xx responses: 5\n{said}")).is_err());
        assert!(rate("").is_err());
    }
}
