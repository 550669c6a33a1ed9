//! Networks: none, the host's, a bridge with published ports, another container's.

use crate::harness::case::Case;
use crate::harness::context::Context;
use crate::harness::host::{in_network_of, namespace};
use anyhow::{Context as _, Result, ensure};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const SERVER: &str = "import http.server as h\n\
    class H(h.BaseHTTPRequestHandler):\n\
    \x20   def do_GET(self):\n\
    \x20       self.send_response(200); self.end_headers(); self.wfile.write(b'answer ' + self.path.encode())\n\
    \x20   def log_message(self, *a): pass\n\
    s = h.ThreadingHTTPServer(('', 80), H); print('listening', flush=True); s.serve_forever()";

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("network::none", none),
        Case::each("network::host", host),
        Case::each("network::bridge", bridge),
        Case::each("network::published_port", published),
        Case::each("network::of_another_container", container),
        Case::each("network::name_resolution_files", resolution),
        Case::each("network::user_defined_bridge", user_defined),
    ]
}

fn none(context: &Context) -> Result<()> {
    context.compare(|spec| {
        spec.shell(
            "ip -o link | awk '{print $2, $3, $9}'; ip -o addr | awk '{print $2, $4}'; ip route",
        )
    })?;
    let client = "import socket\nfor a in ('192.0.2.1', '127.0.0.1'):\n  try: socket.create_connection((a, 9), 1)\n  except OSError as e: print(e.errno)";
    context.compare(|spec| spec.command(["python3", "-c", client]))?;
    Ok(())
}

fn host(context: &Context) -> Result<()> {
    let container = context
        .container()
        .network("host")
        .command(["sleep", "300"])
        .start()?;
    ensure!(namespace(container.pid()?, "net")? == namespace(context.site().engine_pid, "net")?);
    ensure!(container.ask(["ip", "-o", "link"])?.contains("docker0"));
    Ok(())
}

fn serve<'c, 'a>(
    context: &'c Context<'a>,
    options: &[&str],
) -> Result<crate::harness::container::Container<'c, 'a>> {
    let server = context
        .container()
        .network("bridge")
        .options(options)
        .command(["python3", "-c", SERVER])
        .start()?;
    server.wait_for_log("listening")?;
    Ok(server)
}

fn fetch(address: &str) -> [String; 3] {
    let code = format!(
        "import urllib.request as u; print(u.urlopen('http://{address}/x', timeout=10).read().decode())"
    );
    ["python3".to_owned(), "-c".to_owned(), code]
}

fn bridge(context: &Context) -> Result<()> {
    let server = serve(context, &[])?;
    let address = server.address()?;
    let said = context
        .container()
        .network("bridge")
        .command(fetch(&address))
        .output()?;
    ensure!(said == "answer /x", "{said}");
    ensure!(server.ask(fetch("127.0.0.1"))? == "answer /x");
    Ok(())
}

fn published(context: &Context) -> Result<()> {
    let server = serve(context, &["-p", "80"])?;
    let port: u16 = server
        .inspect("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}")?
        .parse()?;
    let address = server.address()?;
    for (host, port) in [("127.0.0.1".to_owned(), port), (address, 80)] {
        let said = in_network_of(context.site().engine_pid, || {
            let mut stream = TcpStream::connect((host.as_str(), port))
                .with_context(|| format!("connecting to {host}:{port}"))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(b"GET /p HTTP/1.0\r\n\r\n")?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        })?;
        ensure!(said.ends_with("answer /p"), "{host}:{port}: {said}");
    }
    Ok(())
}

fn container(context: &Context) -> Result<()> {
    let server = serve(context, &[])?;
    let other = context
        .container()
        .network(&format!("container:{}", server.name))
        .command(fetch("127.0.0.1"));
    ensure!(other.output()? == "answer /x");
    let idle = context
        .container()
        .network(&format!("container:{}", server.name))
        .command(["sleep", "300"])
        .start()?;
    ensure!(namespace(idle.pid()?, "net")? == namespace(server.pid()?, "net")?);
    ensure!(namespace(idle.pid()?, "pid")? != namespace(server.pid()?, "pid")?);
    let shared_ipc = format!("container:{}", server.name);
    let joined = context
        .container()
        .options(["--pid", &shared_ipc])
        .command(["sleep", "300"])
        .start()?;
    ensure!(namespace(joined.pid()?, "pid")? == namespace(server.pid()?, "pid")?);
    ensure!(joined.ask(["cat", "/proc/1/comm"])? == "python3");
    Ok(())
}

fn resolution(context: &Context) -> Result<()> {
    let options = [
        "--add-host",
        "mare:192.0.2.7",
        "--dns",
        "192.0.2.53",
        "--hostname",
        "foal",
    ];
    context.compare(|spec| {
        spec.network("bridge")
            .options(options)
            .shell("getent hosts mare; cat /etc/resolv.conf; grep -c foal /etc/hosts")
    })?;
    Ok(())
}

fn user_defined(context: &Context) -> Result<()> {
    let name = context.unique();
    context
        .docker(["network", "create", "--label", &context.label(), &name])?
        .expect(0)?;
    let result = (|| {
        let server = context
            .container()
            .network(&name)
            .options(["--network-alias", "web"])
            .command(["python3", "-c", SERVER])
            .start()?;
        server.wait_for_log("listening")?;
        // The engine's name server listens on an address inside the container.
        let said = context
            .container()
            .network(&name)
            .command(fetch("web"))
            .output()?;
        ensure!(said == "answer /x", "{said}");
        server.docker(&["rm", "--force"])?;
        Ok(())
    })();
    context.clean_up()?;
    context.docker(["network", "rm", &name])?.expect(0)?;
    result
}
