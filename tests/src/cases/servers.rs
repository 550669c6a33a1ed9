//! Real servers from Debian: those that fork, that use threads, that are written in Go.

use crate::harness::case::Case;
use crate::harness::container::Container;
use crate::harness::context::Context;
use anyhow::{Result, ensure};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::each("servers::redis", redis),
        Case::each("servers::redis_saves_in_a_child", redis_bgsave),
        Case::each("servers::redis_benchmark", redis_benchmark).limit(120),
        Case::each("servers::nginx_master_and_workers", nginx),
        Case::each("servers::memcached", memcached),
        Case::each("servers::caddy", caddy),
        Case::each("servers::python_preforked", preforked),
    ]
}

fn start_redis<'c, 'a>(context: &'c Context<'a>) -> Result<Container<'c, 'a>> {
    let server = context
        .container()
        .command(["redis-server", "--dir", "/tmp", "--protected-mode", "no"])
        .start()?;
    server.wait_for_log("Ready to accept connections")?;
    Ok(server)
}

fn redis(context: &Context) -> Result<()> {
    let server = start_redis(context)?;
    let ask = |words: &[&str]| server.ask([&["redis-cli"], words].concat());
    ensure!(ask(&["set", "key", "value"])? == "OK");
    ensure!(ask(&["get", "key"])? == "value");
    ensure!(
        ask(&[
            "eval",
            "return redis.call('get', KEYS[1]) .. '!'",
            "1",
            "key"
        ])? == "value!"
    );
    ensure!(ask(&["config", "get", "dir"])? == "dir\n/tmp");
    let info = ask(&["info", "server"])?;
    ensure!(
        info.contains("process_id:1\r") || info.contains("process_id:1\n"),
        "{info}"
    );
    server.docker(&["stop"])?;
    ensure!(server.wait()? == 0, "{}", server.logs()?);
    Ok(())
}

fn redis_bgsave(context: &Context) -> Result<()> {
    let server = start_redis(context)?;
    server.ask(["redis-cli", "debug", "populate", "100000", "key", "100"])?;
    let before = server.ask(["redis-cli", "lastsave"])?;
    std::thread::sleep(Duration::from_millis(1100));
    ensure!(server.ask(["redis-cli", "bgsave"])?.contains("started"));
    for n in 0..20 {
        server.ask(["redis-cli", "set", &format!("during-{n}"), "x"])?;
    }
    context.eventually(Duration::from_secs(20), || {
        ensure!(
            server.ask(["redis-cli", "lastsave"])? != before,
            "no new save: {}",
            server.logs()?
        );
        Ok(())
    })?;
    ensure!(
        server
            .ask(["redis-cli", "info", "persistence"])?
            .contains("rdb_last_bgsave_status:ok")
    );
    ensure!(
        server
            .ask(["redis-check-rdb", "/tmp/dump.rdb"])?
            .contains("RDB looks OK")
    );
    ensure!(
        server
            .ask(["redis-cli", "bgrewriteaof"])?
            .contains("started")
    );
    context.eventually(Duration::from_secs(20), || {
        let info = server.ask(["redis-cli", "info", "persistence"])?;
        ensure!(
            info.contains("aof_rewrite_in_progress:0")
                && info.contains("aof_last_bgrewrite_status:ok"),
            "{info}"
        );
        Ok(())
    })
}

fn redis_benchmark(context: &Context) -> Result<()> {
    let server = start_redis(context)?;
    let network = format!("container:{}", server.name);
    let done = context
        .container()
        .network(&network)
        .command([
            "redis-benchmark",
            "-n",
            "20000",
            "-c",
            "20",
            "-q",
            "-t",
            "ping,set,get,incr,lpush,mset",
        ])
        .run()?
        .expect(0)?;
    ensure!(
        done.stdout.matches("requests per second").count() >= 6,
        "{}",
        done.describe()
    );
    let threads = [
        "redis-benchmark",
        "-n",
        "20000",
        "-c",
        "20",
        "-q",
        "-t",
        "get",
        "--threads",
        "3",
        "-P",
        "8",
    ];
    context
        .container()
        .network(&network)
        .command(threads)
        .run()?
        .expect(0)?;
    Ok(())
}

const FETCH: &str = "import urllib.request as u, sys\n\
    for n in range(int(sys.argv[2])):\n\
    \x20   r = u.urlopen(sys.argv[1], timeout=10); body = r.read()\n\
    print(r.status, len(body))";

fn nginx(context: &Context) -> Result<()> {
    let script = "head -c 100000 /dev/zero | tr '\\0' x > /var/www/html/big; sed -i 's/^worker_processes.*/worker_processes 3;/; s/^error_log.*//' /etc/nginx/nginx.conf; exec nginx -g 'daemon off; error_log stderr info;'";
    let server = context.container().shell(script).start()?;
    server.wait_for_log("start worker process")?;
    context.eventually(Duration::from_secs(10), || {
        server.ask(["python3", "-c", FETCH, "http://127.0.0.1/big", "1"])
    })?;
    ensure!(server.ask(["python3", "-c", FETCH, "http://127.0.0.1/big", "100"])? == "200 100000");
    let count = "ps -eo args | grep -c '^nginx: worker process$'";
    ensure!(
        server.ask(["sh", "-c", count])? == "3",
        "{}",
        server.ask(["ps", "-ef"])?
    );
    server.ask(["nginx", "-s", "reload"])?;
    ensure!(server.ask(["python3", "-c", FETCH, "http://127.0.0.1/big", "20"])? == "200 100000");
    // A worker that dies is replaced.
    server.ask([
        "sh",
        "-c",
        "kill -9 $(ps -eo pid,args | awk '/nginx: worker process$/ {print $1; exit}')",
    ])?;
    context.eventually(Duration::from_secs(10), || {
        ensure!(server.ask(["sh", "-c", count])? == "3");
        Ok(())
    })?;
    server.docker(&["kill", "--signal", "QUIT"])?;
    ensure!(server.wait()? == 0, "{}", server.logs()?);
    Ok(())
}

fn memcached(context: &Context) -> Result<()> {
    let server = context
        .container()
        .command(["memcached", "-u", "nobody", "-t", "4"])
        .start()?;
    let script = "import socket, threading\n\
        def talk(n):\n\
        \x20   s = socket.create_connection(('127.0.0.1', 11211), 10); f = s.makefile('rwb', buffering=0)\n\
        \x20   for i in range(200):\n\
        \x20       f.write(b'set k%d-%d 0 0 5\\r\\nhello\\r\\n' % (n, i)); assert f.readline() == b'STORED\\r\\n'\n\
        \x20       f.write(b'get k%d-%d\\r\\n' % (n, i)); assert [f.readline() for _ in range(3)][1] == b'hello\\r\\n'\n\
        ts = [threading.Thread(target=talk, args=(n,)) for n in range(8)]\n\
        [t.start() for t in ts]; [t.join() for t in ts]; print('done')";
    context.eventually(Duration::from_secs(20), || {
        ensure!(server.ask(["python3", "-c", script])? == "done");
        Ok(())
    })
}

fn caddy(context: &Context) -> Result<()> {
    let options = [
        "-e",
        "HOME=/tmp",
        "-e",
        "XDG_DATA_HOME=/tmp",
        "-e",
        "XDG_CONFIG_HOME=/tmp",
    ];
    let server = context
        .container()
        .options(options)
        .command([
            "caddy",
            "respond",
            "--listen",
            "127.0.0.1:8080",
            "--body",
            "from caddy",
        ])
        .start()?;
    context.eventually(Duration::from_secs(20), || {
        let said = server.ask(["python3", "-c", FETCH, "http://127.0.0.1:8080/", "50"])?;
        ensure!(said == "200 10", "{said}\n{}", server.logs()?);
        Ok(())
    })
}

/// Children share a listening socket and die and are replaced.
fn preforked(context: &Context) -> Result<()> {
    let script = "import socket, os, signal\n\
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 8000)); s.listen(64)\n\
        def worker():\n\
        \x20   for _ in range(10):\n\
        \x20       c, _ = s.accept(); c.sendall(b'pid %d\\n' % os.getpid()); c.close()\n\
        \x20   os._exit(0)\n\
        def start():\n\
        \x20   if os.fork() == 0: worker()\n\
        for _ in range(3): start()\n\
        print('ready', flush=True)\n\
        while True: os.wait(); start()";
    let client = "import socket\n\
        seen = set()\n\
        for _ in range(100):\n\
        \x20   c = socket.create_connection(('127.0.0.1', 8000), 10); seen.add(c.makefile().readline()); c.close()\n\
        print(len(seen) >= 10)";
    let server = context
        .container()
        .command(["python3", "-c", script])
        .start()?;
    server.wait_for_log("ready")?;
    ensure!(server.ask(["python3", "-c", client])? == "True");
    Ok(())
}
