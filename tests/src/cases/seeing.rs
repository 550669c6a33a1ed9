//! What an operator sees from outside: `ss`, `top`, `metrics`, and the vkernel's part of `events`.

use crate::harness::case::Case;
use crate::harness::command::Finished;
use crate::harness::container::Container;
use crate::harness::context::Context;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Calls all the time.
const BUSY: &str = "import os, time\nwhile True:\n  os.getppid(); time.sleep(0.001)";

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("seeing::metrics", metrics),
        Case::own("seeing::metrics_over_http", over_http),
        Case::each("seeing::events_tell_the_vkernels_part", events),
        Case::group("seeing::events_split_an_instance", split),
        Case::each("seeing::top_once", top),
        Case::each("seeing::ss_runs", ss),
        Case::group("seeing::ss_shows_a_connection", connection).limit(120),
        Case::group("seeing::bytes_of_closed_connections", closed).limit(120),
        Case::own("seeing::who_does_not_run_is_named", absent),
    ]
}

/// `pegasus` with `args`, about the engine's containers.
pub fn pegasus(context: &Context, args: &[&str]) -> Result<Finished> {
    let root = context.site().runtime_root().display().to_string();
    let args = [&["--root", &root], args].concat();
    context.host(context.pegasus()?, &args)
}

fn busy<'c, 'a>(context: &'c Context<'a>, runtime: &str) -> Result<Container<'c, 'a>> {
    context.on(runtime).command(["python3", "-c", BUSY]).start()
}

/// The value of the series with this name and these labels, after checking every line.
pub fn series(text: &str, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
    let mut found = None;
    let mut typed = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("TYPE without a type")?;
            ensure!(matches!(kind, "counter" | "gauge"), "{line}");
            ensure!(typed.insert(name), "described twice: {name}");
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let value: f64 = value.parse().with_context(|| line.to_owned())?;
        let metric = series.split('{').next().unwrap_or_default();
        ensure!(typed.contains(metric), "not described: {line}");
        let has = |(label, value): &(&str, &str)| series.contains(&format!("{label}=\"{value}\""));
        if metric == name && labels.iter().all(has) {
            found = Some(value);
        }
    }
    Ok(found)
}

fn metrics(context: &Context) -> Result<()> {
    let container = busy(context, context.runtime())?;
    let id = container.id()?;
    context.eventually(Duration::from_secs(20), || {
        let text = pegasus(context, &["metrics"])?.expect(0)?.stdout;
        let value = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
            let labels = [&[("container", id.as_str())], labels].concat();
            series(&text, name, &labels)?.with_context(|| format!("no {name} of {id}:\n{text}"))
        };
        ensure!(value("pegasus_container_info", &[])? == 1.0);
        let resident = [("state", "resident")];
        ensure!(
            value("pegasus_container_processes", &resident)? == 1.0,
            "{text}"
        );
        let rewritten = [("path", "rewritten")];
        ensure!(value("pegasus_container_calls_total", &rewritten)? > 100.0);
        ensure!(value("pegasus_container_cpu_seconds_total", &[])? > 0.0);
        ensure!(value("pegasus_container_ring_sent_bytes_total", &[])? >= 0.0);
        ensure!(
            series(
                &text,
                "pegasus_pool_records_limit",
                &[("pool", "connections")]
            )?
            .is_some()
        );
        Ok(())
    })
}

/// A `pegasus metrics --listen` that ends with the case.
struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn over_http(context: &Context) -> Result<()> {
    let container = busy(context, context.runtime())?;
    let mut exporter = Exporter(
        Command::new(context.pegasus()?)
            .arg("--root")
            .arg(context.site().runtime_root())
            .args(["metrics", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut said = String::new();
    BufReader::new(exporter.0.stdout.take().context("no output")?).read_line(&mut said)?;
    let address = said
        .trim()
        .strip_prefix("listening on http://")
        .and_then(|rest| rest.strip_suffix("/metrics"))
        .with_context(|| format!("it said {said:?}"))?;
    let ask = |path: &str| -> Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let id = container.id()?;
    let calls = || -> Result<f64> {
        let answer = ask("/metrics")?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (_, text) = answer.split_once("\r\n\r\n").context("no body")?;
        let labels = [("container", id.as_str()), ("path", "rewritten")];
        series(text, "pegasus_container_calls_total", &labels)?.context("not there")
    };
    let first = context.eventually(Duration::from_secs(20), calls)?;
    std::thread::sleep(Duration::from_millis(300));
    let second = calls()?;
    ensure!(second > first, "{first}, then {second}");
    ensure!(ask("/")?.starts_with("HTTP/1.1 404 "));
    Ok(())
}

fn stats(context: &Context, container: &Container) -> Result<Value> {
    let id = container.id()?;
    let done = pegasus(context, &["events", "--stats", &id])?.expect(0)?;
    let event: Value =
        serde_json::from_str(&done.stdout).with_context(|| format!("not JSON: {}", done.stdout))?;
    // runc's part.
    ensure!(
        event["type"] == "stats" && event["id"] == id.as_str(),
        "{event}"
    );
    ensure!(
        event["data"]["cpu"]["usage"]["total"].as_u64() > Some(0),
        "{event}"
    );
    Ok(event)
}

fn events(context: &Context) -> Result<()> {
    let container = busy(context, context.runtime())?;
    context.eventually(Duration::from_secs(20), || {
        let event = stats(context, &container)?;
        let part = &event["pegasus"];
        ensure!(part["calls"]["rewritten"].as_u64() > Some(100), "{event}");
        ensure!(part["processes"]["resident"] == 1, "{event}");
        ensure!(part["rings"]["bytesSent"].is_u64(), "{event}");
        let expected = if context.is_shared() { "shared" } else { "own" };
        ensure!(part["instance"] == expected, "{event}");
        Ok(())
    })
}

fn split(context: &Context) -> Result<()> {
    let group = context.group()?;
    let (one, other) = (
        busy(context, group.runtime())?,
        context
            .on(group.runtime())
            .command(["sleep", "300"])
            .start()?,
    );
    let neighbour = other.id()?;
    context.eventually(Duration::from_secs(20), || {
        let event = stats(context, &one)?;
        let part = &event["pegasus"];
        ensure!(part["group"] == group.name(), "{event}");
        let own = part["calls"]["rewritten"].as_u64();
        let others = part["neighbours"][&neighbour]["calls"]["rewritten"].as_u64();
        ensure!(
            others.is_some() && own > others.map(|calls| calls + 100),
            "{event}"
        );
        Ok(())
    })
}

fn top(context: &Context) -> Result<()> {
    let container = busy(context, context.runtime())?;
    let id = container.id()?;
    context.eventually(Duration::from_secs(20), || {
        let shown = pegasus(context, &["top", "--once", "--interval", "0.5", &id])?.expect(0)?;
        let mut lines = shown.stdout.lines().skip(1);
        let headings: Vec<_> = lines
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let cells: Vec<_> = lines
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        ensure!(
            headings.len() == cells.len() && lines.next().is_none(),
            "{}",
            shown.describe()
        );
        let cell = |heading: &str| {
            let column = headings.iter().position(|found| *found == heading)?;
            cells.get(column).copied()
        };
        ensure!(cell("CONTAINER") == Some(&id[..12]), "{}", shown.describe());
        ensure!(cell("PLACED") == Some("resident"), "{}", shown.describe());
        ensure!(cell("REWRITTEN/S") != Some("0"), "{}", shown.describe());
        Ok(())
    })?;
    let refused = pegasus(context, &["top", &id])?;
    ensure!(
        refused.status == 1 && refused.stderr.contains("--once"),
        "{}",
        refused.describe()
    );
    Ok(())
}

fn ss(context: &Context) -> Result<()> {
    let container = busy(context, context.runtime())?;
    for args in [&["ss"][..], &["ss", "--all"], &["ss", &container.id()?]] {
        let shown = pegasus(context, args)?.expect(0)?;
        let header = shown.stdout.lines().next().unwrap_or_default();
        for heading in ["STATE", "RECV-Q", "SEND-Q", "LOCAL", "PEER"] {
            ensure!(header.contains(heading), "{}", shown.describe());
        }
    }
    let shown = pegasus(context, &["ss", "--json", "--all"])?.expect(0)?;
    let entries: Vec<Value> = serde_json::from_str(&shown.stdout)?;
    ensure!(
        entries.iter().all(|entry| entry["state"].is_string()),
        "{}",
        shown.describe()
    );
    Ok(())
}

/// A client in one container asks a server in another one again and again.
fn connection(context: &Context) -> Result<()> {
    let group = context.group()?;
    let server = context
        .on(group.runtime())
        .command(["redis-server", "--save", "", "--protected-mode", "no"])
        .start()?;
    server.wait_for_log("Ready to accept connections")?;
    let client = context
        .on(group.runtime())
        .network(&format!("container:{}", server.name))
        .command(["redis-cli", "-r", "-1", "-i", "0.05", "ping"])
        .start()?;
    let ids = [client.id()?, server.id()?];
    let find = || -> Result<Value> {
        let shown = pegasus(context, &["ss", "--json", "--group", group.name()])?.expect(0)?;
        let entries: Vec<Value> = serde_json::from_str(&shown.stdout)?;
        let is_wanted = |entry: &&Value| {
            entry["local"]["container"] == ids[0].as_str()
                && entry["peer"]["container"] == ids[1].as_str()
                && entry["bytesSent"].as_u64() > Some(0)
        };
        let found = entries.iter().find(is_wanted).cloned();
        found.with_context(|| format!("no connection between them\n{}", shown.describe()))
    };
    let found = context.eventually(Duration::from_secs(20), find)?;
    ensure!(
        found["state"] == "ESTAB" && found["carrier"] == "ring",
        "{found:#}"
    );
    let peer = found["peer"]["address"].as_str().unwrap_or_default();
    ensure!(peer.ends_with(":6379"), "{found:#}");
    let text = pegasus(context, &["metrics"])?.expect(0)?.stdout;
    let client_label = [("container", ids[0].as_str())];
    let sent = series(
        &text,
        "pegasus_container_ring_sent_bytes_total",
        &client_label,
    )?;
    let connections = series(&text, "pegasus_connections", &[("group", group.name())])?;
    ensure!(sent > Some(0.0) && connections > Some(0.0), "{text}");
    // Seen from the server, it is the other way round.
    let shown = pegasus(context, &["ss", &ids[1]])?.expect(0)?;
    let row = shown.stdout.lines().find(|line| line.contains(":6379"));
    let row: Vec<_> = row.unwrap_or_default().split_whitespace().collect();
    ensure!(
        row.get(3).is_some_and(|local| local.ends_with(":6379"))
            && row.last() == Some(&&ids[0][..12]),
        "{}",
        shown.describe()
    );
    Ok(())
}

/// What has been sent stays counted when its connection is closed, though nobody has looked before.
fn closed(context: &Context) -> Result<()> {
    let group = context.group()?;
    let server = context
        .on(group.runtime())
        .command(["redis-server", "--save", "", "--protected-mode", "no"])
        .start()?;
    server.wait_for_log("Ready to accept connections")?;
    for _ in 0..2 {
        context
            .on(group.runtime())
            .network(&format!("container:{}", server.name))
            .command(["redis-cli", "-r", "100", "-i", "0.005", "ping"])
            .run()?
            .expect(0)?;
    }
    let id = server.id()?;
    let labels = [("container", id.as_str())];
    context.eventually(Duration::from_secs(10), || {
        let text = pegasus(context, &["metrics"])?.expect(0)?.stdout;
        let open = series(&text, "pegasus_connections", &[("group", group.name())])?;
        ensure!(open == Some(0.0), "{text}");
        // "+PONG" a hundred times, twice; the first few may have gone through Linux.
        let sent = series(&text, "pegasus_container_ring_sent_bytes_total", &labels)?;
        let received = series(
            &text,
            "pegasus_container_ring_received_bytes_total",
            &labels,
        )?;
        ensure!(sent > Some(1000.0) && received > Some(1000.0), "{text}");
        Ok(())
    })
}

fn absent(context: &Context) -> Result<()> {
    for args in [
        &["ss", "nobody"][..],
        &["top", "--once", "nobody"],
        &["ss", "--group", "nobodys"],
    ] {
        let refused = pegasus(context, args)?;
        ensure!(
            refused.status == 1 && refused.stderr.contains("nobody"),
            "{}",
            refused.describe()
        );
    }
    Ok(())
}
